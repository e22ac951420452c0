"""Which small changes of the code the tests notice: mutation scores by folder.

    make mutate FOLDERS="generation handlers" SAMPLE=100 SEED=1
    python -m tests.mutation --survivors generation      only those that the last run left

Changes are made in a copy of the tree. A process that has imported all third-party libraries is forked for each change,
so that a run costs little more than its tests, which are those that run the changed line.
"""

import argparse
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import yaml

from tests.mutation.covering import Chosen, Covering, Tracing
from tests.mutation.folders import FOLDERS, Folder
from tests.mutation.mutants import Mutant, changed_lines, sample

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
RESULTS = ROOT / "out" / "mutation"
PYTEST = (
    *("-x", "-q", "-p", "no:cacheprovider", "-m", "not server and not slow and not exhaustive"),
    # Plugins that a library has imported.
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)
MEMORY = 12 * 2**30
"""Bytes of addresses that tests may take: a changed size must not fill the machine."""
SECONDS = 60
"""CPU time of the tests that one change meets, so that survivors have a bounded cost; others that are left out can only
lower the score."""
NO_TESTS = 5
"""Exit status of pytest without tests. It has 4 where a conftest.py cannot import the changed code."""
BROKEN = 99
"""Exit status of a fork that could not run its tests."""


@dataclass(frozen=True)
class Result:
    """What became of one change: killed, timeout (killed too), survived, or equivalent with a reason."""

    mutant: Mutant
    outcome: str
    before: str
    after: str
    reason: str = ""


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
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            if cpu < math.inf:
                resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(cpu), resource.RLIM_INFINITY))
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            import pytest

            status = pytest.main([*PYTEST, *arguments], plugins=None if plugin is None else [plugin()])
            if modules is not None:
                modules.write_text("\n".join(name for name in sys.modules if name.split(".")[0] not in OWN))
            os._exit(int(status))
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
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    return None


def import_libraries(modules: Path) -> None:
    """Import what the tests import, so that no fork needs to; pytest wants to import its plugins itself."""
    plugins = {entry.value.split(".")[0] for entry in entry_points(group="pytest11")}
    for name in modules.read_text().splitlines():
        if name.split(".")[0] not in plugins:
            with suppress(Exception):
                import_module(name)


def cover(name: str, folder: Folder, tree: Path) -> Covering:
    """Run all tests of a folder without a change, and note which lines they run."""
    log, modules, noted = (tree.parent / f"{name}.{kind}" for kind in ("log", "modules", "lines"))
    run_tests(["--collect-only", *folder.tests], log, 600, modules=modules)
    import_libraries(modules)
    start = time.monotonic()
    status = run_tests(folder.tests, log, 1800, plugin=partial(Tracing, tree / folder.path, noted))
    if status != 0:
        raise SystemExit(f"{name}: the tests fail without any change:\n{log.read_text()[-3000:]}")
    covering = Covering.read(noted)
    print(f"{name}: {len(covering.seconds)} tests take {time.monotonic() - start:.0f} s with tracing", flush=True)
    return covering


def test_mutants(
    name: str, folder: Folder, tree: Path, mutants: Sequence[Mutant], equivalent: dict[tuple[str, ...], str]
) -> list[Result]:
    """Change the copy, once for each mutant, and run the tests that run the changed line."""
    log, failed = tree.parent / f"{name}.log", tree.parent / f"{name}.failed"
    covering = cover(name, folder, tree)
    results: list[Result] = []
    for mutant in mutants:
        path = tree / mutant.path
        source = path.read_text()
        code = mutant.code(source)
        before, after = changed_lines(source, code)
        reason = _reason(equivalent, mutant.path, before, after)
        outcome = "equivalent"
        start = time.monotonic()
        if not reason:
            tests = covering.tests_of(path, mutant.line, SECONDS)
            files = dict.fromkeys(test.split("::")[0] for test in tests)
            failed.unlink(missing_ok=True)
            _write(path, code)
            usual = sum(covering.seconds[test] for test in tests)
            status = run_tests(
                [*files], log, 60 + 20 * usual, plugin=partial(Chosen, tests, failed), cpu=30 + 5 * usual
            )
            _write(path, source)
            if status in (BROKEN, NO_TESTS):
                raise SystemExit(f"{name}: pytest could not run:\n{log.read_text()[-3000:]}")
            if failed.exists():
                covering.notice(path, failed.read_text())
            outcome = {None: "timeout", -signal.SIGXCPU: "timeout", 0: "survived"}.get(status, "killed")
        results.append(Result(mutant, outcome, before, after, reason))
        survived = sum(result.outcome == "survived" for result in results)
        took = time.monotonic() - start
        print(
            f"{name} {len(results)}/{len(mutants)} {outcome:10} {took:4.0f} s  survived so far: {survived}", flush=True
        )
        if outcome == "survived":
            print(show(results[-1]), flush=True)
    return results


def _reason(equivalent: dict[tuple[str, ...], str], path: str, before: str, after: str) -> str:
    """Why no test can notice a change, "" where one can."""
    keys = ((file, before, changed) for file in (path, "*") for changed in (after, "*"))
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


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a proportion. Source: Wilson, "Probable Inference", 1927."""
    if count == 0:
        return 0.0, 1.0
    z, share = 1.96, hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - half, middle + half


def row(name: str, results: Sequence[Result]) -> str:
    """A folder's line of the table."""
    count = {kind: sum(result.outcome == kind for result in results) for kind in ("survived", "equivalent")}
    counted = len(results) - count["equivalent"]
    killed = counted - count["survived"]
    low, high = wilson(killed, counted)
    score = f"{100 * killed / max(counted, 1):.0f} % ({100 * low:.0f} to {100 * high:.0f})"
    return f"| {name} | {killed} | {count['survived']} | {count['equivalent']} | {score} |"


def main() -> None:
    """Run mutants of each folder and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", help=f"of {', '.join(FOLDERS)}; default: all")
    parser.add_argument("--sample", type=int, default=100, help="changes in each folder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--survivors", action="store_true", help="only the survivors of the last run")
    arguments = parser.parse_args()
    names = arguments.folders or list(FOLDERS)
    for name in names:
        if name not in FOLDERS:
            parser.error(f"folder {name!r} is unknown; known: {', '.join(FOLDERS)}")
    equivalent = {
        (entry["file"], entry["before"], after): entry["reason"]
        for entry in yaml.safe_load((ROOT / "tests/mutation/equivalent.yaml").read_text()) or ()
        for after in ([entry["after"]] if isinstance(entry["after"], str) else entry["after"])
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    table = ["| folder | killed | survived | equivalent | score (95 % interval) |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory(prefix="mutation-") as place:
        tree = Path(place) / "tree"
        copy_tree(tree)
        move_into(tree)
        for name in names:
            kept = RESULTS / f"{name}.json"
            if arguments.survivors:
                mutants = [Mutant(**result["mutant"]) for result in json.loads(kept.read_text())]
            else:
                mutants = sample(tree, FOLDERS[name].files(tree), arguments.sample, arguments.seed)
            results = test_mutants(name, FOLDERS[name], tree, mutants, equivalent)
            table.append(row(name, results))
            survivors = [result for result in results if result.outcome == "survived"]
            kept.write_text(json.dumps([asdict(result) for result in survivors], indent=1))
            print("\n".join([*table, *map(show, survivors)]), flush=True)


if __name__ == "__main__":
    main()
