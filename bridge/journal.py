"""The log: one JSON object a line, of fields whose values cannot identify anybody.

What may appear is decided here and nowhere else: numbers, and words of a small alphabet from fields in a fixed list.
The log of libraries is off, because their messages quote UIDs, headers and addresses.
"""

import contextlib
import logging
import re
import sys
import traceback
import warnings
from typing import Final

from pydicom import config as pydicom_config

from terminal.log_lines import format_line

FIELDS: Final = frozenset(
    [
        *("study", "outcome", "reason", "attempts", "retry_s", "seconds", "bytes", "images", "weights", "warnings"),
        *("place", "port", "count", "request", "prior"),
    ]
)
WORD = re.compile(r"[A-Za-z0-9_.:,+-]{1,80}")

Value = str | int | float | bool


def log(event: str, **fields: Value) -> None:
    """Write one line to standard error.

    Raises ValueError for a field outside FIELDS, and for text that is not a word: a fault of the caller.
    """
    for name, value in fields.items():
        if name not in FIELDS or (isinstance(value, str) and not WORD.fullmatch(value)):
            raise ValueError(f"the field {name!r} may not be logged with this value")
    # A full disk or a closed pipe must not stop the work; standard error is then lost, and nothing else.
    with contextlib.suppress(OSError):
        print(format_line("bridge", event, **fields), file=sys.stderr, flush=True)


def describe_failure(error: BaseException) -> dict[str, str]:
    """Return the type of an exception and where in the bridge it came up; never its text, which may quote a header."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/bridge/" in frame.filename]
    place = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "unknown"
    return {"reason": type(error).__name__, "place": place}


def silence_libraries() -> None:
    """Turn off what libraries write: log records, warnings that quote values, and pydicom's validation of them."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
