"""Check a data set before training: is it complete, is it leaking, what is in it.

$ python -m training.validate_data open_radiology ../shared/data/open_radiology
$ python -m training.validate_data openi_xml NLMCXR_reports.tgz --images NLMCXR_png --tokenizer models/mine
$ python -m training.validate_data training/configs/mine.yaml

Every image is decoded whole. Writes validation.json and validation.html (self-contained, with plots) into `--out`, and
prints the findings. Exits with 1 where images or features cannot be read, too many images are missing, no study can
be used, or patients or pictures are in more than one split; with 2 where the data set cannot be read at all.
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

from prelim.errors import PrelimError
from terminal.arguments import CommandLine, positive
from terminal.program import sign_of_life
from training.datasets import FORMATS
from training.datasets.checks.balance import describe_balance, describe_counts, describe_pixels, splits_of
from training.datasets.checks.duplicates import DISTANCE
from training.datasets.checks.findings import Finding, find_all
from training.datasets.checks.html_page import write_page
from training.datasets.checks.image_facts import ImageFacts, examine_images
from training.datasets.checks.plots import all_plots
from training.datasets.checks.texts import WORD, describe_texts, describe_tokens
from training.datasets.source import Source, read_source
from training.datasets.splits import assign_splits, find_fixed_splits
from training.datasets.study import DatasetError, Study
from training.settings import DatasetSettings, make_dataset_settings, read_dataset_settings


@dataclass(frozen=True)
class Check:
    """What is checked.

    source                : the data set, as training reads it
    limit                 : see training.datasets.read_studies
    tokenizer, max_tokens : tokenizer.json, and where training cuts; None: not checked
    distance              : between the perceptual hashes of two images that count as one picture, in bits of 256
    jobs                  : processes that decode images
    """

    source: Source
    limit: int | None = None
    tokenizer: Path | None = None
    max_tokens: int | None = None
    distance: int = DISTANCE
    jobs: int = 1


def validate(check: Check) -> tuple[dict[str, Any], list[Finding], dict[str, Any]]:
    """The result as it goes into the JSON file, the findings in full, and the plots. Raises DatasetError."""
    source = check.source
    with sign_of_life("reading the data"):
        studies, how = _split(read_source(source, check.limit), source)
    by_split = {
        split: [study.text(source.sections) for study in studies if study.split == split]
        for split in splits_of(studies)
    }
    texts = describe_texts(by_split)
    if check.tokenizer is not None:
        everything = [text for reports in by_split.values() for text in reports]
        texts["tokens"] = describe_tokens(everything, check.tokenizer, check.max_tokens)
    facts = examine_images(
        list(dict.fromkeys(image for study in studies for image in study.images)), check.jobs, source.frame
    )
    with sign_of_life("comparing images and texts"):
        extracted = isinstance(source, DatasetSettings) and bool(source.features)
        findings = find_all(studies, facts, texts, check.distance, source, extracted=extracted)
    result = {
        "verdict": _judge(findings, facts, f" of the first {check.limit:,} studies" if check.limit else ""),
        "source": {
            "name": Path(os.path.realpath(source.path)).name,
            "format": source.format,
            "path": source.path,
            "images": source.image_folder,
            "sections": list(source.sections),
            "splits": how,
            "frame": source.frame,
            "distance": check.distance,
        },
        "findings": [
            {name: value for name, value in vars(finding).items() if name != "pictures"} for finding in findings
        ],
        "counts": describe_counts(studies),
        "patients": len({study.patient_id for study in studies if study.patient_id is not None}),
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


def _split(studies: list[Study], source: Source) -> tuple[list[Study], str]:
    """The studies, each with a split, and where the splits come from."""
    fixed = find_fixed_splits(studies)
    if source.splits == "fixed" and any(len(splits) > 1 for splits in fixed.values()):
        known = [study for study in studies if study.split is not None]
        return known, f"The splits of the data set; {len(studies) - len(known)} studies without one are left out."
    split = assign_splits(studies, source.split_seed, source.fractions, source.splits)
    if source.splits == "disjoint":
        left_out = len(studies) - len(split)
        return split, f"The splits of the data set, without {left_out} studies of patients who are in a later one too."
    if source.splits == "fixed" and all(study.split is not None for study in studies):
        return split, "The splits of the data set."
    which = "those of the data set, the rest" if fixed and source.splits == "fixed" else "all"
    shares = ", ".join(f"{name} {share:.0%}" for name, share in source.fractions.items())
    who = "patient" if all(study.patient_id for study in studies) else "patient, or by study where that is unknown,"
    return split, f"Splits: {which} drawn by {who} with seed {source.split_seed} ({shares})."


def _judge(findings: Sequence[Finding], facts: Sequence[ImageFacts], first: str) -> dict[str, str]:
    """Level and sentence.

    first : which studies were looked at, where those are not all
    """
    worst = findings[0].level if findings else "note"
    kinds = ", ".join(finding.kind.replace("_", " ") for finding in findings if finding.level == worst)
    if worst == "error":
        return {"level": "error", "text": f"Do not train on this yet: {kinds}."}
    seen = sum(fact.state != "missing" for fact in facts)
    among = "" if seen == len(facts) else f" among the {seen:,} of {len(facts):,} images that are here"
    unknown = any(finding.kind == "patients_unknown" for finding in findings)
    alike = any(finding.kind == "patients_alike" for finding in findings)
    who = "patients are unknown" if unknown else "patients may be"
    if seen:
        leakage = f"No image is in two splits, {who}" if unknown or alike else "No leakage"
        clean = f"{leakage}; no corrupt image{among}{first}."
    else:
        patients = who.capitalize() if unknown else f"{'Patients may be' if alike else 'No patient is'} in two splits"
        why = f"none of the {len(facts):,} is here" if facts else "there are none"
        clean = f"{patients}{first}; images were not checked: {why}."
    return (
        {"level": "good", "text": clean}
        if worst == "note"
        else {"level": "warning", "text": f"{clean} Look at: {kinds}."}
    )


def make_check(arguments: argparse.Namespace) -> Check:
    """What the command line names, itself or in a YAML file; options of the command line win.

    Raises DatasetError and SettingsError.
    """
    what = arguments.source
    given: dict[str, Any] = {
        "image_folder": arguments.images,
        "sections": arguments.sections,
        "split_seed": arguments.seed,
        "max_tokens": arguments.max_tokens,
        "patient_column": arguments.patient_column,
        "patient_pattern": arguments.patient_pattern,
        "frame": arguments.frame,
    }
    given = {name: value for name, value in given.items() if value is not None}
    tokenizer = arguments.tokenizer
    if len(what) == 1:
        dataset = read_dataset_settings(what[0], given)
        tokenizer = tokenizer or _find_tokenizer(Path(what[0]))
    elif len(what) == 2:
        dataset = make_dataset_settings({"format": what[0], "path": what[1], **given})
    else:
        raise DatasetError(
            f"give CONFIG.yaml, or FORMAT PATH with a format of: {', '.join(FORMATS)}; not {len(what)} words"
        )
    return Check(
        dataset,
        limit=arguments.limit,
        tokenizer=Path(tokenizer) if tokenizer else None,
        max_tokens=dataset.max_tokens or None,
        distance=arguments.distance,
        jobs=arguments.jobs,
    )


def _find_tokenizer(config: Path) -> str | None:
    """The tokenizer that a training configuration names; read_dataset_settings has checked that it is YAML."""
    start = yaml.safe_load(config.read_text(encoding="utf-8")).get("start")
    return start.get("tokenizer") if isinstance(start, Mapping) else None


def main() -> None:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("source", nargs="+", help="CONFIG.yaml with dataset.format and dataset.path, or FORMAT PATH")
    parser.add_argument("--images", help="folder of the images, where it is not the format's own")
    parser.add_argument("--limit", type=positive, help="check only this many studies, from the first on")
    parser.add_argument("--sections", nargs="+", help="of a report (default: findings impression, else report)")
    parser.add_argument("--tokenizer", help="tokenizer.json, or a folder with one")
    parser.add_argument("--max-tokens", type=positive, help="where training would cut a report")
    parser.add_argument("--seed", type=int, help="of the splits, where the data set fixes none (default: 0)")
    parser.add_argument("--patient-column", help="column or key that names the patient")
    parser.add_argument("--patient-pattern", help="regular expression whose group, in the study's id, is the patient")
    parser.add_argument("--frame", type=positive, help="of files with several frames or pages, counted from 1")
    parser.add_argument("--distance", type=int, default=DISTANCE, help="bits of 256 (default: %(default)s)")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument("--out", type=Path, default=Path("out/data"))
    arguments = parser.parse_args()
    try:
        result, findings, plots = validate(make_check(arguments))
    except PrelimError as error:
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
