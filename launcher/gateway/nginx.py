"""nginx's process: configuration checked, started, reloaded, ended."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

import psutil

from launcher.errors import LaunchError
from launcher.gateway.config import find_nginx
from launcher.process import terminate
from launcher.server import PRIVATE

NAME = "nginx"
STATUS = "status.sock"
INNER = ("inner_http.sock", "inner_grpc.sock")
"""Of the inner server, which hands requests to TorchServe, one to a connection."""

PID, PARENT = "nginx.pid", "parent.pid"
"""Files with the ids of nginx and of the process that started it."""

DRAIN_S = 60.0
"""Seconds that open requests have when the gateway or the server stops, unless `--drain` says otherwise."""


class Nginx:
    """nginx with one configuration file; a context manager that ends it.

    config : written by `launcher.gateway.config.write_folder`; pid and temporary files are next to it

    Raises LaunchError if nginx is not installed or refuses the configuration.
    """

    def __init__(self, config: Path) -> None:
        self.check(config)
        self._pid_file = config.parent / PID
        (config.parent / PARENT).write_text(f"{os.getpid()}", encoding="ascii")
        # A session of its own: Ctrl-C must reach nginx only through this process, which lets it finish requests.
        self._process = subprocess.Popen(
            _command(config),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            umask=PRIVATE,
        )
        self._wait()

    @staticmethod
    def check(config: Path) -> None:
        """Raise LaunchError with nginx's reason if it refuses a configuration."""
        # Away from the terminal, at which nginx would ask for the password of a TLS key, and wait.
        done = subprocess.run(
            [*_command(config), "-t"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            umask=PRIVATE,
            start_new_session=True,
            check=False,
        )
        if done.returncode:
            raise LaunchError(f"nginx refuses its configuration:\n{done.stderr.strip()}")

    def reload(self) -> None:
        """Read the configuration again; requests that are being answered go on with the old one."""
        self._process.send_signal(signal.SIGHUP)

    def reload_and_wait(self, seconds: float = 10) -> None:
        """Reload, and wait until no process with the old configuration takes connections."""
        before = self._workers()
        self.reload()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            now = self._workers()
            if now and before.isdisjoint(now):
                return
            time.sleep(0.02)

    def reopen_log(self) -> None:
        """Write the access log to a new file of its name."""
        self._process.send_signal(signal.SIGUSR1)

    def _workers(self) -> set[int]:
        """Ids of the processes that take connections; one that only finishes its requests changes its title."""
        found = set()
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self._process.pid).children():
                with contextlib.suppress(psutil.Error):
                    if "shutting down" not in " ".join(process.cmdline()):
                        found.add(process.pid)
        return found

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def stop(self, seconds: float = DRAIN_S) -> None:
        """End it when the requests in hand are answered, or after this many seconds, or at Ctrl-C."""
        if self.is_alive():
            self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(seconds)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                self._process.terminate()
                self._process.wait()
        _end_family(self._process.pid)
        if self._process.stderr is not None:
            self._process.stderr.close()

    def __enter__(self) -> "Nginx":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _wait(self, seconds: float = 10) -> None:
        """Wait until it has written its id, which it does when it listens."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self.is_alive():
                said = self._process.stderr.read() if self._process.stderr is not None else ""
                raise LaunchError(f"nginx has ended:\n{said.strip()}")
            if (
                self._pid_file.is_file()
                and self._pid_file.read_text(encoding="ascii").strip() == f"{self._process.pid}"
            ):
                return
            time.sleep(0.02)
        os.kill(self._process.pid, signal.SIGTERM)
        raise LaunchError(f"nginx did not start within {seconds:.0f} s")


def requests_in_hand(folder: Path) -> int | None:
    """Requests whose header nginx has read and that are not answered, uploads included; None if it does not run.

    One that TorchServe works on counts twice: for the outer and for the inner server.
    """
    with socket.socket(socket.AF_UNIX) as status, contextlib.suppress(OSError):
        status.settimeout(5)
        status.connect(str(folder / STATUS))
        status.sendall(b"GET / HTTP/1.0\r\n\r\n")
        page = b""
        while more := status.recv(4096):
            page += more
        writing = re.search(rb"Writing: (\d+)", page)
        # One of them is this question.
        return int(writing[1]) - 1 if writing else 0
    return None


def open_requests(folder: Path) -> int:
    """The same, each counted once, for metrics: a request that is just handed on may be missing. 0 without nginx."""
    # Before the others are counted, so that one that ends meanwhile is not counted at all.
    inner = sum(_connections(folder / name) for name in INNER)
    return max(0, (requests_in_hand(folder) or 0) - inner)


def _connections(path: Path) -> int:
    """Connections that a process has accepted on a socket of the file system (proc(5), net/unix: state 3)."""
    lines = (line.split(maxsplit=7) for line in Path("/proc/self/net/unix").read_text(encoding="utf-8").splitlines())
    return sum(line[5] == "03" and line[7:] == [str(path)] for line in lines)


def end_orphan(folder: Path) -> bool:
    """End the nginx of a gateway that was killed, which nobody looks after; returns whether there was one."""
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        number, parent = (int((folder / name).read_text(encoding="ascii")) for name in (PID, PARENT))
        # The number may be another program's by now.
        if not psutil.pid_exists(number) or (nginx := psutil.Process(number)).name() != NAME:
            return _end_family(number)
        # Whoever lost its parent has another.
        if nginx.ppid() != parent:
            terminate(nginx)
            return True
    return False


def _end_family(session: int) -> bool:
    """End processes of an nginx whose first process was killed, and which go on answering; whether there were any."""
    left = []
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(OSError):
            if process.info["name"] == NAME and os.getsid(process.pid) == session:
                left.append(process)
    for process in left:
        terminate(process)
    return bool(left)


def _command(config: Path) -> list[str]:
    return [find_nginx(), "-e", "stderr", "-p", str(config.parent), "-c", str(config)]
