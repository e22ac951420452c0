"""What a running server and its gateway hold: memory, descriptors, threads, temporary files, logs."""

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
    gateway_mb      : of the gateway's own process, in Python
    nginx_mb        : of its nginx
    descriptors, threads                 : of workers and Java: open files and sockets, and threads
    gateway_descriptors, gateway_threads : of the gateway and nginx
    temporary_files : in the server's temporary folder, the gateway's included
    logs_mb         : all logs together
    largest_log_mb  : the largest one
    open_logs       : logs that other users may read
    """

    seconds: float
    worker_mb: float
    frontend_mb: float
    gateway_mb: float
    nginx_mb: float
    descriptors: int
    threads: int
    gateway_descriptors: int
    gateway_threads: int
    temporary_files: int
    logs_mb: float
    largest_log_mb: float
    open_logs: int


@dataclass(frozen=True)
class Held:
    """What a process and all below it hold.

    own_mb, below_mb : resident memory of the process, and of the others
    """

    own_mb: float
    below_mb: float
    descriptors: int
    threads: int


def take_held(first: psutil.Process) -> Held:
    """Look at a process and those below it; those that end meanwhile are left out."""
    family = [first]
    with contextlib.suppress(psutil.Error):
        family += first.children(recursive=True)
    resident, descriptors, threads = {}, 0, 0
    for process in family:
        # Processes that decode images come and go.
        with contextlib.suppress(psutil.Error), process.oneshot():
            memory, count = process.memory_info().rss / MB, process.num_threads()
            descriptors += process.num_fds()
            resident[process.pid] = memory
            threads += count
    own = resident.pop(first.pid, 0.0)
    return Held(own, sum(resident.values()), descriptors, threads)


def take_sample(server: Server, gateway: psutil.Process, begun: float) -> Sample | None:
    """Look at a server and its gateway now; None while the server does not run.

    begun : time.monotonic() at the start of the run
    """
    frontend = server.process
    if frontend is None:
        return None
    serving, passing = take_held(frontend), take_held(gateway)
    logs = []
    for path in (server.folder / "logs").iterdir():
        # A log that is rotated just now has another name.
        with contextlib.suppress(FileNotFoundError):
            logs.append(path.stat())
    sizes = [status.st_size / MB for status in logs]
    return Sample(
        seconds=time.monotonic() - begun,
        worker_mb=serving.below_mb,
        frontend_mb=serving.own_mb,
        gateway_mb=passing.own_mb,
        nginx_mb=passing.below_mb,
        descriptors=serving.descriptors,
        threads=serving.threads,
        gateway_descriptors=passing.descriptors,
        gateway_threads=passing.threads,
        temporary_files=count_files(server.temporary),
        logs_mb=sum(sizes),
        largest_log_mb=max(sizes, default=0.0),
        open_logs=sum(bool(status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)) for status in logs),
    )


def count_files(folder: Path) -> int:
    """Files in a folder and those below it."""
    # os.walk passes over folders that are removed meanwhile.
    return sum(len(files) for _, _, files in os.walk(folder))
