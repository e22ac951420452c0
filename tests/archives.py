"""Archives with other files in them, and without code."""

from collections.abc import Callable
from pathlib import Path

from export.package import Settled, write_model_files
from prelim.archive.manifest import write_manifest
from prelim.archive.mar import unpack_mar, write_mar
from prelim.networks.model_folder import Model


def rewrite(archive: Path, change: Callable[[Path], None]) -> None:
    """Change the files of an archive; its manifest is right for them."""
    folder = archive.parent / ".unpacked"
    folder.mkdir()
    unpack_mar(archive, folder)
    change(folder)
    write_manifest(folder)
    write_mar(folder, archive)


def write_files(model: Model, folder: Path) -> None:
    """Write an archive without its code; `ReportGenerator` can load it."""
    write_model_files(Settled(model, model.config.served_encoder), folder)
    write_manifest(folder)
