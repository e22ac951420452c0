"""The log of launcher and gateway: what they do to the server, one line of JSON each, in logs/launcher.log."""

import contextlib
import os
from pathlib import Path

from launcher.console import LIMIT, set_aside
from terminal.log_lines import Value, format_line

LOGS = "logs"
"""Folder of all logs, in the server's folder."""


def make_log_folder(folder: Path) -> Path:
    """The folder of the logs of the server in this folder, which only this user can read."""
    logs = folder / LOGS
    logs.mkdir(mode=0o700, exist_ok=True)
    # Of an earlier version, or made by TorchServe itself.
    with contextlib.suppress(OSError):
        logs.chmod(0o700)
    return logs


def log(folder: Path, program: str, event: str, **fields: Value) -> None:
    """Write one line.

    folder  : of the server
    program : "launcher" or "gateway"
    """
    # A full disk must not stop the work.
    with contextlib.suppress(OSError):
        file = make_log_folder(folder) / "launcher.log"
        if file.exists() and file.stat().st_size > LIMIT:
            set_aside(file)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as opened:
            opened.write(format_line(program, event, **fields) + "\n")
