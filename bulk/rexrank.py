"""ReXrank's entry point: its JSON in, the same JSON with `model_prediction` out.

python -m bulk.rexrank IN.json OUT.json IMG_ROOT --model model_store/demo.mar
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from bulk.__main__ import main as run
from bulk.output import Output
from bulk.storage import Location
from terminal.arguments import CommandLine

PREDICTION = "model_prediction"


def main(arguments: list[str] | None = None) -> int:
    """Write the predictions; the exit code is 1 if a study has none."""
    parser = CommandLine(__doc__)
    parser.add_argument("studies", type=Path, metavar="IN.json")
    parser.add_argument("predictions", type=Path, metavar="OUT.json")
    parser.add_argument("images", metavar="IMG_ROOT")
    parser.add_argument("--reports", help="folder for the reports, from which a stopped job continues (temporary)")
    given, others = parser.parse_known_args(arguments)
    if given.studies.suffix.lower() != ".json":
        parser.error(f"{given.studies} is not called .json, as ReXrank's files are")
    # Before hours of work, which it would lose.
    if given.predictions.is_dir() or not os.access(given.predictions.absolute().parent, os.W_OK):
        parser.error(f"{given.predictions} cannot be written; give a file in a folder that exists")
    with tempfile.TemporaryDirectory(prefix="prelim-") as temporary:
        folder = given.reports or f"{temporary}/reports"
        code = run([str(given.studies), folder, "--images", given.images, *others])
        return code or _write(given.studies, given.predictions, Output(Location.of(folder)))


def _write(studies: Path, predictions: Path, output: Output) -> int:
    entries = json.loads(studies.read_bytes())
    for table in output.columns("study_id", "report", "message"):
        for row in table.to_pylist():
            if row["study_id"] not in entries:
                continue
            if row["report"] is None:
                print(f"study {row['study_id']}: {row['message']}", file=sys.stderr)
            # ReXrank wants a text for every study.
            entries[row["study_id"]][PREDICTION] = row["report"] or ""
    Location.of(str(predictions)).write(json.dumps(entries, indent=1, ensure_ascii=False).encode())
    return int(any(not entry.get(PREDICTION) for entry in entries.values()))


if __name__ == "__main__":
    sys.exit(main())
