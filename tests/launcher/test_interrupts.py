"""Ctrl-C at a terminal, in every command that takes long: one line, and nothing is left behind."""

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from launcher.environment import ROOT
from tests.launcher.conftest import Clone

QUIET = re.compile(r"\^C|interrupted(; the server has been stopped)?|make: \*\*\* \[.*|")
"""What may be on the terminal after Ctrl-C; make writes a line of its own."""

KEPT = re.compile(r"model_store/\.tiny\.settings|prelim-\d+-\d+|torchinductor")
"""What stays: the settings of the archive, the folder of this clone's server, and PyTorch's cache."""

PATIENCE_S = 120


class Terminal:
    """A command on a terminal of its own, as a person starts it.

    environment : of the command; its temporary folder is `scratch`
    """

    def __init__(self, command: str, folder: Path, environment: dict[str, str]) -> None:
        self.output = ""
        self._family: dict[int, psutil.Process] = {}
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            # A shell ignores it in what it starts in the background, and so would the command.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.chdir(folder)
            os.execve("/bin/bash", ["bash", "-c", f"exec {command}"], environment)  # noqa: S606 - bash
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))

    def read_until(self, sign: str) -> None:
        """Read until the output has this regular expression, or has ended."""
        deadline = time.monotonic() + PATIENCE_S
        while not re.search(sign, self.output) and self._read():
            assert time.monotonic() < deadline, self.output

    def interrupt(self) -> str:
        """Type Ctrl-C; returns what is printed after it."""
        before = len(self.output)
        os.write(self._terminal, b"\x03")
        deadline = time.monotonic() + PATIENCE_S
        while self._read():
            assert time.monotonic() < deadline, self.output
        os.waitpid(self.pid, 0)
        os.close(self._terminal)
        return self.output[before:]

    def running(self) -> list[str]:
        """Processes that the command has started and that still run."""
        with suppress(psutil.Error):
            psutil.wait_procs(list(self._family.values()), timeout=5)
        return [" ".join(process.cmdline()) for process in self._family.values() if process.is_running()]

    def kill(self) -> None:
        """End what a failed test has left."""
        for process in self._family.values():
            with suppress(psutil.Error):
                process.kill()

    def _read(self) -> bool:
        """Read what there is; False at the end."""
        with suppress(psutil.Error):
            children = psutil.Process(self.pid).children(recursive=True)
            self._family |= {child.pid: child for child in children}
        if not select.select([self._terminal], [], [], 0.1)[0]:
            return True
        try:
            read = os.read(self._terminal, 1 << 16)
        except OSError:
            return False
        self.output += read.decode(errors="replace")
        return bool(read)


def lines_of(printed: str) -> list[str]:
    """The lines as they are seen, without those that were overwritten with blanks."""
    seen = (line.rstrip("\r").rpartition("\r")[2].replace("^C", "").strip() for line in printed.split("\n"))
    return [line for line in seen if line]


def everything(folder: Path) -> set[str]:
    """All files and folders except what a program may leave for the next one: logs, results, caches."""
    kept = (".venv", "__pycache__", "logs", "out", "build")
    return {
        name for path in folder.rglob("*") if not set(kept) & set((name := str(path.relative_to(folder))).split("/"))
    }


def check(clone: Clone, command: str, sign: str, delay: float) -> None:
    """Run a command until it shows a sign, wait a little, interrupt it, and look at what is left."""
    # Short, for the names of sockets.
    scratch = Path(tempfile.mkdtemp(prefix="t-"))
    before = everything(clone.folder)
    environment = {name: value for name, value in clone.environment.items() if name != "PRELIM_PROGRAM"}
    terminal = Terminal(command, clone.folder, environment | {"TMPDIR": str(scratch), "TERM": "dumb"})
    try:
        terminal.read_until(sign)
        time.sleep(delay)
        printed = terminal.interrupt()

        lines = lines_of(printed)
        assert sum(line.startswith("interrupted") for line in lines) == 1, printed
        # PyTorch logs a remark of its own when an export begins, before or after the interrupt.
        assert all(QUIET.fullmatch(line) for line in lines if "triton not found" not in line), printed
        assert terminal.running() == []
        left = (everything(clone.folder) - before) | everything(scratch)
        assert {name for name in left if not KEPT.match(name)} == set()
        assert clone.leftovers() == []
    finally:
        terminal.kill()
        shutil.rmtree(scratch)


@pytest.fixture(scope="module")
def whole_clone(shared_clone: Clone, tiny_model: Path) -> Clone:
    """A clone with all programs, a model folder, and the archive that make takes for a new one.

    One for all commands, as each of them leaves it as it was.
    """
    for name in ("training", "benchmarks", "loadtests", "docs"):
        shutil.copytree(ROOT / name, shared_clone.folder / name, ignore=shutil.ignore_patterns("*.pyc.*"))
    shutil.copytree(tiny_model, shared_clone.folder / "models" / "tiny")
    return shared_clone


SILENT = "python -m|launcher (start|serve)"
NEW = "-o model_store/tiny.mar MODEL=tiny"


@pytest.mark.parametrize(
    ("command", "sign", "delay"),
    [
        ("make archive MODEL=tiny SLOTS=4", SILENT, 0.3),
        ("make archive MODEL=tiny SLOTS=4", "packaging models/tiny", 0),
        ("make archive MODEL=tiny SLOTS=4", "largest difference", 0),
        (f"make verify {NEW}", "verifying model_store", 1),
        ("make validate-data DATA=nowhere", SILENT, 0.2),
        (f"{sys.executable} -m training.evaluate models/tiny && true", "", 1),
        ("make bench-encoder SHORT=1 -o build/bench/installed", "measuring the machine", 0.3),
        ("make bench-memory SHORT=1 SHORT_memory='--model models/tiny --precision fp32'", "export and package", 4),
        (f"make loadtest {NEW}", SILENT, 0.2),
        (f"make demo {NEW}", SILENT, 0.2),
    ],
)
def test_programs(whole_clone: Clone, command: str, sign: str, delay: float) -> None:
    """While it imports, and while it works; each removes its temporary files and processes."""
    check(whole_clone, command, sign, delay)


@pytest.mark.server
@pytest.mark.parametrize(
    ("command", "sign", "delay"),
    [
        (f"make demo {NEW}", "loading the model", 1),
        (".venv/bin/python -m launcher start", "loading the models", 1),
        (".venv/bin/python -m launcher serve", "loading the models", 3),
        (f"make loadtest {NEW}", "starting the server", 1),
        (f"make loadtest {NEW}", "tiny under load", 2),
    ],
)
def test_programs_that_start_a_server(whole_clone: Clone, command: str, sign: str, delay: float) -> None:
    """The server ends too, and its keys and unpacked archives are gone."""
    check(whole_clone, command, sign, delay)


@pytest.fixture
def silent_server(clone: Clone) -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    clone.key_file.write_text('{"inference": {"key": "k"}, "management": {"key": "k"}}', encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    clone.key_file.unlink(missing_ok=True)


def test_client(clone: Clone, silent_server: str) -> None:
    """`make report` while the server decodes."""
    clone.environment["PRELIM_URL"] = silent_server
    (clone.folder / "chest.png").write_bytes(b"\x89PNG")
    scratch = Terminal("make report IMAGE=chest.png MODEL=tiny", clone.folder, clone.environment)
    try:
        time.sleep(3)
        assert lines_of(scratch.interrupt())[0] == "interrupted"
        assert scratch.running() == []
    finally:
        scratch.kill()
