"""Look at a data set before a model does: is it whole, is it leaking, what is in it.

$ python -m training.validate_data open_radiology ../shared/data/open_radiology
$ python -m training.validate_data openi_xml NLMCXR_reports.tgz --images NLMCXR_png --tokenizer models/mine
$ python -m training.validate_data training/configs/mine.yaml

Every image is decoded whole. Writes validation.json and validation.html (self-contained, with plots) into `--out`, and
prints what was found. Exits with 1 where images cannot be decoded, or patients or pictures lie in more than one split;
with 2 where the data set cannot be read at all.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from training.datasets import FORMATS, read_studies
from training.datasets.checks.balance import describe_balance, describe_counts, describe_pixels, splits_of
from training.datasets.checks.duplicates import DISTANCE
from training.datasets.checks.findings import Finding, all_findings
from training.datasets.checks.images import ImageFacts, examine_images
from training.datasets.checks.page import write_page
from training.datasets.checks.plots import all_plots
from training.datasets.checks.texts import WORD, describe_texts, describe_tokens
from training.datasets.splits import assign_splits, fixed_splits
from training.datasets.study import DatasetError, Study

SECTIONS = ("findings", "impression", "report")


@dataclass(frozen=True)
class Source:
    """What is looked at.

    format, path, images, limit : see training.datasets.read_studies
    sections                    : that a model would learn to write
    tokenizer, max_tokens       : tokenizer.json, and where training cuts; None: not looked at
    seed                        : of the splits, where the data set fixes none
    """

    format: str
    path: Path
    images: Path | None = None
    limit: int | None = None
    sections: tuple[str, ...] = SECTIONS
    tokenizer: Path | None = None
    max_tokens: int | None = None
    seed: int = 0


def validate(source: Source, distance: int, jobs: int) -> tuple[dict[str, Any], list[Finding], dict[str, Any]]:
    """The result as it goes into the JSON file, the findings in full, and the plots.

    distance : between the perceptual hashes of two images that count as one picture, in bits of 256
    jobs     : processes that decode images
    """
    studies, how = _split(read_studies(source.format, source.path, source.images, limit=source.limit), source.seed)
    by_split = {
        split: [study.text(source.sections) for study in studies if study.split == split]
        for split in splits_of(studies)
    }
    texts = describe_texts(by_split)
    if source.tokenizer is not None:
        everything = [text for reports in by_split.values() for text in reports]
        texts["tokens"] = describe_tokens(everything, source.tokenizer, source.max_tokens)
    facts = examine_images(list(dict.fromkeys(image for study in studies for image in study.images)), jobs)
    findings = all_findings(studies, facts, texts, distance)
    result = {
        "verdict": _verdict(findings, facts),
        "source": {
            "name": source.path.resolve().name,
            "format": source.format,
            "path": str(source.path),
            "images": str(source.images or ""),
            "sections": list(source.sections),
            "splits": how,
            "distance": distance,
        },
        "findings": [
            {name: value for name, value in vars(finding).items() if name != "pictures"} for finding in findings
        ],
        "counts": describe_counts(studies),
        "patients": len({study.patient_id for study in studies}),
        "states": dict(Counter(fact.state for fact in facts)),
        "texts": texts,
        "balance": describe_balance(studies),
        "images": describe_pixels(facts),
    }
    lengths = {split: [len(WORD.findall(text)) for text in reports if text] for split, reports in by_split.items()}
    repeats = Counter(" ".join(text.split()) for reports in by_split.values() for text in reports if text)
    plots = all_plots(result, facts, lengths, sorted(repeats.values(), reverse=True))
    texts.get("tokens", {}).pop("lengths", None)  # only the plot needs every single one
    return result, findings, plots


def _split(studies: list[Study], seed: int) -> tuple[list[Study], str]:
    """The studies, each with a split, and where the splits come from."""
    fixed = fixed_splits(studies)
    if any(len(splits) > 1 for splits in fixed.values()):
        known = [study for study in studies if study.split is not None]
        return known, f"The splits of the data set; {len(studies) - len(known)} studies without one are left out."
    if all(study.split is not None for study in studies):
        return studies, "The splits of the data set."
    which = "those of the data set, the rest" if fixed else "the data set fixes none; they are"
    return assign_splits(studies, seed), f"Splits: {which} drawn by patient with seed {seed}."


def _verdict(findings: Sequence[Finding], facts: Sequence[ImageFacts]) -> dict[str, str]:
    worst = findings[0].level if findings else "note"
    kinds = ", ".join(finding.kind.replace("_", " ") for finding in findings if finding.level == worst)
    if worst == "error":
        return {"level": "error", "text": f"Do not train on this yet: {kinds}."}
    seen = sum(fact.state != "missing" for fact in facts)
    among = "" if seen == len(facts) else f" among the {seen:,} of {len(facts):,} images that are here"
    clean = f"No leakage and no corrupt image{among}."
    return (
        {"level": "good", "text": clean}
        if worst == "note"
        else {"level": "warning", "text": f"{clean} Look at: {kinds}."}
    )


def read_source(arguments: argparse.Namespace) -> Source:
    """The source that the command line names, itself or in a YAML file; options of the command line win."""
    what = arguments.source
    values: dict[str, Any] = {}
    if len(what) == 1:
        values = _from_config(Path(what[0]))
    elif len(what) == 2:
        values = {"format": what[0], "path": what[1]}
    else:
        raise DatasetError(
            f"give CONFIG.yaml, or FORMAT PATH with a format of: {', '.join(FORMATS)}; not {len(what)} words"
        )
    for name in ("images", "limit", "sections", "tokenizer", "max_tokens", "seed"):
        if getattr(arguments, name) is not None:
            values[name] = getattr(arguments, name)
    for name in ("path", "images", "tokenizer"):
        if values.get(name):
            values[name] = Path(values[name])
    return Source(**{**values, "sections": tuple(values.get("sections", SECTIONS))})


def _from_config(path: Path) -> dict[str, Any]:
    """What a training configuration says of its data; its other keys are for training to check."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DatasetError(f"{path} is no YAML file: {error}; give CONFIG.yaml, or FORMAT PATH") from error
    dataset = config.get("dataset") if isinstance(config, Mapping) else None
    if not isinstance(dataset, Mapping) or not {"format", "path"} <= set(dataset):
        raise DatasetError(f"{path} has no section dataset with the keys format and path")
    start = config.get("start")
    found = {
        "format": dataset["format"],
        "path": dataset["path"],
        "images": dataset.get("image_folder"),
        "sections": dataset.get("sections"),
        "max_tokens": dataset.get("max_tokens"),
        "seed": dataset.get("split_seed"),
        "tokenizer": start.get("tokenizer") if isinstance(start, Mapping) else None,
    }
    return {name: value for name, value in found.items() if value}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="+", help="CONFIG.yaml with dataset.format and dataset.path, or FORMAT PATH")
    parser.add_argument("--images", help="folder of the images, where it is not the format's own")
    parser.add_argument("--limit", type=int, help="look at so many studies only, from the first on")
    parser.add_argument("--sections", nargs="+", help=f"of a report, to look at (default: {' '.join(SECTIONS)})")
    parser.add_argument("--tokenizer", help="tokenizer.json, or a folder with one")
    parser.add_argument("--max-tokens", type=int, help="where training would cut a report")
    parser.add_argument("--seed", type=int, help="of the splits, where the data set fixes none (default: 0)")
    parser.add_argument("--distance", type=int, default=DISTANCE, help="bits of 256 (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument("--out", type=Path, default=Path("out/data"))
    arguments = parser.parse_args()
    try:
        result, findings, plots = validate(read_source(arguments), arguments.distance, arguments.jobs)
    except DatasetError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "validation.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    write_page(arguments.out / "validation.html", result, findings, plots)
    for finding in findings:
        print(f"{finding.level:8}{finding.title}: {finding.amount} ({finding.advice})")
    print(f"{result['verdict']['text']} {arguments.out / 'validation.html'}")
    sys.exit(1 if result["verdict"]["level"] == "error" else 0)


if __name__ == "__main__":
    main()
