"""All systems by every score, with intervals; no printing, no files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from training.evaluation.baselines import (
    best_constant_report,
    most_frequent_report,
    pixel_vectors,
    random_reports,
    retrieved_reports,
)
from training.evaluation.data import EvaluationData
from training.evaluation.language import MIXED, describe_language, find_language, measure_foreign
from training.evaluation.metrics.answers import answer_measures, are_questions
from training.evaluation.metrics.clinical import clinical_measures, describe_absent, label_counts
from training.evaluation.metrics.measure import Bootstrap, Measure
from training.evaluation.metrics.meteor import find_refusal
from training.evaluation.metrics.overlap import (
    SPACELESS,
    Measures,
    Systems,
    coco_measures,
    rexrank_measures,
    sacrebleu_measures,
)
from training.evaluation.metrics.perplexity import perplexity_measure
from training.evaluation.metrics.r2gen import UNKNOWN, Protocol
from training.evaluation.metrics.template_captions import TemplateScorer
from training.evaluation.model_run import ModelRunner, Run
from training.evaluation.subgroups import count_patients, score_subgroups
from training.evaluation.table import FEW

CONSTANT = "constant, best BLEU-4 on val"
FREQUENT = "constant, most frequent"
RANDOM = "random training report"
PIXELS = "nearest image, 32 x 32 pixels"
FEATURES = "nearest image, encoder features"
REFERENCES = "references"


@dataclass
class Baselines:
    """What the baselines say, and remarks on those that could not be computed.

    systems   : reports of each, in the order of the studies
    constants : what the two constants say
    """

    systems: dict[str, list[str]] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def baselines(data: EvaluationData, protocol: Protocol, runner: ModelRunner | None, run: Run | None) -> Baselines:
    """All baselines for which there is what they need.

    runner, run : the model and what it gave, for the nearest images by its own features; None where there is no model
    """
    result = Baselines()
    count = len(data.studies)
    if not data.train_texts:
        result.notes.append("No baselines: the data set has no training split to copy from.")
        return result
    if data.val_texts:
        best = best_constant_report(data.train_texts, data.val_texts, protocol)
        result.constants[CONSTANT] = best
        if data.split == "val":
            result.notes.append(f"“{CONSTANT}” was chosen on the very reports that are scored here.")
    else:
        result.notes.append(f"No “{CONSTANT}”: the data set has no validation split.")
    result.constants[FREQUENT] = most_frequent_report(data.train_texts)
    result.systems |= {name: [text] * count for name, text in result.constants.items()}
    result.systems[RANDOM] = random_reports(data.train_texts, count)
    images = [path for path in data.inputs if path is not None and path.is_file()]
    pairs = zip(data.train_inputs, data.train_texts, strict=True)
    seen = [(path, text) for path, text in pairs if path is not None and path.is_file()]
    if not seen or len(images) < count:
        result.notes.append(
            f"No nearest images: {len(images)} of {count} studies and {len(seen)} of {len(data.train)} training "
            "studies have their first image on this disk."
        )
        return result
    train_images, texts = [path for path, _ in seen], [text for _, text in seen]
    if all(study.features is None for study in data.studies):
        scored, known = (pixel_vectors(some, frame=data.frame) for some in (images, train_images))
        result.systems[PIXELS] = retrieved_reports(scored, known, texts)
    if runner is not None and run is not None:
        result.systems[FEATURES] = retrieved_reports(run.features, runner.features(train_images), texts)
    return result


@dataclass(frozen=True)
class TableSection:
    """Rows of one kind: measures of every system."""

    title: str
    measures: Measures
    note: str = ""


MANY_RARE = 0.05
"""Share of words above which it is said; in IU X-Ray, by R2Gen's splits, it is 1.2 %."""


def sections(
    systems: Systems, data: EvaluationData, protocol: Protocol, templates: TemplateScorer | None
) -> tuple[list[TableSection], list[str]]:
    """Every score but those that need a model, or weights that are not here; and remarks on those left out."""
    references = data.references
    language = find_language(references)
    gold = [protocol(reference) for reference in references]
    further = [[protocol(text) for text in texts] for texts in data.further]
    tokenized = {name: [protocol(text) for text in texts] for name, texts in systems.items()}
    foreign, other = measure_foreign(references)
    english = language == "en" and foreign <= MIXED
    refusal = find_refusal(
        other if language == "en" and not english else language,
        [text for texts in (gold, *further, *tokenized.values()) for text in texts],
    )
    remarks = [refusal] if refusal else []
    if data.further:
        remarks.append(
            f"{sum(map(bool, data.further))} of {len(references)} studies have several references. BLEU, METEOR, "
            "ROUGE-L, CIDEr and sacreBLEU compare with all of them, the other scores and the baselines with the first."
        )
    if len({*gold, *(text for texts in further for text in texts)}) == 1:
        remarks.append(
            "All references are equal as R2Gen's protocol prepares them (without case, punctuation and rare words): "
            "CIDEr, by its definition, is 0 for every text."
        )
    remarks += remark_on_rare_words(gold)
    uncleaned, signatures = sacrebleu_measures(systems, references, language, data.further)
    if language in SPACELESS:
        remarks.append(f"ReXrank BLEU-2 was not computed: it splits at spaces, which {language} does not have.")
    else:
        uncleaned = _join(uncleaned, rexrank_measures(systems, references))
    result = [
        TableSection("R2Gen's protocol", coco_measures(tokenized, gold, further, with_meteor=refusal is None)),
        TableSection("uncleaned texts", uncleaned, "; ".join(signatures)),
    ]
    answering = are_questions(data.prompts)
    if answering:
        said = [study.labels.get("answer_type", "") for study in data.studies]
        answers, closed = answer_measures(systems, references, data.further, said)
        result.append(TableSection("answers to questions", answers, closed))
    if templates is not None:
        result += _template_sections(systems, templates)
    elif answering:
        remarks.append("No clinical labels: most texts answer questions, and an answer such as “yes” names no finding.")
    elif english:
        result += _clinical_sections(systems, references)
    else:
        most = "" if language == "en" else "most "
        remarks.append(
            f"No clinical labels: the rules read English, and {most}references are {describe_language(references)}."
        )
    return result, remarks


def _template_sections(systems: Systems, templates: TemplateScorer) -> list[TableSection]:
    overall, by_kind = templates.measures(systems)
    kinds = ", ".join(f"{kind} {count}" for kind, count in templates.kinds().items())
    return [
        TableSection("labels read back from the caption", overall),
        TableSection("finding group right, by kind of picture", by_kind, f"pictures: {kinds}"),
    ]


def _clinical_sections(systems: Systems, references: Sequence[str]) -> list[TableSection]:
    groups, single = clinical_measures(systems, references)
    counts = label_counts(references)
    there = ", ".join(f"{label} {count}" for label, count in counts.items())
    return [
        TableSection("clinical labels, by rules", groups, describe_absent(counts)),
        TableSection("F1 of each label, by rules", single, f"references that have it: {there}"),
    ]


def evaluate(
    name: str,
    reports: Sequence[str],
    data: EvaluationData,
    *,
    protocol: Protocol,
    others: Baselines,
    run: Run | None = None,
    templates: TemplateScorer | None = None,
    extras: Sequence[TableSection] = (),
    draws: int = 2000,
) -> dict[str, Any]:
    """All figures, as JSON has them.

    name, reports : of the system that is evaluated
    others        : what it is compared with
    run           : what the model gave, for its perplexity
    """
    systems: dict[str, Sequence[str]] = {name: reports, **others.systems}
    table, remarks = sections(systems, data, protocol, templates)
    table += extras
    if run is not None:
        table.append(TableSection("teacher forcing", {name: [perplexity_measure(run)]}))
    # Each study of an unknown patient is drawn by itself, or with those of its image or article.
    units = [study.unit for study in data.studies]
    bootstrap = Bootstrap(units, draws)
    remarks += _remark_on_intervals(len(set(units)), known=count_patients(data.studies) is not None)
    result: dict[str, Any] = {
        "system": name,
        "split": data.split,
        "studies": len(data.studies),
        "patients": count_patients(data.studies),
        "train": len(data.train),
        "val": len(data.val_texts),
        "left_out": data.left_out,
        "example": next((text for text in reports if text), ""),
        "constants": others.constants,
        "notes": [*data.remarks, *others.notes, *remarks],
        "distinct": {
            key: _distinct(texts, templates) for key, texts in {**systems, REFERENCES: data.references}.items()
        },
        "sections": [_figures(section, bootstrap, name) for section in table],
        "subgroups": score_subgroups(data.studies, {m.name: m for s in table for m in s.measures.get(name, ())}, draws),
    }
    if run is not None and run.cut:
        result["notes"].append(f"{run.cut} references have more tokens than the decoder has positions, and were cut.")
    return result


def remark_on_rare_words(gold: Sequence[str]) -> list[str]:
    """A remark if many words are unknown to R2Gen's protocol, which takes any two of these for equal.

    gold : references as the protocol prepares them
    """
    words = [word for text in gold for word in text.split() if word != "."]
    share = words.count(UNKNOWN) / max(len(words), 1)
    if share <= MANY_RARE:
        return []
    return [
        f"{share:.0%} of the references' words are too rare in training to be words of R2Gen's protocol, which takes "
        "any two of them for equal: its scores are too high here. Compare sacreBLEU."
    ]


def _remark_on_intervals(units: int, *, known: bool) -> list[str]:
    """Where there are too few patients for intervals; `known`: who the patients are."""
    if units == 1:
        what = "All studies are of one patient" if known else "There is one study, or studies of one image or article"
        return [f"{what}: the figures have no intervals, which are over patients."]
    if units < FEW:
        what = "patients" if known else "known patients, single studies, or studies of one image or article"
        return [f"The studies are of {units} {what}: with so few, the intervals are too narrow."]
    return []


def _figures(section: TableSection, bootstrap: Bootstrap, name: str) -> dict[str, Any]:
    """Value, lower and upper limit of every measure of every system, and how the system differs from the constant."""
    figures = {
        system: {measure.name: rounded(bootstrap.interval(measure)) for measure in measures}
        for system, measures in section.measures.items()
    }
    difference = {}
    if name != CONSTANT and CONSTANT in section.measures and name in section.measures:
        pairs: Sequence[tuple[Measure, Measure]] = list(
            zip(section.measures[name], section.measures[CONSTANT], strict=True)
        )
        difference = {one.name: rounded(bootstrap.difference(one, other)) for one, other in pairs}
    return {"title": section.title, "note": section.note, "figures": figures, "above_constant": difference}


def rounded(figures: Sequence[float]) -> list[float | None]:
    """Six decimals; None for what is infinite or undefined, which JSON cannot say."""
    return [round(figure, 6) if math.isfinite(figure) else None for figure in figures]


def _distinct(texts: Sequence[str], templates: TemplateScorer | None) -> dict[str, Any]:
    number = len(set(texts))
    counts = {} if templates is None else templates.counts(texts)
    return {"reports": number, "ratio": round(number / len(texts), 4), **counts}


def _join(one: Measures, other: Measures) -> Measures:
    return {name: [*one[name], *other[name]] for name in one}
