"""Archives of data sets: read to their end, or refused."""

import hashlib
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


def is_zip(path: Path) -> bool:
    """Whether a file is a zip archive, and not a table or tar file that is or holds one."""
    other = (".xlsx", ".parquet", ".tar", ".tgz", ".gz")
    return path.is_file() and path.suffix.lower() not in other and zipfile.is_zipfile(path)


def unpack_images(images: Path) -> Path:
    """The folder of images; a .zip file is unpacked once, into a folder next to it.

    The folder has the name of the archive and a hash of what it lists, so another archive has another folder.

    Raises DatasetError where there is none, or the archive is damaged or has a password.
    """
    if images.is_dir():
        return images
    if not images.exists():
        raise DatasetError(
            f"the image folder {images} does not exist; give that of the image files (dataset.image_folder)"
        )
    if images.suffix.lower() != ".zip":
        raise DatasetError(f"the image folder {images} is a file; give a folder, or a .zip file of images")
    try:
        with zipfile.ZipFile(images) as archive:
            members = [item for item in archive.infolist() if "__MACOSX" not in item.filename]
            listed = repr([(item.filename, item.CRC, item.file_size) for item in members])
            name = f"{images.stem}-{hashlib.sha256(listed.encode()).hexdigest()[:12]}"
            folder, part = images.with_name(name), images.with_name(f"{name}.part")
            if not folder.is_dir():
                archive.extractall(part, members)  # noqa: S202 - zipfile keeps members below the folder
                part.replace(folder)  # an interruption leaves no half folder
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DatasetError(f"{images} cannot be unpacked: {error}; fetch it again") from error
    except (RuntimeError, NotImplementedError) as error:  # a password, a compression that Python does not have
        raise DatasetError(f"{images} cannot be unpacked: {error}; unpack it yourself and give the folder") from error
    return folder
