"""Changes of a folder's code, each tried by the tests that run it."""

import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tests.mutation.covering import Chosen, Covering, Tracing
from tests.mutation.folders import Folder
from tests.mutation.forks import BROKEN
from tests.mutation.mutants import Mutant, changed_lines, squeezed
from tests.mutation.processes import ROOT, import_libraries, run_tests
from tests.mutation.warm import Warm, changed_function

RESULTS = ROOT / "out" / "mutation"
SECONDS = 60
"""CPU time of the tests that one change meets, so that survivors have a bounded cost; others that are left out can only
lower the score."""
OUTCOMES = {None: "timeout", -signal.SIGXCPU: "timeout", 0: "survived"}
"""Of the exit statuses; any other is "killed"."""
FIRST_FILES = 3
"""How many files of tests a change meets before the others."""
NO_TESTS = 5
"""Exit status of pytest without tests. It has 4 where a conftest.py cannot import the changed code."""


@dataclass(frozen=True)
class Result:
    """What became of one change: killed, timeout (killed too), survived, or equivalent with a reason."""

    mutant: Mutant
    outcome: str
    before: str
    after: str
    reason: str = ""


def cover(name: str, folder: Folder, tree: Path) -> Covering:
    """Run the tests of a folder without a change, and note which lines they run.

    The notes are kept: only files of tests that have changed since run again, all where the code has.
    """
    log, modules, noted = (tree.parent / f"{name}.{kind}" for kind in ("log", "modules", "lines"))
    kept, kept_digests = RESULTS / f"{name}.lines", RESULTS / f"{name}.digests"
    run_tests(["--collect-only", *folder.tests], log, 600, modules=modules)
    import_libraries(modules)
    digests = {file: digest([tree / file]) for file in folder.test_files(tree)}
    digests[folder.path] = digest([tree / file for file in folder.files(tree)])
    before = json.loads(kept_digests.read_text()) if kept.exists() and kept_digests.exists() else {}
    known = before.get(folder.path) == digests[folder.path]
    stale = [file for file in digests if file != folder.path and not (known and before.get(file) == digests[file])]
    covering = Covering.read(kept, tree).without({*stale, *(set(before) - set(digests))}) if known else Covering({}, {})
    if stale:
        plugin = partial(Tracing, tree / folder.path, noted)
        status = run_tests(["--maxfail=10", *stale], log, 1800, plugin=plugin)
        if status not in (0, 1) or not noted.exists():
            raise SystemExit(f"{name}: the tests fail without any change:\n{log.read_text()[-3000:]}")
        covering += Covering.read(noted, tree)
        covering.write(kept, tree)
        kept_digests.write_text(json.dumps(digests))
    return covering


def digest(files: Sequence[Path]) -> str:
    """Of the contents of files."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


class Trials:
    """Changes of a folder's code, and what became of them.

    tree       : copy that is changed
    kept       : file for the results of the process that has imported everything
    equivalent : file, line before, line after, both without spaces -> reason
    """

    def __init__(self, name: str, folder: Folder, tree: Path, equivalent: dict[tuple[str, ...], str]) -> None:
        self.name, self.folder, self.tree, self.equivalent = name, folder, tree, equivalent
        self.log, self.kept = tree.parent / f"{name}.log", tree.parent / f"{name}.results"
        self.shared = tree.parent / f"{name}.shared"
        self.shared.mkdir(mode=0o700)
        self.results: list[Result] = []
        self.count = 0
        # Where tests print to is not where the results go.
        self.out = os.fdopen(os.dup(1), "w")
        start = time.monotonic()
        self.covering = cover(name, folder, tree)
        took = time.monotonic() - start
        print(f"{name}: {len(self.covering.seconds)} tests; noting their lines took {took:.0f} s", file=self.out)
        for test in self.covering.failed:
            print(f"  fails without any change, and is left out: {test}", file=self.out)
        self.out.flush()

    def run(self, mutants: Sequence[Mutant]) -> list[Result]:
        """Try each change: those of functions first, in a process that has imported everything, then the others."""
        self.count = len(mutants)
        others: list[Mutant] = []
        for mutant in mutants:
            reason = _reason(self.equivalent, mutant.path, *self._lines(mutant))
            if reason:
                self._note(mutant, "equivalent", 0, reason)
            else:
                others.append(mutant)
        work = partial(self._run_warm, others)
        status = run_tests(
            ["--capture=no", *self.folder.tests], self.log, math.inf, plugin=lambda: Warm(work, self.shared)
        )
        if status != 0:
            raise SystemExit(f"{self.name}: pytest could not run:\n{self.log.read_text()[-3000:]}")
        self.results = [
            Result(**{**result, "mutant": Mutant(**result["mutant"])}) for result in json.loads(self.kept.read_text())
        ]
        done = {result.mutant for result in self.results}
        for mutant in others:
            if mutant not in done:
                self._run_cold(mutant)
        return self.results

    def _lines(self, mutant: Mutant) -> tuple[str, str]:
        source = (self.tree / mutant.path).read_text()
        return changed_lines(source, mutant.code(source))

    def _run_warm(self, mutants: Sequence[Mutant], warm: Warm) -> None:
        log = self.tree.parent / f"{self.name}.warm"
        for mutant in mutants:
            path = self.tree / mutant.path
            source = path.read_text()
            code = mutant.code(source)
            function = changed_function(path, source, code, mutant.line)
            if function is None or self.covering.on_import(path, mutant.line) or not warm.can_change(path, function):
                continue
            tests = self.covering.tests_of(path, mutant.line, SECONDS, once=self.folder.once)
            usual = sum(self.covering.seconds[test] for test in tests)
            start = time.monotonic()
            # A process that a test starts reads the file.
            _write(path, code)
            status, failed = warm.run(
                path,
                function,
                tests,
                log,
                timeout=60 + 20 * usual,
                cpu=30 + 5 * usual,
                in_fixtures=self.covering.in_fixtures(path, mutant.line),
            )
            _write(path, source)
            if status == BROKEN:
                raise SystemExit(f"{self.name}: tests could not run:\n{log.read_text()[-3000:]}")
            self.covering.notice(path, failed)
            self._note(mutant, OUTCOMES.get(status, "killed"), time.monotonic() - start)
        self.kept.write_text(json.dumps([asdict(result) for result in self.results]))

    def _run_cold(self, mutant: Mutant) -> None:
        """Try a change of what runs on import, in a process that has imported no code of ours."""
        path, failed = self.tree / mutant.path, self.tree.parent / f"{self.name}.failed"
        source = path.read_text()
        start = time.monotonic()
        tests = self.covering.tests_of(path, mutant.line, SECONDS, once=self.folder.once)
        failed.unlink(missing_ok=True)
        _write(path, mutant.code(source))
        status: int | None = 0
        # Most changes are noticed by the first files, and the others then need not be imported.
        for part in first_files(tests):
            usual = sum(self.covering.seconds[test] for test in part)
            plugin = partial(Chosen, part, failed, self.shared)
            if status == 0:
                status = run_tests(_files(part), self.log, 60 + 20 * usual, plugin=plugin, cpu=30 + 5 * usual)
            # A changed constant can give other names to tests, which notices nothing.
            status = 0 if status == NO_TESTS else status
        _write(path, source)
        if status == BROKEN:
            raise SystemExit(f"{self.name}: pytest could not run:\n{self.log.read_text()[-3000:]}")
        if failed.exists():
            self.covering.notice(path, failed.read_text())
        self._note(mutant, OUTCOMES.get(status, "killed"), time.monotonic() - start)

    def _note(self, mutant: Mutant, outcome: str, took: float, reason: str = "") -> None:
        self.results.append(Result(mutant, outcome, *self._lines(mutant), reason))
        survived = sum(result.outcome == "survived" for result in self.results)
        place = f"{self.name} {len(self.results)}/{self.count}"
        print(f"{place} {outcome:10} {took:5.1f} s  survived so far: {survived}", file=self.out)
        if outcome == "survived":
            print(show(self.results[-1]), file=self.out)
        self.out.flush()


def first_files(tests: Sequence[str]) -> list[list[str]]:
    """The tests in two parts, neither empty: those of the first FIRST_FILES files, and the others."""
    first = _files(tests)[:FIRST_FILES]
    parts = ([test for test in tests if (test.split("::")[0] in first) is wanted] for wanted in (True, False))
    return [part for part in parts if part]


def _files(tests: Sequence[str]) -> list[str]:
    """Their files, each once, in the same order."""
    return [*dict.fromkeys(test.split("::")[0] for test in tests)]


def _reason(equivalent: dict[tuple[str, ...], str], path: str, before: str, after: str) -> str:
    """Why no test can notice a change, "" where one can."""
    keys = ((file, squeezed(before), squeezed(changed)) for file in (path, "*") for changed in (after, "*"))
    return next((equivalent[key] for key in keys if key in equivalent), "")


def _write(path: Path, code: str) -> None:
    """Write a source file; bytecode of another version with the same size and second would be taken for its own."""
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()
    path.write_text(code)


def show(result: Result) -> str:
    """File, line and change."""
    old = "".join(f"\n    - {line}" for line in result.before.splitlines())
    new = "".join(f"\n    + {line}" for line in result.after.splitlines())
    return f"  {result.mutant.path}:{result.mutant.line}{old}{new}"
