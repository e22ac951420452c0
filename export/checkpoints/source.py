"""Where the files come from that an import reads: from this machine, or from a hub."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from export.checkpoints import hub
from export.checkpoints.checkpoint import SETTINGS, WEIGHTS, checkpoint_files, weights_among
from export.tokenizers.read import expected_files, files_among, tokenizer_files
from prelim.errors import ArchiveError


@dataclass(frozen=True)
class Source:
    """What was given to the import.

    label : its name, of a hub's model with the commit; not the folders on this machine
    path  : file or folder
    files : those that the import reads, in the order of their names
    """

    label: str
    path: Path
    files: tuple[Path, ...]

    def file_label(self, file: Path) -> str:
        """The name of one of its files."""
        return self.label if file == self.path else f"{self.label}/{file.name}"


def checkpoint_source(given: str | Path) -> Source:
    """A checkpoint's file or folder, or the name of a hub's model that has one.

    Raises ArchiveError when it is neither, or cannot be had.
    """
    wanted = f"its weights ({', '.join(WEIGHTS)}, or an index of one with its shards) and {' or '.join(SETTINGS)}"

    def choose(names: Collection[str]) -> list[str]:
        weights = weights_among(names)
        return [*weights, *(name for name in SETTINGS if name in names)] if weights else []

    label, path = _located(given, choose, wanted)
    return Source(label, path, tuple(checkpoint_files(path)))


def tokenizer_source(kind: str, given: str | Path) -> Source:
    """A tokenizer's folder, one of its files, or the name of a hub's model that has it; see `read_tokenizer`.

    Raises ArchiveError when it is neither, or cannot be had.
    """
    wanted = f"the files of its tokenizer ({expected_files(kind)})"
    label, path = _located(given, lambda names: files_among(kind, names), wanted)
    return Source(label, path, tuple(tokenizer_files(kind, path)))


def _located(given: str | Path, choose: Callable[[Collection[str]], Collection[str]], wanted: str) -> tuple[str, Path]:
    path = Path(given)
    if path.exists():
        return path.absolute().name, path
    if not hub.is_name(str(given)):
        raise ArchiveError(f"{given} is no file or folder here, and no name of a hub's model (OWNER/NAME[@REVISION])")
    return hub.download(str(given), choose, wanted)
