"""What is wrong with a data set, or worth knowing, in order of weight."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.data_checks.duplicates import exact_groups, near_pairs
from training.data_checks.images import ImageFacts
from training.datasets.files import IMAGE_SUFFIXES
from training.datasets.splits import fixed_splits
from training.datasets.study import Study

LEVELS = ("error", "warning", "note")

EXAMPLES = 8
"""So many are named or shown; all are counted."""


@dataclass(frozen=True)
class Finding:
    """One thing found.

    level    : "error": must not be trained or tested on like this; "warning": look at it; "note": know it
    kind     : a stable name, such as "image_leakage"
    count    : how many
    text     : what it is and what to do
    examples : some of them, in words
    pictures : some of them as groups of image files
    """

    level: str
    kind: str
    count: int
    text: str
    examples: tuple[str, ...] = ()
    pictures: tuple[tuple[Path, ...], ...] = ()


def all_findings(
    studies: Sequence[Study], facts: Sequence[ImageFacts], texts: Mapping[str, Any], distance: int
) -> list[Finding]:
    """Everything found, errors first.

    studies  : each with its split
    facts    : of every image that a study names, each once
    texts    : from `describe_texts`
    distance : between the hashes of two images that count as one picture
    """
    owners: dict[Path, list[Study]] = defaultdict(list)
    for study in studies:
        for image in study.images:
            owners[image].append(study)
    found = [
        *_states(facts),
        *_patients(studies),
        *_duplicates(facts, owners, distance),
        *_unnamed(facts),
        *_reports(studies, texts),
    ]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _states(facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    total = len(facts)
    for state, level, text in (
        ("corrupt", "error", f"of {total} image files cannot be decoded: fetch them again, or remove them"),
        ("missing", "warning", f"of {total} image files that the data set names are not on this disk"),
        ("refused", "warning", f"of {total} image files can be decoded, but the server would refuse them"),
    ):
        chosen = [fact for fact in facts if fact.state == state]
        if chosen:
            examples = tuple(f"{fact.path}: {fact.reason}" for fact in chosen[:EXAMPLES])
            yield Finding(level, f"images_{state}", len(chosen), text, examples)


def _patients(studies: Sequence[Study]) -> Iterator[Finding]:
    leaking = {patient: splits for patient, splits in fixed_splits(studies).items() if len(splits) > 1}
    if leaking:
        examples = tuple(f"{patient}: {', '.join(splits)}" for patient, splits in list(leaking.items())[:EXAMPLES])
        text = "patients are in more than one split: split the data set anew by patient (keep_fixed: false)"
        yield Finding("error", "patient_leakage", len(leaking), text, examples)


def _duplicates(
    facts: Sequence[ImageFacts], owners: Mapping[Path, Sequence[Study]], distance: int
) -> Iterator[Finding]:
    exact = exact_groups([fact.digest for fact in facts])
    twins = {i for group in exact for i in group[1:]}
    # A file that several studies name is a group of its own.
    shared = [[i] for i, fact in enumerate(facts) if fact.digest and len(owners[fact.path]) > 1]
    hashed = [(i, fact.bits) for i, fact in enumerate(facts) if fact.bits is not None and i not in twins]
    pairs = near_pairs(np.stack([bits for _, bits in hashed]), distance) if hashed else np.empty((0, 3), np.int64)
    near = [[hashed[one][0], hashed[other][0]] for one, other, _ in pairs.tolist()]
    for kind, groups, what in (
        ("shared", shared, "image files belong to several studies"),
        ("exact", exact, "images are there more than once, byte for byte,"),
        ("near", near, f"pairs of images are one picture in other bytes (at most {distance} of 256 bits differ)"),
    ):
        files = [[facts[i].path for i in group] for group in groups]
        across, rest = _parted(files, owners, lambda study: str(study.split))
        between, within = _parted(rest, owners, lambda study: study.patient_id)
        for level, name, chosen, where in (
            ("error", f"{kind}_image_leakage", across, "in different splits: remove them from all but one"),
            ("warning", f"{kind}_duplicates", between, "under different patients: are the patients one person?"),
            ("note", f"{kind}_repeats", within, "of one patient"),
        ):
            if chosen:
                examples = tuple(_named(group, owners) for group in chosen[:EXAMPLES])
                pictures = tuple(tuple(group[:2]) for group in chosen[:EXAMPLES]) if level != "note" else ()
                yield Finding(level, name, len(chosen), f"{what} {where}", examples, pictures)


def _parted(
    groups: Sequence[list[Path]], owners: Mapping[Path, Sequence[Study]], belongs: Callable[[Study], str]
) -> tuple[list[list[Path]], list[list[Path]]]:
    """The groups of images that belong to more than one thing, and the others."""
    mixed: list[list[Path]] = []
    pure: list[list[Path]] = []
    for group in groups:
        several = len({belongs(study) for image in group for study in owners[image]}) > 1
        (mixed if several else pure).append(group)
    return mixed, pure


def _named(group: Sequence[Path], owners: Mapping[Path, Sequence[Study]]) -> str:
    """Every image with its split and patient; one with several studies has several."""
    words = []
    for image in group[:EXAMPLES]:
        places = dict.fromkeys(f"{study.split}, patient {study.patient_id}" for study in owners[image])
        words.append(f"{image.name} ({'; '.join(list(places)[:3])})")
    return " = ".join(words)


def _unnamed(facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    named = {fact.path.resolve() for fact in facts}
    folders = {fact.path.parent for fact in facts if fact.state != "missing"}
    unnamed = [file for folder in sorted(folders) for file in _image_files(folder) if file.resolve() not in named]
    if unnamed:
        text = "image files lie beside the others and belong to no study"
        yield Finding("note", "images_unnamed", len(unnamed), text, tuple(map(str, unnamed[:EXAMPLES])))


def _image_files(folder: Path) -> Iterable[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)


def _reports(studies: Sequence[Study], texts: Mapping[str, Any]) -> Iterator[Finding]:
    empty = sum(texts["empty"].values())
    if empty:
        text = f"of {len(studies)} studies have no text in the sections looked at"
        yield Finding("warning", "reports_empty", empty, text)
    if texts["repeated"]:
        share = texts["repeated"] / texts["reports"]
        level = "warning" if share > 0.5 else "note"
        text = (
            f"of {texts['reports']} reports ({share:.0%}) are word for word the same as another; "
            f"{texts['distinct']} are distinct: a constant text scores well here, so compare every model with one"
        )
        examples = tuple(f"{row['reports']} x {row['text']}" for row in texts["most_repeated"][:EXAMPLES])
        yield Finding(level, "reports_repeated", texts["repeated"], text, examples)
    if texts["deidentified"]:
        text = (
            f"of {texts['reports']} reports hold marks of de-identification (XXXX, ___), which a model learns to write"
        )
        yield Finding("note", "reports_deidentified", texts["deidentified"], text)
    cut = texts.get("tokens", {}).get("cut")
    if cut:
        text = f"of {texts['reports']} reports are longer than {texts['tokens']['max_tokens']} tokens and would be cut"
        yield Finding("warning", "reports_cut", cut, text)
    contradicting = _contradicting(studies)
    if contradicting:
        text = "studies ask the same about the same images as another, and are answered differently"
        yield Finding("note", "reports_differ", len(contradicting), text, tuple(contradicting[:EXAMPLES]))


def _contradicting(studies: Sequence[Study]) -> list[str]:
    answers: dict[tuple[tuple[Path, ...], str], Counter[str]] = defaultdict(Counter)
    for study in studies:
        if study.images:
            answers[study.images, study.labels.get("prompt", "")][str(dict(study.sections))] += 1
    return [f"{images[0].name}: {prompt}" for (images, prompt), texts in answers.items() if len(texts) > 1]
