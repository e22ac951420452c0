"""What the scores do not see: the references themselves, altered on purpose, and texts that know nothing of the image.

$ python -m training.evaluation.blindness ../shared/data/iu_xray/r2gen_annotation.json --format r2gen
"""

import random
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from prelim.labels.labeler import Labeler
from terminal.arguments import CommandLine
from training.datasets import FORMATS
from training.datasets.source import Source
from training.datasets.study import SPLITS, DatasetError
from training.evaluation.baselines import best_constant_report, random_reports
from training.evaluation.data import EvaluationData, read_data
from training.evaluation.metrics.clinical import clinical_measures
from training.evaluation.metrics.overlap import Measures, coco_measures
from training.evaluation.metrics.r2gen import Protocol
from training.evaluation.table import format_row

_DENIED = re.compile(r"\b(?:no|not|without|free of|negative for)\b ?", re.IGNORECASE)
SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)
"""Words that name a side."""

SHOWN = ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "micro F1, 13 findings")


def remove_denials(text: str) -> str:
    """The text without the words that deny: "no effusion" becomes "effusion"."""
    return _DENIED.sub("", text)


def swap_sides(text: str) -> str:
    """The text with left for right and right for left."""
    return SIDES.sub(lambda match: "right" if match.group().lower() == "left" else "left", text)


def same_labels(train: Sequence[str], references: Sequence[str], seed: int = 0) -> list[str]:
    """For every reference a random training report with the same 14 labels, else any."""
    labeler, generator = Labeler(), random.Random(seed)  # noqa: S311 - a baseline, no secret
    by_labels = defaultdict(list)
    for text in train:
        by_labels[labeler.find(text)].append(text)
    return [generator.choice(by_labels.get(labeler.find(text)) or list(train)) for text in references]


def measure(data: EvaluationData) -> Measures:
    """Every wrong text by every score."""
    protocol = Protocol(data.train_texts)
    constant = best_constant_report(data.train_texts, data.val_texts, protocol)
    systems = {
        "references, denials removed": [remove_denials(text) for text in data.references],
        "references, sides swapped": [swap_sides(text) for text in data.references],
        "constant, best BLEU-4 on val": [constant] * len(data.references),
        "random training report": random_reports(data.train_texts, len(data.references)),
        "random training report, same 14 labels": same_labels(data.train_texts, data.references),
    }
    tokenized = {name: [protocol(text) for text in texts] for name, texts in systems.items()}
    overlap = coco_measures(tokenized, [protocol(text) for text in data.references])
    groups, _ = clinical_measures(systems, data.references)
    return {name: [*overlap[name], *groups[name]] for name in systems}


def tabulate(figures: Mapping[str, Mapping[str, float]]) -> str:
    """The table of SHOWN, for every wrong text."""
    lines = [format_row(["", *SHOWN]), "|---" * (len(SHOWN) + 1) + "|"]
    lines += [format_row([name, *(f"{found[shown]:.3f}" for shown in SHOWN)]) for name, found in figures.items()]
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("--sections", nargs="+", default=["report"])
    arguments = parser.parse_args()
    try:
        source = Source(format=arguments.format, path=str(arguments.data), sections=tuple(arguments.sections))
        data = read_data(source, arguments.split)
        if not data.train_texts or not data.val_texts:
            raise DatasetError(f"{arguments.data} has no training or no validation split to copy from")
    except DatasetError as error:
        sys.exit(str(error))
    print(tabulate({name: {one.name: one.score() for one in found} for name, found in measure(data).items()}))
    swapped = sum(SIDES.search(text) is not None for text in data.references)
    print(f"\n{swapped} of {len(data.references)} references name a side.")


if __name__ == "__main__":
    main()
