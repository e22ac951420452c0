"""API keys of the gateway's clients, and TorchServe's key, which clients never see."""

import base64
import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

from launcher.errors import LaunchError, using
from launcher.server import Server

_NAME = re.compile(r"[a-z0-9-]{1,32}")
_WORDS = ("default", "include")
"""Which nginx's `map`, where the keys are, would not take for names."""
_LINE = re.compile(r"[a-z0-9-]{1,32} [A-Za-z0-9_-]{22};")

RENEW_BEFORE = timedelta(days=1)
"""TorchServe's keys are renewed when they are valid for less than this."""

RENEWED = ("inference", "management")
"""Those that expire. The third, API, renews them."""


def add_key(file: Path, name: str) -> str:
    """Add a client to a file of keys; returns its key, which is not kept anywhere.

    Raises LaunchError for a name that is not allowed or is in use, and for a file that cannot be written.
    """
    if not _NAME.fullmatch(name) or name in _WORDS:
        raise LaunchError(
            f"the client's name is {name!r}; allowed: 1 to 32 of a-z, 0-9 and -, and not {' or '.join(_WORDS)}"
        )
    lines = check_keys(file) if file.exists() else []
    if any(line.startswith(f"{name} ") for line in lines):
        raise LaunchError(f"{file} has a key of {name}; remove its line to replace it")
    secret = secrets.token_urlsafe(32)
    hashed = base64.urlsafe_b64encode(hashlib.md5(secret.encode(), usedforsecurity=False).digest()).decode().rstrip("=")
    with using(file):
        write_private(file, "\n".join([*lines, f"{name} {hashed};", ""]))
    return f"{name}.{secret}"


def check_keys(file: Path) -> list[str]:
    """The lines of a file of keys. Raises LaunchError for a line that is not one, and if others may write the file."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
        mode = file.stat().st_mode
    except (OSError, ValueError) as error:
        raise LaunchError(f"{file} cannot be read ({type(error).__name__}); add-key writes it") from None
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise LaunchError(f"{file} is open to other users: chmod 600 {file}")
    for number, line in enumerate(lines, start=1):
        if not _LINE.fullmatch(line):
            raise LaunchError(f"line {number} of {file} is not a client's name, the hash of its key, and ;")
    names = [line.split()[0] for line in lines]
    for name in names:
        if name in _WORDS or names.count(name) > 1:
            raise LaunchError(f"{file} has the client {name} twice, or it is a word of nginx: give it another name")
    return lines


def read_token(file: Path) -> str:
    """The token in a file of the site. Raises LaunchError if it cannot be read or is empty."""
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise LaunchError(f"drafts_token: {file} cannot be read ({type(error).__name__})") from None
    if not token:
        raise LaunchError(f"drafts_token: {file} is empty")
    return token


def current_key(server: Server) -> str:
    """TorchServe's inference key. Empty while TorchServe does not run."""
    with contextlib.suppress(OSError, ValueError, LookupError):
        return server.key()
    return ""


def expiring(server: Server) -> list[str]:
    """Which of TorchServe's keys expire soon: "inference", "management"."""
    try:
        entries = json.loads(server.key_file.read_text(encoding="utf-8"))
        return [kind for kind in RENEWED if _expires_soon(str(entries.get(kind, {}).get("expiration time", "")))]
    except (OSError, ValueError, LookupError, AttributeError):
        return []


def expiry(server: Server) -> float:
    """When TorchServe's inference key expires, in seconds since 1970; 0 while there is none."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        return _time_of(
            json.loads(server.key_file.read_text(encoding="utf-8"))["inference"]["expiration time"]
        ).timestamp()
    return 0.0


def write_private(file: Path, text: str) -> None:
    """Replace a file at once by one that only this user can read."""
    temporary = file.with_name(f".{file.name}.new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
        opened.write(text)
    temporary.replace(file)


def _expires_soon(time: str) -> bool:
    """Whether a time is near; False for one that cannot be read."""
    try:
        return _time_of(time) - datetime.now(UTC) < RENEW_BEFORE
    except ValueError:
        return False


def _time_of(time: str) -> datetime:
    """A time such as 2026-11-28T12:00:00.000000Z. Raises ValueError."""
    at = datetime.fromisoformat(re.sub(r"\.\d+", "", time).replace("Z", "+00:00"))
    return at if at.tzinfo else at.replace(tzinfo=UTC)
