"""Archives of data sets: read to their end, or refused."""

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from training.datasets.study import DatasetError


def read_members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and contents of every file in a tar archive, compressed or not.

    Raises DatasetError for one that is damaged. `tarfile` ends silently at a damaged header in the middle: what comes
    after the last member must be zeros, and a compressed file must have the checksum that it says.
    """
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None:
                    yield member.name.removeprefix("./"), file.read()
            rest = archive.fileobj
            if rest is not None:
                rest.seek(archive.offset)
                while block := rest.read(1 << 20):
                    if any(block):
                        raise tarfile.ReadError("a header is damaged")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DatasetError(f"{path} is not a complete tar archive: {error}; fetch it again") from error


def unpack_images(images: Path) -> Path:
    """The folder of images; a .zip file is unpacked into a folder of its name next to it, once.

    Raises DatasetError where there is none, or the archive is damaged.
    """
    if images.is_dir():
        return images
    if not images.exists():
        raise DatasetError(
            f"the image folder {images} does not exist; give that of the image files (dataset.image_folder)"
        )
    folder, part = images.with_suffix(""), images.with_suffix(".part")
    if images.suffix.lower() != ".zip":
        raise DatasetError(f"the image folder {images} is a file; give a folder, or a .zip file of images")
    if not folder.is_dir():
        try:
            with zipfile.ZipFile(images) as archive:
                archive.extractall(part)  # noqa: S202 - zipfile keeps members below the folder
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DatasetError(f"{images} cannot be unpacked: {error}; fetch it again") from error
        part.replace(folder)  # an interruption leaves no half folder
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder
