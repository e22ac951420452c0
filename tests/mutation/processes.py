"""A copy of the tree, and processes that run tests in it."""

import math
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from tests.mutation.forks import run_in_fork

ROOT = Path(__file__).resolve().parent.parent.parent
OWN = (
    "prelim",
    "handlers",
    "export",
    "training",
    "launcher",
    "loadtests",
    "benchmarks",
    "bulk",
    "bridge",
    "terminal",
    "tests",
    "prelim_client",
)
PYTEST = (
    *("-x", "-q", "-p", "no:cacheprovider", "-m", "not server and not slow and not exhaustive"),
    # Plugins that a library has imported.
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)
MEMORY = 12 * 2**30
"""Bytes of addresses that tests may take: a changed size must not fill the machine."""


def copy_tree(target: Path) -> None:
    """Copy what git tracks or would track; installed and downloaded files are linked, and ../shared is left out."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, names.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    for name in ("build", ".venv"):
        (target / name).symlink_to(ROOT / name)


def move_into(tree: Path) -> None:
    """Let this process and its children import our packages from the copy only."""
    sys.path[:] = [str(tree)] + [
        place for place in sys.path if place and (".venv" in place or not Path(place).is_relative_to(ROOT))
    ]
    for name in [name for name in sys.modules if name.split(".")[0] in OWN]:
        del sys.modules[name]
    os.environ["PYTHONPATH"] = os.pathsep.join(str(tree / folder) for folder in ("model_src", "client", "."))
    os.chdir(tree)


def run_tests(
    arguments: Sequence[str],
    log: Path,
    timeout: float,
    *,
    modules: Path | None = None,
    plugin: Callable[[], object] | None = None,
    cpu: float = math.inf,
) -> int | None:
    """Run pytest in a forked process: its exit status, None after `timeout` seconds.

    cpu     : seconds of CPU time after which it is ended by SIGXCPU
    modules : file for the names of all modules that were imported
    plugin  : makes a plugin of pytest, in the forked process
    """

    def work() -> int:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        import pytest

        status = pytest.main([*PYTEST, *arguments], plugins=None if plugin is None else [plugin()])
        if modules is not None:
            modules.write_text("\n".join(name for name in sys.modules if name.split(".")[0] not in OWN))
        return int(status)

    return run_in_fork(work, log, timeout, cpu=cpu)


def import_libraries(modules: Path) -> None:
    """Import what the tests import, so that no fork needs to; pytest wants to import its plugins itself."""
    plugins = {entry.value.split(".")[0] for entry in entry_points(group="pytest11")}
    for name in modules.read_text().splitlines():
        if name.split(".")[0] not in plugins:
            with suppress(Exception):
                import_module(name)
