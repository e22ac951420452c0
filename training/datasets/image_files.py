"""Image files of data sets: found by the names that data sets give them, written where they are in other files."""

import hashlib
from functools import cache
from pathlib import Path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff", ".webp", ".bmp")
"""In any case. BMP files are found, and then refused by the reader of images, whose message says what to do."""


class ImageFolder:
    """Finds image files by the names that data sets give them.

    roots : folders that names are relative to; the first that has a file wins
    """

    def __init__(self, *roots: Path) -> None:
        self._roots = roots
        self._listing = cache(_list_images)

    def find(self, *names: str) -> Path:
        """The file of the first name that is there; the first name in the first folder if none is.

        A file may have another image suffix than its name says, or one where the name has none, in any case; the rest
        of the name must be the same: `scan.1` is not `scan.2.png`.
        """
        for root in self._roots:
            for name in names:
                exact = root / name
                if exact.is_file():
                    return exact
                listed = self._listing(exact.parent).get(strip_suffixes(exact.name))
                if listed:
                    return listed
        return self._roots[0] / names[0]


def strip_suffixes(name: str) -> str:
    """A file name without the image suffixes at its end: `7.dcm.png` is `7`, `scan.1` stays."""
    while name.lower().endswith(IMAGE_SUFFIXES):
        name = name.rpartition(".")[0]
    return name


def list_images(folder: Path) -> list[Path]:
    """The image files directly in a folder, sorted; none where the folder does not exist."""
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.name.lower().endswith(IMAGE_SUFFIXES) and file.is_file())


def _list_images(folder: Path) -> dict[str, Path]:
    files = sorted(list_images(folder), key=lambda file: IMAGE_SUFFIXES.index(file.suffix.lower()), reverse=True)
    return {strip_suffixes(file.name): file for file in files}


_MAGIC = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"II*\x00": ".tif", b"MM\x00*": ".tif", b"RIFF": ".webp"}


def write_image(data: bytes, folder: Path) -> Path:
    """The file of an image that was inside another: named by its bytes, and written if it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    suffix = next((suffix for magic, suffix in _MAGIC.items() if data.startswith(magic)), ".dcm")
    file = folder / f"{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
    if not file.is_file():
        part = file.with_suffix(".part")
        part.write_bytes(data)
        part.replace(file)  # an interruption leaves no half image
    return file
