"""Work in a forked process, with limits."""

import math
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

BROKEN = 99
"""Exit status of a fork that could not do its work."""


def run_in_fork(work: Callable[[], int], log: Path, timeout: float, *, cpu: float = math.inf) -> int | None:
    """Do work in a fork, of which nothing is left running afterwards: its exit status, None after `timeout` seconds.

    work : returns the exit status
    log  : file of what is printed
    cpu  : seconds of CPU time after which the fork is ended by SIGXCPU
    """
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if cpu < math.inf:
                resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(cpu), resource.RLIM_INFINITY))
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            os._exit(work())
        except BaseException:  # noqa: BLE001 - a child must never return into the parent's loop
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(BROKEN)
    status = _wait(child, time.monotonic() + timeout)
    # Also what the tests have left running.
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    return status


def _wait(child: int, end: float) -> int | None:
    pause = 0.001
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return None
