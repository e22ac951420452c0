"""What the modules of this package have in common."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Refused(Exception):
    """The peer cannot do this job; the text says why."""


class Peer(Protocol):
    """What a module of this package calls `Peer`: made with the checkpoint's folder and a number of threads.

    precisions : that it computes in
    versions   : of the libraries that it measures
    note       : what a reader of its figures must know
    """

    precisions: Sequence[str]
    versions: Mapping[str, str]
    note: str

    def load(self, precision: str) -> None:
        """Make ready for jobs in one of its precisions. Raises Refused."""

    def run(self, precision: str, prefixes: list[list[int]], beams: int, new_tokens: int) -> list[list[int]]:
        """Decode all prefixes together, and give the best tokens of each, exactly `new_tokens`. Raises Refused."""
