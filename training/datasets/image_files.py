"""Image files of data sets: found by the names that data sets give them, written where they are in other files."""

import hashlib
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import islice
from pathlib import Path

from training.datasets.study import DatasetError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff", ".webp", ".bmp")
"""In any case. BMP files are found, and then refused by the reader of images, whose message says what to do."""

MAX_NESTED = 4
"""Folders within each other that are looked into."""


ABSOLUTE = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?/")
"""How a path from a root begins, with `/` for Windows' separators: `/`, `C:/`, `//server/`, `https://`."""

NUMBERED = re.compile(r"(?:images?|imgs?|part|batch|chunk)[_-]?\d+")
"""Folders that share the images of a data set; a bare number may be a study."""


class ImageFolder:
    """Finds image files by the names that data sets give them.

    roots : folders that names are relative to; the first that has a file wins; a folder that is alone in one of
            them is another: archives often have one around all images
    """

    def __init__(self, *roots: Path) -> None:
        self._roots = tuple(folder for root in roots for folder in nest_folders(root))
        self._numbered = tuple(folder for root in roots for folder in _list_numbered(root))
        self._listing = cache(_list_images)
        self._elsewhere: str | None = None

    def find(self, *names: str) -> Path:
        """The file of the first name that is there; the first name in the first folder if none is.

        A file may have another image suffix than its name says, or one where the name has none, in any case; the rest
        of the name must be the same: `scan.1` is not `scan.2.png`.

        A name without a folder is also looked for in numbered folders (`images_001/images/`), as archives in parts
        unpack. A name may begin with the folder of images itself (`images/1.png` in `images`), and be written with
        Windows' separators, `./`, white space around it, or accents of their own (as a Mac writes them).

        Of a name that begins at a root (`C:/data/a/1.png`, `//server/a/1.png`) and is not on this disk, the first
        folders are cut, as few as are needed for a file to be there (`a/1.png`, then `1.png`), and the same of all
        other such names.

        Raises DatasetError where several files fit: `a` where there are a.png and a.jpg; and where a name would need
        another cut: of two files of one name in two folders none is taken for the other.
        """
        names = tuple(name.replace("\\", "/") for name in names)
        names = tuple(dict.fromkeys((*names, *map(_tidy, names))))
        return self._find_below(names) or self._find_from_elsewhere(names) or self._roots[0] / names[0]

    def _find_below(self, names: Sequence[str]) -> Path | None:
        for root in (*self._roots, *self._numbered):
            for name in names:
                if root in self._numbered and "/" in name:
                    continue
                own = f"{root.name}/" if root.name else ""
                for exact in dict.fromkeys((root / name, root / name.removeprefix(own))):
                    if _is_file(exact):
                        return exact
                    if listed := self._listing(exact.parent).get(_tidy(strip_suffixes(exact.name))):
                        return _choose_file(exact, listed)
        return None

    def _find_from_elsewhere(self, names: Sequence[str]) -> Path | None:
        """The file of the first name that begins at a root of another machine; None where none is here."""
        for name in names:
            folders = name.split("/")
            for count in range(1, len(folders) if ABSOLUTE.match(name) else 0):
                begin = "/".join(folders[:count])
                if file := self._find_below(["/".join(folders[count:]).lstrip("/")]):
                    cut = begin if self._elsewhere is None else self._elsewhere
                    if begin.casefold() != cut.casefold():
                        raise DatasetError(
                            f"{name} would be {file}, but {begin} was cut of it, and {cut} of other names: it may be "
                            "another picture; lay the folder of images out as the names say, or shorten the names"
                        )
                    self._elsewhere = begin
                    return file
        return None


def explain_missing(image: Path) -> str:
    """What to do about a file that is not there, if its name begins at a root of another machine; else nothing."""
    drive = next((part for part in image.parts if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:", part)), None)
    if drive is None and not image.as_posix().startswith("//"):
        return ""
    return (
        f" (a name that begins at {drive or '//'} is of another machine: in the image folder there must be a file of "
        "that name, with all, some or none of its folders, the same ones for all images)"
    )


def strip_suffixes(name: str) -> str:
    """A file name without the image suffixes at its end: `7.dcm.png` is `7`, `scan.1` stays."""
    while name.lower().endswith(IMAGE_SUFFIXES):
        name = name.rpartition(".")[0]
    return name


def list_images(folder: Path) -> list[Path]:
    """The image files directly in a folder, sorted; none where the folder does not exist."""
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if is_image(file.name) and file.is_file())


def is_image(name: str) -> bool:
    """Whether a file name is that of an image; `._a.png` is what a Mac writes next to a.png."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("._")


def nest_folders(root: Path) -> list[Path]:
    """The folder, and the one that is alone in it, and so on: images of an archive are in any of them."""
    folders = [root]
    while len(folders) < MAX_NESTED and folders[-1].is_dir():
        inside = list(islice((item for item in folders[-1].iterdir() if not item.name.startswith(".")), 2))
        if len(inside) != 1 or not inside[0].is_dir():
            break
        folders.append(inside[0])
    return folders


def find_folder(root: Path, name: str) -> Path:
    """The folder of a name in a root or in a folder that is alone in it; that in the root where none is there."""
    return next((folder / name for folder in nest_folders(root) if (folder / name).is_dir()), root / name)


def _list_numbered(root: Path) -> list[Path]:
    """`images_001`, `images_002` and so on, or what is alone in them."""
    if not root.is_dir():
        return []
    with os.scandir(root) as inside:
        found = sorted(item.name for item in inside if NUMBERED.fullmatch(item.name.lower()) and item.is_dir())
    return [nest_folders(root / name)[-1] for name in found]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _list_images(folder: Path) -> dict[str, list[Path]]:
    listed: dict[str, list[Path]] = defaultdict(list)
    for file in list_images(folder):
        listed[_tidy(strip_suffixes(file.name))].append(file)
    return dict(listed)


def _tidy(name: str) -> str:
    """A name without `./`, doubled separators and white space around it, and with composed accents."""
    return unicodedata.normalize("NFC", posixpath.normpath(name.strip()))


def _choose_file(name: Path, files: Sequence[Path]) -> Path:
    """The one file that fits a name: of its kind (.jpeg is .jpg) if there are several."""
    kinds = [file for file in files if _name_kind(file) == _name_kind(name)]
    chosen = kinds if len(kinds) == 1 else files
    if len(chosen) > 1:
        raise DatasetError(
            f"{', '.join(file.name for file in chosen)} in {name.parent} fit the image name {name.name!r}; "
            "name one of them, or remove the others"
        )
    return chosen[0]


def _name_kind(file: Path) -> str:
    suffix = file.suffix.lower()
    return {".jpeg": ".jpg", ".tiff": ".tif", ".dicom": ".dcm"}.get(suffix, suffix)


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
