"""Text files as people save them: UTF-8, or UTF-16 and UTF-32 as spreadsheets and Windows write them."""

import codecs
import gzip
import re
from pathlib import Path

from training.datasets.study import DatasetError

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WITHOUT_MARK = ((rb"[^\0]\0[^\0]\0", "utf-16-le"), (rb"\0[^\0]\0[^\0]", "utf-16-be"))
"""Two characters such as those that a table or JSON begins with (RFC 4627, section 3)."""


def name_encoding(begin: bytes) -> str:
    """The encoding of a text by its first four bytes: what its byte order mark says, else UTF-8.

    Without a mark UTF-16 is known by its zeros, which UTF-8 has none of.
    """
    marked = next((name for mark, name in _MARKS if begin.startswith(mark)), None)
    return marked or next((name for shape, name in _WITHOUT_MARK if re.match(shape, begin)), "utf-8-sig")


def find_encoding(path: Path) -> str:
    """The encoding of a text file, which is unpacked where its name ends with .gz. Raises OSError, EOFError."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        return name_encoding(file.read(4))


def decode_text(data: bytes) -> str:
    """A text in any of these encodings. Raises UnicodeDecodeError."""
    return data.decode(name_encoding(data))


def refuse_encoding(path: Path, error: UnicodeDecodeError) -> DatasetError:
    """The error for a file that is not in its encoding, with the line where that can be told."""
    if error.encoding.startswith("utf-8"):
        return DatasetError(f"{path} is not UTF-8{_find_line(path, error)}; save it again as UTF-8")
    return DatasetError(f"{path} is not complete {error.encoding.upper()} ({error.reason}); save it again as UTF-8")


def _find_line(path: Path, error: UnicodeDecodeError) -> str:
    if path.suffix == ".gz":
        return f" ({error.reason})"
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            line.decode("utf-8-sig")
        except UnicodeDecodeError:
            return f": line {number} has other bytes"
    return f" ({error.reason})"
