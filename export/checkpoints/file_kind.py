"""Recognizes files that are not checkpoints by their first and last bytes."""

import zipfile
from pathlib import Path

from prelim.errors import ArchiveError

SMALLEST = 10
"""Bytes of the smallest file of tensors."""

_STARTS = {
    b"\x1f\x8b": "compressed with gzip; unpack it",
    b"BZh": "compressed with bzip2; unpack it",
    b"\xfd7zXZ\x00": "compressed with xz; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it",
    b"\x04\x22\x4d\x18": "compressed with lz4; unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it",
    b"Rar!\x1a\x07": "a RAR archive; unpack it",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file; save the weights as safetensors, or a Keras model as .keras",
    b"\x93NUMPY": "a NumPy array; save the weights with torch.save or as safetensors",
    b"%PDF-": "a PDF; download the weights",
    b"\x89PNG\r\n": "an image; download the weights",
    b"\xff\xd8\xff": "an image; download the weights",
}
"""First bytes of a file -> what it is, and the way out."""

_POINTERS = {
    "version https://git-lfs.github.com": "of Git LFS, not the file itself; fetch it with `git lfs pull`",
    "# xet version": "of Xet, not the file itself; download it from the hub again",
    "/annex/objects/": "of git-annex, not the file itself; fetch it with `git annex get`",
}
_PAGES = ("<!doctype", "<html", "<?xml", "<head", "<!--", "<body")
_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def check_whole(path: Path, smallest: int = SMALLEST) -> None:
    """Refuse what is not a published file, weights or tokenizer, with the true reason.

    smallest : bytes that it has at least

    Raises ArchiveError for an empty file, a pointer of Git LFS or the like, a page of a web site, a compressed file or
    another format, and a zip file that is cut off.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(_START)
            file.seek(max(0, size - (1 << 16) - 22))
            end = file.read()
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {error.strerror}") from error
    if size == 0:
        raise ArchiveError(f"{path} is empty; download it again")
    text = _text(start)
    for beginning, kind in _POINTERS.items():
        if text.startswith(beginning):
            raise ArchiveError(f"{path} is a pointer {kind}")
    if text[:64].lower().startswith(_PAGES):
        raise ArchiveError(f"{path} is a web page, not a checkpoint; download the file itself")
    for magic, kind in _STARTS.items():
        if start.startswith(magic):
            raise ArchiveError(f"{path} is {kind}")
    if start.startswith(b"PK\x03\x04") and b"PK\x05\x06" not in end:
        raise ArchiveError(f"{path} is cut off: its zip directory, which is at the end, is missing; download it again")
    if size < smallest:
        raise ArchiveError(f"{path} has {size} bytes, which cannot be a checkpoint")


def check_binary(path: Path) -> None:
    """Raise ArchiveError for a text file, such as the error message that a server sent instead of the weights."""
    with path.open("rb") as file:
        text = _text(file.read(_START))
    if text:
        kind = "a JSON file" if text.startswith(("{", "[")) else "a text file"
        raise ArchiveError(
            f"{path} is {kind}, not a checkpoint; perhaps a server sent an error message instead: download it again"
        )


def _text(start: bytes) -> str:
    """The first bytes as text, without a byte order mark and blanks at its beginning; empty if they are not text."""
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), "utf-8")
    try:
        text = start.decode(encoding)
    except UnicodeDecodeError as error:
        # The last character may be cut.
        if len(start) < _START or error.start < _START - 4:
            return ""
        text = start[: error.start].decode(encoding, errors="ignore")
    return text.lstrip("\ufeff \t\r\n\f\v") if text.translate(_BLANKS).isprintable() else ""


_START = 512
"""Bytes of a file's beginning that are looked at."""

_BLANKS = {ord(character): " " for character in "\ufeff\t\r\n\f\v"}


def check_zip(path: Path) -> None:
    """Raise ArchiveError for a zip file that torch.save did not write, naming what it is."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise ArchiveError(f"{path} is damaged: {error}; download it again") from error
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        return
    if names and all(name.endswith(".npy") for name in names):
        raise ArchiveError(f"{path} is an archive of NumPy arrays; save the weights with torch.save or as safetensors")
    if "MAR-INF/MANIFEST.json" in names:
        raise ArchiveError(f"{path} is a model archive of TorchServe; give the checkpoint that it was made from")
    if {"config.json", "metadata.json"} <= set(names):
        raise ArchiveError(f"{path} is a Keras model; give it the suffix .keras")
    raise ArchiveError(
        f"{path} is a zip archive of {len(names)} other files, without the data.pkl of torch.save; unpack it and give "
        "the weights file in it"
    )
