"""TorchServe's process: found by its own pid file, ended with its workers, and swept up after."""

import contextlib
import fcntl
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

from launcher.errors import LaunchError, using

PID_FILE = ".model_server.pid"
NAMESPACE = "org.pytorch.serve.ModelServer"
LOCK = ".launcher.lock"
CONFIG = "config.properties"
"""The settings of one start, where they differ from the folder's."""


def find_server(temporary: Path) -> psutil.Process | None:
    """The server whose temporary folder this is, also one that `torchserve --start` has started."""
    try:
        process = psutil.Process(int((temporary / PID_FILE).read_text(encoding="ascii")))
        # The id may be that of another program by now.
        return process if not has_ended(process) and NAMESPACE in process.cmdline() else None
    except (OSError, ValueError, psutil.Error):
        return None


def find_in_folder(folder: Path) -> psutil.Process | None:
    """A server that was started in this folder, whatever its temporary folder and ports are.

    Another one in the same folder would replace its key_file.json.
    """
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if NAMESPACE in process.cmdline() and Path(process.cwd()) == folder.resolve():
                return process
    return None


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended, even if its parent has not yet asked for its exit code."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def count_connections(process: psutil.Process | None, ports: Collection[int]) -> int:
    """Clients that are connected to these ports of a server."""
    with contextlib.suppress(psutil.Error):
        connections = process.net_connections("tcp") if process is not None else []
        return sum(each.status == psutil.CONN_ESTABLISHED and each.laddr.port in ports for each in connections)
    return 0


def worker_seconds(process: psutil.Process | None) -> float:
    """CPU time that a server's workers, and what they have started, have used."""
    used = 0.0
    with contextlib.suppress(psutil.Error):
        for worker in process.children(recursive=True) if process is not None else []:
            with contextlib.suppress(psutil.Error):
                times = worker.cpu_times()
                used += times.user + times.system + times.children_user + times.children_system
    return used


def terminate(process: psutil.Process, seconds: float = 20) -> None:
    """End a server and its workers; what is still running after this many seconds is killed."""
    family = [process]
    with contextlib.suppress(psutil.Error):
        family += process.children(recursive=True)
    with contextlib.suppress(psutil.Error):
        process.terminate()
    if not _wait(family, seconds):
        for one in family:
            with contextlib.suppress(psutil.Error):
                one.kill()
        _wait(family, seconds)


def _wait(processes: Iterable[psutil.Process], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    waiting = list(processes)
    while waiting and time.monotonic() < deadline:
        waiting = [process for process in waiting if not has_ended(process)]
        time.sleep(0.05)
    return not waiting


def sweep(temporary: Path, key_file: Path) -> None:
    """Remove what a server leaves: unpacked archives, sockets, pid file, settings and keys. Raises LaunchError."""
    shutil.rmtree(temporary / "models", ignore_errors=True)
    with using(temporary):
        for path in (*temporary.glob(".ts.sock.*"), temporary / PID_FILE, temporary / CONFIG, key_file):
            path.unlink(missing_ok=True)


@contextmanager
def exclusive(temporary: Path, seconds: float = 0) -> Iterator[None]:
    """Only one launcher at a time may start or stop the server of a folder.

    seconds : to wait for the other

    Raises LaunchError if the other takes longer, or nothing can be written there.
    """
    deadline = time.monotonic() + seconds
    with using(temporary):
        opened = (temporary / LOCK).open("w")
    with opened as lock:
        while not _try_lock(lock):
            if time.monotonic() >= deadline:
                raise LaunchError("another launcher is just starting or stopping this server; try again later")
            time.sleep(0.2)
        yield


def is_launching(temporary: Path) -> bool:
    """Whether a launcher is starting or stopping the server of a folder, which need not be writable."""
    try:
        opened = (temporary / LOCK).open()
    except OSError:
        return False
    with opened as lock:
        return not _try_lock(lock, fcntl.LOCK_SH)


def _try_lock(file: IO[str], kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
