"""Which small changes of the code the tests notice: mutation scores by folder.

    make mutate FOLDERS="generation handlers" SAMPLE=100 SEED=1
    python -m tests.mutation --survivors generation      only those that the last run left

Changes are made in a copy of the tree. For each a process is forked that has imported everything (`warm`), or, where
the change is in what runs on import, all third-party libraries: a run costs little more than its tests, which are those
that run the changed line.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from terminal.arguments import CommandLine
from tests.mutation.folders import FOLDERS
from tests.mutation.mutants import Mutant, sample, squeezed
from tests.mutation.processes import ROOT, copy_tree, move_into
from tests.mutation.trials import RESULTS, Result, Trials, show
from training.evaluation.metrics.f1 import share_interval


def row(name: str, results: Sequence[Result]) -> str:
    """A folder's line of the table."""
    count = {kind: sum(result.outcome == kind for result in results) for kind in ("survived", "equivalent")}
    counted = len(results) - count["equivalent"]
    killed = counted - count["survived"]
    share, low, high = share_interval(killed, counted)
    score = f"{100 * share:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
    return f"| {name} | {killed} | {count['survived']} | {count['equivalent']} | {score} |"


def main() -> None:
    """Run mutants of each folder and print the table."""
    parser = CommandLine(__doc__)
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
        (entry["file"], squeezed(entry["before"]), squeezed(after)): entry["reason"]
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
            results = Trials(name, FOLDERS[name], tree, equivalent).run(mutants)
            table.append(row(name, results))
            survivors = [result for result in results if result.outcome == "survived"]
            kept.write_text(json.dumps([asdict(result) for result in survivors], indent=1))
            print("\n".join([*table, *map(show, survivors)]), flush=True)


if __name__ == "__main__":
    main()
