"""Changes of functions, tried in a process that has imported everything and collected all tests.

The function is replaced in a fork of that process, which then runs the tests: no import, no collection. What runs on
import, as a constant or a default does, cannot be changed so, and needs a process that has not imported it.
"""

import gc
import inspect
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from tests.mutation.forks import run_in_fork

Place = tuple[str, int]
"""Qualified name of a function and its first line."""


def functions_of(code: CodeType) -> Iterator[CodeType]:
    """The functions of a module and of its classes, without those inside of functions."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_flags & inspect.CO_NEWLOCALS:
                yield constant
            else:
                yield from functions_of(constant)


def changed_function(path: Path, source: str, changed: str, line: int) -> tuple[Place, CodeType] | None:
    """The function that has this line, and its changed code; None where there is none."""
    before, after = (
        {(code.co_qualname, code.co_firstlineno): code for code in functions_of(compile(text, str(path), "exec"))}
        for text in (source, changed)
    )
    for place, code in before.items():
        last = max(end or 0 for inner in _all_codes(code) for _, _, end in inner.co_lines())
        if place[1] <= line <= last:
            return (place, after[place]) if place in after else None
    return None


def _all_codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _all_codes(constant)


class Warm:
    """Pytest plugin: runs `work` instead of the tests, which it may run in forks.

    shared : folder with what forks share, as `share` says
    """

    def __init__(self, work: Callable[["Warm"], object], shared: Path) -> None:
        self._work = work
        self._shared = shared
        self._session: Any = None
        self._items: dict[str, pytest.Item] = {}
        self._functions: dict[tuple[str, Place], list[FunctionType]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Do the work."""
        self._session = session
        self._items = {item.nodeid: item for item in session.items}
        for found in gc.get_objects():
            # Of some objects, `isinstance` asks what they stand for.
            if type(found) is FunctionType:
                code = found.__code__
                place = (code.co_filename, (code.co_qualname, code.co_firstlineno))
                self._functions.setdefault(place, []).append(found)
        gc.freeze()
        self._work(self)
        return True

    def can_change(self, path: Path, found: tuple[Place, CodeType] | None) -> bool:
        """Whether the function of a changed file exists here and takes the changed code."""
        if found is None:
            return False
        place, code = found
        functions = self._functions.get((str(path), place), ())
        return bool(functions) and all(code.co_freevars == function.__code__.co_freevars for function in functions)

    def run(
        self,
        path: Path,
        found: tuple[Place, CodeType],
        tests: Sequence[str],
        log: Path,
        *,
        timeout: float,
        cpu: float,
        in_fixtures: bool,
    ) -> tuple[int | None, str]:
        """Run tests with a changed function: exit status as of `run_tests`, and the test that failed, or "".

        in_fixtures : the function is a part of what fixtures make, which is then made again
        """
        failed, place = log.with_suffix(".failed"), Path(tempfile.mkdtemp(prefix="run-", dir=log.parent))
        failed.unlink(missing_ok=True)
        share(self._shared, place, everything=not in_fixtures)
        items = [self._items[test] for test in tests if test in self._items]

        def work() -> int:
            for function in self._functions[str(path), found[0]]:
                function.__code__ = found[1]
            return self._run(items, failed, place)

        status = run_in_fork(work, log, timeout, cpu=cpu)
        if not in_fixtures:
            keep(place, self._shared)
        # Some tests write thousands of files, and nobody needs to wait until they are gone.
        subprocess.Popen(["rm", "-rf", str(place)])
        return status, failed.read_text() if failed.exists() else ""

    def _run(self, items: Sequence[pytest.Item], failed: Path, place: Path) -> int:
        self._session.config._tmp_path_factory._basetemp = place
        for item, following in zip(items, [*items[1:], None], strict=True):
            before = self._session.testsfailed
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self._session.testsfailed > before:
                failed.write_text(item.nodeid)
                return 1
        return 0


KERNELS = "kernels"
"""Folder of the machine code of kernels, whose names depend on the code that they were made of."""


def share(shared: Path, place: Path, *, everything: bool) -> None:
    """Link what earlier runs have made into the temporary folder of a run: kernels, or everything of `keep`."""
    (shared / KERNELS).mkdir(mode=0o700, exist_ok=True)
    for folder in shared.iterdir():
        if everything or folder.name == KERNELS:
            (place / folder.name).symlink_to(folder)


def keep(place: Path, shared: Path) -> None:
    """Move the folders that fixtures have filled once for a session, which have a lock next to them, to `shared`."""
    for lock in place.glob("*.lock"):
        folder = lock.with_suffix("")
        if folder.is_dir() and not folder.is_symlink() and not (shared / folder.name).exists():
            folder.rename(shared / folder.name)
