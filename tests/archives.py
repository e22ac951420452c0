"""Archives with other files in them."""

from collections.abc import Callable
from pathlib import Path

from prelim.archive.manifest import write_manifest
from prelim.archive.mar import unpack_mar, write_mar


def rewrite(archive: Path, change: Callable[[Path], None]) -> None:
    """Change the files of an archive; its manifest is right for them."""
    folder = archive.parent / ".unpacked"
    folder.mkdir()
    unpack_mar(archive, folder)
    change(folder)
    write_manifest(folder)
    write_mar(folder, archive)
