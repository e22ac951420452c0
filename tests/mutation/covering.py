"""Which tests run a line, and how long each takes: noted once for a folder, so that a change meets few tests.

A test that does not run the changed line cannot notice the change.
"""

import ast
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from coverage import Coverage

from tests.mutation.warm import share

IMPORT, FIXTURE = "import", "fixture"
"""Contexts of lines that run outside of a test: on import, or in fixtures, whose results several tests may use."""


class Tracing:
    """Pytest plugin: notes lines by test, and seconds of each test.

    folder : of the code whose lines are traced
    target : file for what was noted
    """

    def __init__(self, folder: Path, target: Path) -> None:
        self._coverage = Coverage(data_file=None, source=[str(folder)], config_file=False, messages=False)
        self._coverage.set_option("run:disable_warnings", ["no-data-collected", "module-not-measured"])
        self._target = target
        self._seconds: dict[str, float] = defaultdict(float)
        self._failed: set[str] = set()
        self._test = ""
        self._coverage.start()
        self._coverage.switch_context(IMPORT)

    def pytest_collection_finish(self) -> None:
        """Decode pictures in this process, where lines are traced, before a process without tracing decodes them."""
        from prelim.images import decoding_process, radiograph

        decode = decoding_process.DecodingProcess.decode

        def traced(process: Any, data: bytes, kind: str, config: Any) -> Any:
            # Files that are made to end or to fill a process must not do that here.
            if not any(word in self._test for word in ("hostile", "limits")):
                with suppress(Exception):
                    radiograph.render(data, kind, config)
            return decode(process, data, kind, config)

        decoding_process.DecodingProcess.decode = traced  # type: ignore[method-assign]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Lines of the test itself."""
        self._test = item.nodeid
        self._coverage.switch_context(item.nodeid)
        try:
            return (yield)  # type: ignore[return-value]
        finally:
            self._coverage.switch_context(FIXTURE)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Seconds of CPU time of a test, with its fixtures and children: what else the machine does, does not count."""
        start = cpu_seconds()
        self._coverage.switch_context(FIXTURE)
        try:
            return (yield)  # type: ignore[return-value]
        finally:
            self._seconds[item.nodeid] = cpu_seconds() - start

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that fails without any change: a limit of time, which tracing exceeds. No change meets it."""
        if report.failed:
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write what was noted."""
        self._coverage.stop()
        data = self._coverage.get_data()
        lines = {
            str(path): {
                str(line): sorted(set(contexts) - self._failed)
                for line, contexts in data.contexts_by_lineno(path).items()
            }
            for path in data.measured_files()
        }
        seconds = {test: spent for test, spent in self._seconds.items() if test not in self._failed}
        self._target.write_text(json.dumps({"seconds": seconds, "lines": lines, "failed": sorted(self._failed)}))


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


class Chosen:
    """Pytest plugin: runs these tests in this order, and notes the one that fails."""

    def __init__(self, tests: Sequence[str], failed: Path, shared: Path) -> None:
        self._order = {test: i for i, test in enumerate(tests)}
        self._failed = failed
        self._shared = shared

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Compiled kernels are shared by all runs."""
        share(self._shared, session.config._tmp_path_factory.getbasetemp(), everything=False)  # type: ignore[attr-defined]

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Drop and sort."""
        items[:] = sorted(
            (item for item in items if item.nodeid in self._order), key=lambda item: self._order[item.nodeid]
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note which test noticed."""
        if report.failed:
            self._failed.write_text(report.nodeid)


@dataclass
class Covering:
    """The tests of a folder.

    seconds : that each test takes
    lines   : path, line -> tests that run it, IMPORT and FIXTURE
    failed  : tests that fail without any change
    noticed : path -> tests that noticed a change of this file, the latest first
    """

    seconds: dict[str, float]
    lines: dict[str, dict[str, list[str]]]
    failed: list[str] = field(default_factory=list)
    noticed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def read(cls, file: Path, root: Path) -> "Covering":
        """What `Tracing` wrote, or `write`; paths are under `root`."""
        noted = json.loads(file.read_text())
        noted["lines"] = {str(root / path): lines for path, lines in noted["lines"].items()}
        return cls(**noted)

    def write(self, file: Path, root: Path) -> None:
        """Keep what was noted for another copy of the tree."""
        lines = {Path(path).relative_to(root).as_posix(): noted for path, noted in self.lines.items()}
        file.write_text(json.dumps({"seconds": self.seconds, "lines": lines, "failed": self.failed}))

    def without(self, files: Collection[str]) -> "Covering":
        """What was noted of the tests of all other files."""

        def keep(tests: Iterable[str]) -> list[str]:
            return [test for test in tests if test.split("::")[0] not in files]

        lines = {path: {line: keep(tests) for line, tests in noted.items()} for path, noted in self.lines.items()}
        return Covering({test: self.seconds[test] for test in keep(self.seconds)}, lines, keep(self.failed))

    def __add__(self, other: "Covering") -> "Covering":
        lines: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for path, noted in (*self.lines.items(), *other.lines.items()):
            for line, tests in noted.items():
                lines[path][line] = sorted({*lines[path][line], *tests})
        return Covering({**self.seconds, **other.seconds}, lines, sorted({*self.failed, *other.failed}))

    def notice(self, path: Path, test: str) -> None:
        """Remember a test that noticed a change of a file; it comes first for the next change."""
        latest = self.noticed[str(path)]
        if test in self.seconds:
            latest[:] = [test, *(other for other in latest if other != test)]

    def tests_of(self, path: Path, line: int, seconds: float, *, once: bool = False) -> list[str]:
        """Tests that may notice a change of a line, in the order in which to run them, at most so many seconds of them.

        First those that noticed other changes of the file, then file by file, the fastest first. A line that no test
        runs as far as is known (in a process of its own, or compiled) may be noticed by any test, and so may one that
        runs for the first test alone, as what a test imports does.

        once : so does all that is in this file
        """
        contexts = self._contexts(path, line)
        tests = contexts - {IMPORT, FIXTURE}
        everyone = once or not tests or tests != contexts or not in_body(path.read_text(), line)
        wanted = list(self.seconds) if everyone else [test for test in self.seconds if test in tests]
        of_file: dict[str, float] = defaultdict(float)
        for test in wanted:
            of_file[test.split("::")[0]] += self.seconds[test]
        latest = [test for test in self.noticed[str(path)] if test in set(wanted)][:5]
        rest = sorted(
            (test for test in wanted if test not in latest),
            key=lambda test: (test not in tests, of_file[test.split("::")[0]], test.split("::")[0], self.seconds[test]),
        )
        chosen: list[str] = []
        for test in [*latest, *rest]:
            # One that takes longer than what is left leaves its time to others.
            if not chosen or self.seconds[test] <= seconds:
                seconds -= self.seconds[test]
                chosen.append(test)
        return chosen

    def on_import(self, path: Path, line: int) -> bool:
        """Whether the statement that contains this line runs on import."""
        return IMPORT in self._contexts(path, line)

    def in_fixtures(self, path: Path, line: int) -> bool:
        """Whether the statement runs outside of tests, or nobody knows where."""
        contexts = self._contexts(path, line)
        return not contexts or bool(contexts & {IMPORT, FIXTURE})

    def _contexts(self, path: Path, line: int) -> set[str]:
        """Where the statement that contains this line runs."""
        lines = self.lines.get(str(path), {})
        first, last = statement(path.read_text(), line)
        return {context for number in range(first, last + 1) for context in lines.get(str(number), ())}


def in_body(source: str, line: int) -> bool:
    """Whether a line is in the body of a function."""
    functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
    return any(node.body[0].lineno <= line <= (node.end_lineno or 0) for node in functions)


def statement(source: str, line: int) -> tuple[int, int]:
    """First and last line of the innermost statement at this line; of a block only its head."""
    best = (line, line)
    size = float("inf")
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.stmt | ast.ExceptHandler):
            continue
        first, last = node.lineno, node.end_lineno or node.lineno
        body = getattr(node, "body", None)
        if body:
            last = max(first, body[0].lineno - 1)
        if first <= line <= last and last - first < size:
            best, size = (first, last), last - first
    return best
