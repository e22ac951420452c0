"""The fence around third-party decoders: their exceptions and warnings quote the file, so neither comes through."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from prelim.errors import InputError, TooLarge, UnreadableInput

# pydicom logs the values it finds invalid, Pillow logs every TIFF and Exif value at DEBUG: both are patient data.
for _name in ("pydicom", "PIL", "pylibjpeg", "openjpeg", "tifffile"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

# `warnings.catch_warnings` changes the whole process, so two threads inside it would undo each other's filter.
_WARNINGS_LOCK = threading.RLock()


@contextmanager
def fence(what: str) -> Iterator[None]:
    """Run third-party decoding: silent, and with no exception but InputError.

    what : subject of the error message, e.g. "the PNG image"; must not quote the input

    Raises UnreadableInput (400) for whatever the decoder raises, TooLarge (413) if it runs out of memory.
    """
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except InputError:
            raise
        except MemoryError:
            raise TooLarge(f"{what} needs more memory than is available; send it reduced") from None
        # Damaged files make Pillow, pydicom, gdcm, pylibjpeg and pyjpegls raise nearly every built-in type (seen:
        # OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, AttributeError, NotImplementedError,
        # RecursionError, struct.error, zlib.error, AssertionError), and this list changes with every release.
        # `from None` because a logged chain would quote the input.
        except Exception as error:  # noqa: BLE001 - see above
            raise UnreadableInput(
                f"{what} cannot be decoded ({type(error).__name__}): it is damaged or truncated; send it again"
            ) from None


def allow_cpu_seconds(seconds: float) -> None:
    """Let the process that decodes go on for so many seconds of CPU time, if its limit is lower."""
    left, _ = signal.getitimer(signal.ITIMER_PROF)
    if 0 < left < seconds:
        signal.setitimer(signal.ITIMER_PROF, seconds)
