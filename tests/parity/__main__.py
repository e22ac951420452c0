"""Compare our systems with fixtures and print a table.

    python -m tests.parity FIXTURE.json [...]
    python -m tests.parity --full FIXTURE.json      # includes sections of minutes and gigabytes

Exit code 1 if an output differs. Recorded outputs that are not covered are listed, and so are skipped ones with the
reason.
"""

import contextlib
import importlib
import io
import sys
import tempfile
from pathlib import Path

import torch
from tqdm import tqdm

from terminal.arguments import CommandLine
from tests.parity.fixture import Fixture, Result, compare


def check(path: Path, *, full: bool = False) -> tuple[list[tuple[str, Result]], list[str]]:
    """Compare the outputs of a fixture; returns the results with their section, and the names of uncovered outputs.

    full : include the sections of minutes and gigabytes
    """
    fixture = Fixture(path)
    system = importlib.import_module(f"tests.parity.system{fixture.system}")
    results: list[tuple[str, Result]] = []
    uncovered: list[str] = []
    skipped = getattr(system, "SKIPPED", {})
    for section in (*system.SECTIONS, *(getattr(system, "FULL_SECTIONS", ()) if full else ())):
        records = fixture.records(section)
        if records is None:
            continue
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            shown = tqdm(
                compare(records, system.outputs(fixture, section, Path(folder))),
                total=len(records),
                desc=f"{path.stem} {section}",
                leave=False,
                disable=None,
            )
            # Suppress the output of the import.
            with contextlib.redirect_stdout(io.StringIO()):
                found = list(shown)
        results += [(section, result) for result in found]
        covered = {result.name for result in found}
        missing = [f"{section}: {record['name']}" for record in records if record["name"] not in covered]
        uncovered += [name for name in missing if name not in skipped]
    return results, uncovered


def list_skipped(path: Path, *, full: bool = False) -> list[str]:
    """The outputs of a fixture that are not compared, with the reason."""
    fixture = Fixture(path)
    system = importlib.import_module(f"tests.parity.system{fixture.system}")
    large = [] if full else [s for s in getattr(system, "FULL_SECTIONS", ()) if fixture.records(s) is not None]
    skipped = getattr(system, "SKIPPED", {}).items()
    return [f"{section}: full size; run with --full" for section in large] + [
        f"{name}: {reason}" for name, reason in skipped if fixture.records(name.split(":")[0]) is not None
    ]


def main() -> int:
    """Command line."""
    parser = CommandLine("Compare our systems with fixtures of the original implementations.")
    parser.add_argument("fixture", type=Path, nargs="+")
    parser.add_argument(
        "--full", action="store_true", help="include full-size models: minutes, and about 7 GB of memory"
    )
    arguments = parser.parse_args()
    failed = 0
    for path in arguments.fixture:
        results, uncovered = check(path, full=arguments.full)
        print(f"\n{path.name}\n{'section':24}{'output':44}{'max abs error':>14}  result")
        for section, result in results:
            print(f"{section:24}{result.name:44}{result.error:14.2e}  {'pass' if result.passed else 'FAIL'}")
            failed += not result.passed
        for name in uncovered:
            print(f"not covered: {name}")
        for reason in list_skipped(path, full=arguments.full):
            print(f"skipped: {reason}")
    print(f"\n{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
