"""A clone of the project whose path has a space, with the archive of the tiny model and free ports."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher.environment import ROOT
from launcher.ports import API_COUNT, free_ports, replace_ports
from launcher.process import find_server, terminate

CODE = ("client", "export", "handlers", "launcher", "model_src", "terminal")
FILES = ("Makefile", "env.sh", "config.properties", "requirements.lock", "requirements-cpu.lock", "pyproject.toml")
CLOSED = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
"""A proxy that does not answer, for all programs."""


class Clone:
    """A copy of the files that serving needs; programs run there with a proxy that does not answer."""

    def __init__(self, folder: Path, archive: Path, ports: list[int]) -> None:
        self.folder = folder
        self.ports = ports
        # With compiled files, which each of its programs would make again, but for those that are being written.
        ignored = shutil.ignore_patterns("*.pyc.*")
        for name in CODE:
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        for name in FILES:
            shutil.copy(ROOT / name, folder / name)
        (folder / "model_store").mkdir()
        self.archive = Path(shutil.copy(archive, folder / "model_store"))
        # The environment of this Python, which `make` must take for a finished one.
        (folder / ".venv").mkdir()
        for name in ("bin", "lib", "pyvenv.cfg"):
            (folder / ".venv" / name).symlink_to(Path(sys.prefix, name))
        (folder / ".venv" / "installed").touch()
        config = folder / "config.properties"
        config.write_text(replace_ports(config.read_text(encoding="utf-8"), ports), encoding="utf-8")
        self.environment = {
            name: value
            for name, value in os.environ.items()
            # The tests may be run by `make`, whose settings a `make` in the clone would take over.
            if not name.lower().endswith("_proxy") and name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
        } | CLOSED
        self.temporary = Path(self.shell('source ./env.sh && printf %s "$TMPDIR"').stdout)

    @property
    def key_file(self) -> Path:
        """Of its server."""
        return self.folder / "key_file.json"

    def shell(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run bash in the clone."""
        return subprocess.run(
            ["bash", "-c", code],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def launch(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the launcher to its end; a start takes the length of its queue as given, and measures nothing."""
        return self.shell(f".venv/bin/python -m launcher {' '.join(_skip_measuring(arguments))}")

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        """Run the launcher, to interrupt it."""
        return subprocess.Popen(
            [".venv/bin/python", "-m", "launcher", *_skip_measuring(arguments)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def leftovers(self) -> list[str]:
        """What a server has left behind."""
        names = [path.name for path in self.temporary.iterdir() if path.name != ".launcher.lock"]
        return names + [path.name for path in (self.key_file,) if path.exists()]

    def kill(self) -> None:
        """End whatever runs."""
        process = find_server(self.temporary)
        if process is not None:
            terminate(process)
        shutil.rmtree(self.temporary, ignore_errors=True)


def _skip_measuring(arguments: tuple[str, ...]) -> tuple[str, ...]:
    measured = arguments[0] in ("start", "serve") and "--queue" not in arguments
    return (*arguments, "--queue", "100") if measured else arguments


@contextmanager
def clone_maker(archive: Path, parent: Path) -> Iterator[Callable[..., Clone]]:
    """Gives what makes clones in a folder; their servers end with it."""
    clones: list[Clone] = []

    def make(ports: list[int] | None = None) -> Clone:
        folder = parent / f"a clone {len(clones)}"
        folder.mkdir()
        clones.append(Clone(folder, archive, ports or free_ports(API_COUNT)))
        return clones[-1]

    yield make
    for clone in clones:
        clone.kill()


@pytest.fixture
def make_clone(tiny_mar: Path, tmp_path: Path) -> Iterator[Callable[..., Clone]]:
    """Makes clones, whose servers end with the test."""
    with clone_maker(tiny_mar, tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def shared_clone(tiny_mar: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """One clone for several tests, whose server may outlive them."""
    with clone_maker(tiny_mar, tmp_path_factory.mktemp("shared")) as make:
        yield make()


@pytest.fixture
def running(shared_clone: Clone) -> Clone:
    """It, with a server that runs."""
    if find_server(shared_clone.temporary) is None:
        started = shared_clone.launch("start")
        assert started.returncode == 0, started.stderr
    return shared_clone


@pytest.fixture
def clone(make_clone: Callable[..., Clone]) -> Clone:
    """One clone."""
    return make_clone()
