"""What is wrong with a data set, or worth knowing, in order of weight."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.datasets.checks.duplicates import exact_groups, near_pairs
from training.datasets.checks.image_facts import ImageFacts
from training.datasets.formats.feature_json import read_embedding
from training.datasets.image_files import explain_missing, list_images
from training.datasets.source import Source
from training.datasets.splits import find_fixed_splits
from training.datasets.study import DatasetError, Study
from training.datasets.values import fold_number

LEVELS = ("error", "warning", "note")

EXAMPLES = 8
"""So many are named or shown; all are counted."""


@dataclass(frozen=True)
class Finding:
    """One thing found.

    level    : "error": must not be trained or tested on like this; "warning": look at it; "note": know it
    kind     : a stable name, such as "image_leakage"
    title    : what is counted
    count    : how many
    total    : of how many, where that says more
    advice   : what it means or what to do
    examples : some of them, in words
    pictures : some of them as groups of image files
    """

    level: str
    kind: str
    title: str
    count: int
    total: int | None
    advice: str
    examples: tuple[str, ...] = ()
    pictures: tuple[tuple[Path, ...], ...] = ()

    @property
    def amount(self) -> str:
        """The count, and of how many, as it is shown."""
        return f"{self.count:,}" if self.total is None else f"{self.count:,} of {self.total:,}"


def find_all(
    studies: Sequence[Study],
    facts: Sequence[ImageFacts],
    texts: Mapping[str, Any],
    distance: int,
    source: Source,
    *,
    extracted: bool = False,
) -> list[Finding]:
    """Everything found, errors first.

    studies  : each with its split
    facts    : of every image that a study names, each once
    texts    : from `describe_texts`
    distance : between the hashes of two images that count as one picture
    source   : how many images may be missing, and which views are used
    extracted : training takes features that were extracted of the images, which may be elsewhere
    """
    owners: dict[Path, list[Study]] = defaultdict(list)
    for study in studies:
        for image in study.images:
            owners[image].append(study)
    found = [
        *_find_states(facts, source.missing_images),
        *_find_views(studies, source),
        *_find_features(studies),
        *_find_patients(studies),
        *_find_duplicates(facts, owners, distance),
        *_find_unnamed(facts),
        *_find_reports(studies, texts),
        *([] if extracted else _find_usable(studies, facts, texts, source)),
    ]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _find_states(facts: Sequence[ImageFacts], missing_images: float) -> Iterator[Finding]:
    missing = [fact.path for fact in facts if fact.state == "missing"]
    allowed = len(missing) <= missing_images * len(facts)
    refused = sum(fact.state == "refused" for fact in facts)
    way_out = "nothing below was checked on them"
    if not allowed:
        way_out = f"{missing_images:.0%} are allowed (dataset.missing_images): name their folder, or complete it"
        way_out += explain_missing(missing[0])
    for state, level, title, advice in (
        ("corrupt", "error", "image files that cannot be decoded", "fetch them again, or remove them"),
        ("missing", "warning" if allowed else "error", "image files that are not on this disk", way_out),
        (
            "refused",
            "error" if refused > len(facts) / 2 else "warning",
            "image files that the server would refuse",
            "do they belong to the data set?",
        ),
    ):
        chosen = [fact for fact in facts if fact.state == state]
        if chosen:
            examples = tuple(f"{fact.path}: {fact.reason}" for fact in chosen[:EXAMPLES])
            yield Finding(level, f"images_{state}", title, len(chosen), len(facts), advice, examples)


def _find_views(studies: Sequence[Study], source: Source) -> Iterator[Finding]:
    if not source.views:
        return
    without = [study for study in studies if study.images and not source.choose_images(study)]
    if without:
        title = f"studies without an image of the views {', '.join(source.views)}"
        advice = "training leaves them out; name more views in dataset.views if that is too many"
        level = "error" if len(without) > len(studies) / 2 else "warning"
        examples = tuple(f"{study.study_id}: {', '.join(map(repr, study.views))}" for study in without[:EXAMPLES])
        yield Finding(level, "views", title, len(without), len(studies), advice, examples)


def _find_features(studies: Sequence[Study]) -> Iterator[Finding]:
    files = [study.features for study in studies if study.features is not None]
    shapes: Counter[tuple[int, ...]] = Counter()
    corrupt = []
    for file in files:
        try:
            shapes[read_embedding(file).shape] += 1
        except DatasetError as error:
            corrupt.append(str(error))
    if corrupt:
        title, advice = "files whose features cannot be used", "extract them again"
        yield Finding("error", "features_corrupt", title, len(corrupt), len(files), advice, tuple(corrupt[:EXAMPLES]))
    if len(shapes) > 1:
        title, advice = "files whose features have another shape than most", "extract all with one encoder"
        examples = tuple(f"{shape}: {count} files" for shape, count in shapes.most_common(EXAMPLES))
        odd = shapes.total() - shapes.most_common(1)[0][1]
        yield Finding("error", "features_differ", title, odd, len(files), advice, examples)


def _find_usable(
    studies: Sequence[Study], facts: Sequence[ImageFacts], texts: Mapping[str, Any], source: Source
) -> Iterator[Finding]:
    intact = {fact.path for fact in facts if fact.state == "intact"}
    if texts["reports"] and not any(
        study.text(source.sections)
        and (study.features is not None or not intact.isdisjoint(source.choose_images(study)))
        for study in studies
    ):
        title = "studies with a text and an image that can be used"
        advice = "there is nothing to train on or to score: name the folder of the images (--images), or complete it"
        yield Finding("error", "nothing_usable", title, 0, len(studies), advice)


def _find_patients(studies: Sequence[Study]) -> Iterator[Finding]:
    leaking = {unit: splits for unit, splits in find_fixed_splits(studies).items() if len(splits) > 1}
    if leaking:
        examples = tuple(f"{unit}: {', '.join(splits)}" for unit, splits in list(leaking.items())[:EXAMPLES])
        total = len({study.unit for study in studies})
        title = "patients in more than one split"
        advice = "dataset.splits=disjoint leaves them out of training, dataset.splits=drawn splits all by patient"
        yield Finding("error", "patient_leakage", title, len(leaking), total, advice, examples)
    alike: dict[str, dict[str, str]] = defaultdict(dict)
    for study in studies:
        if study.patient_id is not None:
            alike[fold_number(study.patient_id).casefold()][study.patient_id] = str(study.split)
    across = [names for names in alike.values() if len(names) > 1 and len(set(names.values())) > 1]
    if across:
        title = "patients in different splits whose names differ only in case or zeros"
        advice = "one person may be in several splits: write each patient in one way"
        examples = tuple(", ".join(f"{name} ({split})" for name, split in names.items()) for names in across[:EXAMPLES])
        yield Finding("warning", "patients_alike", title, len(across), None, advice, examples)
    unknown = sum(study.patient_id is None for study in studies)
    if unknown:
        title = "studies whose patient is unknown"
        advice = (
            "one person may be in several splits: if the data name patients, say where with "
            "dataset.patient_column or dataset.patient_pattern"
        )
        yield Finding("warning", "patients_unknown", title, unknown, len(studies), advice)


def _find_duplicates(
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
        ("shared", shared, "image files that several studies name,"),
        ("exact", exact, "images that are there again byte for byte,"),
        ("near", near, f"pairs of images that look the same (at most {distance} of 256 bits differ),"),
    ):
        files = [[facts[i].path for i in group] for group in groups]
        across, rest = _part(files, owners, lambda study: str(study.split))
        between, within = _part(rest, owners, lambda study: study.unit)
        for level, name, chosen, where, advice in (
            ("error", f"{kind}_image_leakage", across, "in different splits", "remove them from all splits but one"),
            ("warning", f"{kind}_duplicates", between, "of different patients", "are the patients one person?"),
            ("note", f"{kind}_repeats", within, "of one patient", "harmless where splits are by patient"),
        ):
            if chosen:
                examples = tuple(_name_group(group, owners) for group in chosen[:EXAMPLES])
                pictures = tuple(tuple(group[:2]) for group in chosen[:EXAMPLES]) if level != "note" else ()
                yield Finding(level, name, f"{what} {where}", len(chosen), None, advice, examples, pictures)


def _part(
    groups: Sequence[list[Path]], owners: Mapping[Path, Sequence[Study]], belongs: Callable[[Study], str]
) -> tuple[list[list[Path]], list[list[Path]]]:
    """The groups of images that belong to more than one thing, and the others."""
    mixed: list[list[Path]] = []
    pure: list[list[Path]] = []
    for group in groups:
        several = len({belongs(study) for image in group for study in owners[image]}) > 1
        (mixed if several else pure).append(group)
    return mixed, pure


def _name_group(group: Sequence[Path], owners: Mapping[Path, Sequence[Study]]) -> str:
    """Every image with its split and patient; one with several studies has several."""
    words = []
    for image in group[:EXAMPLES]:
        places = dict.fromkeys(f"{study.split}, patient {study.patient_id or 'unknown'}" for study in owners[image])
        words.append(f"{image.name} ({'; '.join(list(places)[:3])})")
    return " = ".join(words)


def _find_unnamed(facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    named = {os.path.realpath(fact.path) for fact in facts}
    folders = {fact.path.parent for fact in facts if fact.state != "missing"}
    unnamed = [
        file for folder in sorted(folders) for file in list_images(folder) if os.path.realpath(file) not in named
    ]
    if unnamed:
        title, advice = "image files that belong to no study", "they are next to the others and are not used"
        yield Finding("note", "images_unnamed", title, len(unnamed), None, advice, tuple(map(str, unnamed[:EXAMPLES])))


def _find_reports(studies: Sequence[Study], texts: Mapping[str, Any]) -> Iterator[Finding]:
    total = texts["reports"]
    empty = sum(texts["empty"].values())
    if empty:
        advice = "they have no text in the sections looked at: leave them out, or look at other sections"
        if not total:
            advice = (
                "no study has a text, so there is nothing to learn: name the column or key of the reports "
                "(dataset.columns), or look at other sections"
            )
        yield Finding(
            "warning" if total else "error", "reports_empty", "studies without a report", empty, len(studies), advice
        )
    if texts["repeated"]:
        level = "warning" if texts["repeated"] > total / 2 else "note"
        title = "reports that are word for word the same as another"
        advice = f"{texts['distinct']:,} are distinct; a constant text scores well here: compare every model with one"
        examples = tuple(f"{row['reports']} x {row['text']}" for row in texts["most_repeated"][:EXAMPLES])
        yield Finding(level, "reports_repeated", title, texts["repeated"], total, advice, examples)
    known = {split: facts["reports_in_training"] for split, facts in texts["against_training"].items()}
    if any(known.values()):
        title = "reports of other splits that are in training too, word for word"
        advice = "scores on them are partly scores of memory; the table of splits has their share"
        examples = tuple(f"{split}: {count}" for split, count in known.items())
        yield Finding("warning", "reports_across_splits", title, sum(known.values()), None, advice, examples)
    if texts["deidentified"]:
        title, advice = "reports with marks of de-identification (XXXX, ___)", "a model learns to write them"
        yield Finding("note", "reports_deidentified", title, texts["deidentified"], total, advice)
    cut = texts.get("tokens", {}).get("cut")
    if cut:
        title = f"reports longer than {texts['tokens']['max_tokens']} tokens"
        yield Finding("warning", "reports_cut", title, cut, total, "a model never sees their ends")
    contradicting = _contradicting(studies)
    if contradicting:
        title, advice = "images with different answers to one question", "no model can be right about all of them"
        yield Finding(
            "note", "answers_differ", title, len(contradicting), None, advice, tuple(contradicting[:EXAMPLES])
        )


def _contradicting(studies: Sequence[Study]) -> list[str]:
    answers: dict[tuple[tuple[Path, ...], str], Counter[str]] = defaultdict(Counter)
    for study in studies:
        if study.images:
            answers[study.images, study.labels.get("prompt", "")][str(dict(study.sections))] += 1
    return [f"{images[0].name}: {prompt}" for (images, prompt), texts in answers.items() if len(texts) > 1]
