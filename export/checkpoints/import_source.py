"""Locates the files of an import, locally or on the hub."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from export.checkpoints import hub
from export.checkpoints.checkpoint import WEIGHTS, checkpoint_files, find_weights
from export.checkpoints.settings import SETTINGS
from export.checkpoints.terms import terms_files
from prelim.errors import ArchiveError


@dataclass(frozen=True)
class ImportSource:
    """An input of the import.

    label : its name without local folders; with the commit for a model from the hub
    path  : file or folder
    files : the files that the import reads
    """

    label: str
    path: Path
    files: tuple[Path, ...]

    @property
    def folder(self) -> Path | None:
        """The folder that it is; None for a single file, whose neighbors may belong to anything."""
        return self.path if self.path.is_dir() else None

    def file_label(self, file: Path) -> str:
        """The name of one of its files for the model card."""
        return self.label if file == self.path else f"{self.label}/{file.name}"


def checkpoint_source(given: str | Path) -> ImportSource:
    """Locate a checkpoint: a file, a folder, or the name of a model on the hub.

    Raises ArchiveError if it does not exist or cannot be downloaded.
    """
    wanted = f"weights ({', '.join(WEIGHTS)}, sharded or not) and {' or '.join(SETTINGS)}"

    def choose(names: Collection[str]) -> list[str]:
        weights = find_weights(names)
        return [*weights, *(name for name in SETTINGS if name in names), *terms_files(names)] if weights else []

    label, path = locate(given, choose, wanted)
    return ImportSource(label, path, tuple(checkpoint_files(path)))


def locate(given: str | Path, choose: Callable[[Collection[str]], Collection[str]], wanted: str) -> tuple[str, Path]:
    """Label and path of a local file or folder, or of what is downloaded from the hub.

    choose : picks the names of a repository's files that are needed; empty if these are not what is wanted
    wanted : which files these are, for messages

    Raises ArchiveError if there is no such file, folder or model, or if it cannot be downloaded.
    """
    path = Path(given)
    if path.exists():
        return path.absolute().name, path
    if not hub.is_name(str(given)):
        raise ArchiveError(f"{given} is neither a local file or folder nor a valid model name (OWNER/NAME[@REVISION])")
    return hub.download(str(given), choose, wanted)
