"""The interface of the modules of this package."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Unsupported(Exception):
    """The peer cannot run this job; the message gives the reason."""


class Peer(Protocol):
    """Protocol of the class `Peer` in each module; its arguments are the checkpoint's folder and a number of threads.

    precisions : supported precisions
    versions   : versions of the measured libraries
    note       : remark for readers of its figures
    """

    precisions: Sequence[str]
    versions: Mapping[str, str]
    note: str

    def load(self, precision: str) -> None:
        """Prepare for jobs in one of its precisions. Raises Unsupported."""

    def run(self, precision: str, prefixes: list[list[int]], beams: int, new_tokens: int) -> list[list[int]]:
        """Decode all prefixes together; returns exactly `new_tokens` best tokens of each. Raises Unsupported."""
