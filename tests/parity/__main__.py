"""Compare our systems with fixtures and print a table.

    python -m tests.parity FIXTURE.json [...]

Exit code 1 if an output differs. Outputs that are recorded but not covered are listed.
"""

import argparse
import contextlib
import importlib
import io
import sys
import tempfile
from pathlib import Path

import torch
from tqdm import tqdm

from tests.parity.fixture import Fixture, Result, compare


def check(path: Path) -> tuple[list[tuple[str, Result]], list[str]]:
    """All compared outputs of a fixture with their section, and the names of those that are not covered."""
    fixture = Fixture(path)
    system = importlib.import_module(f"tests.parity.system{fixture.system}")
    results: list[tuple[str, Result]] = []
    uncovered: list[str] = []
    for section in system.SECTIONS:
        if section not in fixture.contents:
            continue
        records = fixture.contents[section]
        records = records["outputs"] if isinstance(records, dict) else records
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            shown = tqdm(
                compare(records, system.outputs(fixture, section, Path(folder))),
                total=len(records),
                desc=f"{path.stem} {section}",
                leave=False,
                disable=None,
            )
            # What the import prints is of no interest here.
            with contextlib.redirect_stdout(io.StringIO()):
                found = list(shown)
        results += [(section, result) for result in found]
        covered = {result.name for result in found}
        uncovered += [f"{section}: {record['name']}" for record in records if record["name"] not in covered]
    return results, uncovered


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Compare our systems with fixtures of the original implementations.")
    parser.add_argument("fixture", type=Path, nargs="+")
    failed = 0
    for path in parser.parse_args().fixture:
        results, uncovered = check(path)
        print(f"\n{path.name}\n{'section':24}{'output':44}{'max abs error':>14}  result")
        for section, result in results:
            print(f"{section:24}{result.name:44}{result.error:14.2e}  {'pass' if result.passed else 'FAIL'}")
            failed += not result.passed
        for name in uncovered:
            print(f"not covered: {name}")
    print(f"\n{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
