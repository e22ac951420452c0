"""What a running server holds: memory, descriptors, threads, temporary files, logs."""

import contextlib
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from launcher.server import Server

MB = 2**20


@dataclass(frozen=True)
class Sample:
    """One look at a server; memory in units of 2**20 bytes.

    seconds         : since the start of the run
    worker_mb       : resident memory of the workers, with the processes that decode images for them
    frontend_mb     : of Java
    descriptors     : open files and sockets of all of these
    threads         : of all of these
    temporary_files : in the server's temporary folder, the gateway's included
    logs_mb         : all logs together
    largest_log_mb  : the largest one
    open_logs       : logs that other users may read
    """

    seconds: float
    worker_mb: float
    frontend_mb: float
    descriptors: int
    threads: int
    temporary_files: int
    logs_mb: float
    largest_log_mb: float
    open_logs: int


def take_sample(server: Server, begun: float) -> Sample | None:
    """Look at a server now; None while it does not run.

    begun : time.monotonic() at the start of the run
    """
    frontend = server.process
    if frontend is None:
        return None
    workers = []
    with contextlib.suppress(psutil.Error):
        workers = frontend.children(recursive=True)
    resident, descriptors, threads = {}, 0, 0
    for process in (frontend, *workers):
        # Processes that decode images come and go.
        with contextlib.suppress(psutil.Error), process.oneshot():
            resident[process.pid] = process.memory_info().rss / MB
            descriptors += process.num_fds()
            threads += process.num_threads()
    logs = []
    for path in (server.folder / "logs").iterdir():
        # A log that is rotated just now has another name.
        with contextlib.suppress(FileNotFoundError):
            logs.append(path.stat())
    sizes = [status.st_size / MB for status in logs]
    return Sample(
        seconds=time.monotonic() - begun,
        worker_mb=sum(size for pid, size in resident.items() if pid != frontend.pid),
        frontend_mb=resident.get(frontend.pid, 0.0),
        descriptors=descriptors,
        threads=threads,
        temporary_files=count_files(server.temporary),
        logs_mb=sum(sizes),
        largest_log_mb=max(sizes, default=0.0),
        open_logs=sum(bool(status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)) for status in logs),
    )


def count_files(folder: Path) -> int:
    """Files in a folder and those below it."""
    # os.walk passes over folders that are removed meanwhile.
    return sum(len(files) for _, _, files in os.walk(folder))
