"""What stops a launch."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType


class LaunchError(Exception):
    """The server cannot be started, or does not serve. The message says why and what to do."""


WAYS_OUT: Mapping[int | None, str] = MappingProxyType(
    {
        errno.ENOSPC: "make room on its disk (`df`, and `df -i` for the number of files)",
        errno.EDQUOT: "make room within this user's quota",
        errno.EROFS: "its disk is mounted read-only; mount it for writing",
        errno.EACCES: "give this user the right to read and write there",
        errno.EPERM: "give this user the right to read and write there",
    }
)


@contextmanager
def using(path: Path) -> Iterator[None]:
    """Raise LaunchError for an OSError, with the file, the reason, and what to do about it.

    path : that is named if the error itself names none
    """
    try:
        yield
    except OSError as error:
        way_out = WAYS_OUT.get(error.errno)
        reason = error.strerror or type(error).__name__
        named = error.filename or path
        raise LaunchError(f"{named} cannot be used ({reason}){f': {way_out}' if way_out else ''}") from error
