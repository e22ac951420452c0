"""Programs in namespaces: without a network, and on a read-only root, as a container's engine starts them."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

USER = 1000
"""The user of the image, who need not exist on this machine."""

MOUNTS = """
mount --bind {root} {root}
mount --options remount,bind,ro {root}
mount --types proc proc {root}/proc
mount --rbind /dev {root}/dev
mount --bind {temporary} {root}/tmp
mount --bind {store} {root}/var/lib/prelim/model_store
mount --options remount,bind,ro {root}/var/lib/prelim/model_store
cd {root}
exec setpriv --no-new-privs chroot --userspec={user}:{user} . env --ignore-environment --chdir={folder} {command}
"""


class Program:
    """A process whose output goes to a file."""

    def __init__(self, command: Sequence[str | Path], output: Path) -> None:
        self.output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )

    @property
    def said(self) -> str:
        """Its output so far."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    @property
    def main(self) -> psutil.Process:
        """The program itself: with a process namespace it is the only child of what makes or enters that."""
        process = psutil.Process(self._process.pid)
        return process.children()[0] if process.name() in {"unshare", "nsenter"} else process

    def wait_for(self, text: str, seconds: float = 300) -> None:
        """Wait until it prints a text."""
        deadline = time.monotonic() + seconds
        while text not in self.said:
            assert self._process.poll() is None, f"it has ended:\n{self.said[-3000:]}"
            assert time.monotonic() < deadline, f"no {text!r} in {seconds} s:\n{self.said[-3000:]}"
            time.sleep(0.2)

    def wait(self, seconds: float = 120) -> int:
        """Wait for its end; its exit code."""
        return self._process.wait(seconds)

    def terminate(self) -> int:
        """Ask it to end, as `podman stop` does; its exit code."""
        self.main.terminate()
        return self.wait()

    def kill(self) -> None:
        """End all that it has started."""
        with suppress(psutil.Error):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    process.kill()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def loopback_only() -> Iterator[list[str]]:
    """A network namespace that has only loopback; the command that enters it."""
    code = "ip link set lo up && ip -oneline link && echo && exec cat"
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        links = list(iter(lambda: holder.stdout.readline().strip(), ""))
        assert len(links) == 1
        assert ": lo: " in links[0]
        yield ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "--"]
        assert holder.stdin is not None
        holder.stdin.close()


def in_container(  # noqa: PLR0917 - places and a command
    root: Path,
    temporary: Path,
    store: Path,
    config: Mapping[str, Any],
    command: Sequence[str],
    first: Program | None = None,
) -> list[str]:
    """The command that runs another one on a read-only root, as an ordinary user.

    It is process 1, or one of the processes of a container that runs.

    first     : that container; None: it has processes of its own
    root      : files of the image
    temporary : mounted at /tmp, the only place that can be written
    store     : mounted read-only at /var/lib/prelim/model_store
    config    : of the image: Env and WorkingDir
    """
    values = {"root": root, "temporary": temporary, "store": store, "folder": config["WorkingDir"]}
    quoted = {name: shlex.quote(str(value)) for name, value in values.items()}
    script = MOUNTS.format(**quoted, user=USER, command=shlex.join([*config["Env"], *command]))
    inside = ["--ipc", "--uts", "sh", "-euc", script]
    if first is None:
        return ["unshare", "--mount", "--pid", "--fork", *inside]
    return ["nsenter", f"--pid=/proc/{first.main.pid}/ns/pid", "--", "unshare", "--mount", *inside]
