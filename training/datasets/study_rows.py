"""The rows of a table, or the objects of a list, that are one study."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from training.datasets.files import PROMPT, keep_readings
from training.datasets.image_files import ImageFolder
from training.datasets.study import DatasetError
from training.datasets.values import read_value

StudyRow = tuple[str, dict[str, Any]]
"""A place for messages, and values by key."""


CONVERSATIONS = "conversations"
"""Key of a list of turns."""

QUESTIONS = {"question": PROMPT, "answer": "report"}
"""What data sets of questions call these; an answer counts where there is a question."""


def name_questions(place: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its question as `prompt` and the answer to it as `report`, where it has none of these names.

    Raises DatasetError for a question with an answer and another report.
    """
    named = dict(record)
    if "question" in record:
        check_one_answer(place, {key: record.get(key) for key in ("answer", "report")})
        for key, name in QUESTIONS.items():
            if key in record and name not in record:
                named[name] = named.pop(key)
    return named


def check_one_answer(place: str, texts: Mapping[str, Any]) -> None:
    """Raises DatasetError for a question with two different texts: which one answers it is not known.

    texts : by key or column
    """
    known = {name: value for name, value in texts.items() if isinstance(value, str) or read_value(value)}
    if len({" ".join(str(value).split()) for value in known.values()} - {""}) > 1:
        raise DatasetError(
            f"{place} has a question and different texts under {' and '.join(known)}; leave out or rename the one that "
            "does not answer it"
        )


def pair_turns(place: str, turns: Any) -> Iterator[tuple[str, str]]:
    """Every answer with the question before it; an answer without one has an empty question.

    turns : conversations as LLaVA has them: `[{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]`

    Raises DatasetError for anything else.
    """
    if not isinstance(turns, list) or not turns:
        raise DatasetError(f"{place} has no turn in conversations; remove the row")
    question = ""
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise DatasetError(f"{place}: a turn of conversations is not an object with from and value; fetch it again")
        if turn.get("from") in ("human", "user"):
            question = turn["value"]
        elif turn.get("from") != "system":  # which says how to answer
            yield question, turn["value"]
            question = ""


def expand_conversation(place: str, record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The record, or one for each turn of its `conversations`, with question and answer. Raises as pair_turns does."""
    if not isinstance(record.get(CONVERSATIONS), list):
        yield dict(record)
        return
    rest = {key: value for key, value in record.items() if key != CONVERSATIONS}
    for question, answer in pair_turns(place, record[CONVERSATIONS]):
        yield {**rest, "question": question, "answer": answer}


def join_rows(
    rows: Sequence[StudyRow], folder: ImageFolder, *, image: str, sections: Sequence[str], key: str, asked: bool
) -> dict[str, Any]:
    """What the rows of one study say of it: images, views, sections, further, group and place of Study.

    image    : key of a list with the names of images
    sections : keys of texts
    key      : what the id is called in the file
    asked    : the texts answer a question

    Raises DatasetError as `pair_views`, `check_one_study` and `keep_readings` do.
    """
    views = join_views(
        (folder.find(name), view)
        for place, row in rows
        for name, view in pair_views(row[image], row.get("view"), place)
    )
    texts = [{name: row.get(name) for name in sections} for _, row in rows]
    check_one_study([(place, row[image], text) for (place, row), text in zip(rows, texts, strict=True)], key)
    place, first = rows[0]
    kept, further = keep_readings(texts, place, answers=asked)
    return {
        "images": tuple(views),
        "views": tuple(views.values()),
        "sections": kept,
        "further": further,
        "group": first[image][0] if asked else "",
        "place": place,
    }


def find_one(values: Iterable[tuple[str, Any]], what: str, key: str, *, first: bool = False) -> str | None:
    """The one known value of the rows of a study; None where no row has one.

    values : with the place of each
    what   : the value, for messages
    key    : what the rows share: what the id is called in the file
    first  : of several values the first counts

    Raises DatasetError for two rows with different values.
    """
    found: dict[str, str] = {}
    for place, value in values:
        if (known := read_value(value)) is not None:
            found.setdefault(known, place)
    if len(found) > 1 and not first:
        one, other = list(found.values())[:2]
        raise DatasetError(
            f"{one} and {other} are of one {key}, with two values of {what}; correct one, or give each study its own "
            f"{key}"
        )
    return next(iter(found), None)


def find_column(rows: Sequence[StudyRow], column: str, key: str, *, first: bool = False) -> str | None:
    """The one known value of a column in the rows of a study; as `find_one`, which it asks."""
    return find_one(((place, row[column]) for place, row in rows), column, key, first=first)


def join_labels(parts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The labels of the rows of a study; one of which they have different values is unknown."""
    first: dict[str, str] = {}
    for labels in parts:
        first = {**labels, **first}
    return {
        name: value
        for name, value in first.items()
        if all(read_value(labels.get(name, value)) == read_value(value) for labels in parts)
    }


def join_views(views: Iterable[tuple[Path, str]]) -> dict[Path, str]:
    """The images of a study with their views; unknown where a file is listed with two.

    One file may be listed twice, for instance once for each license.
    """
    found: dict[Path, set[str]] = {}
    for image, view in views:
        found.setdefault(image, set()).update([view] if read_value(view) else [])
    return {image: next(iter(several)) if len(several) == 1 else "" for image, several in found.items()}


def separate_questions(study_id: str, rows: Iterable[StudyRow]) -> Iterator[tuple[str, list[StudyRow]]]:
    """The rows of one id by what they ask, with an id for each: answers to two questions are not two references.

    Rows that ask nothing, and all rows where there is only one question, keep the id.
    """
    questions: dict[str, list[StudyRow]] = {}
    for place, row in rows:
        questions.setdefault(" ".join((read_value(row.get(PROMPT)) or "").casefold().split()), []).append((place, row))
    for number, (question, asked) in enumerate(questions.items(), 1):
        yield f"{study_id}#{number}" if question and len(questions) > 1 else study_id, asked


def pair_views(names: Sequence[str], view: Any, place: str) -> list[tuple[str, str]]:
    """The images of a record, each with its view: one of a list, or the one view of all. Raises DatasetError."""
    views = view if isinstance(view, list) else [view] * len(names)
    if len(views) != len(names):
        raise DatasetError(f"{place} has {len(names)} images and {len(views)} views; give one view for each image")
    return [(name, read_value(view) or "") for name, view in zip(names, views, strict=True)]


def check_one_study(rows: Sequence[tuple[str, Collection[str], Mapping[str, Any]]], key: str) -> None:
    """Raises DatasetError for rows of one id that are two studies: other images, each with a report of its own.

    rows : (place, image names, sections) of one id
    key  : what the id is called in the file

    Several reports of one study are all given with the same images.
    """
    reports: dict[str, dict[str, set[str]]] = {}
    places: dict[str, str] = {}
    for place, images, sections in rows:
        for image in images:
            places.setdefault(image, place)
            for name, value in sections.items():
                for text in value if isinstance(value, list) else [value]:
                    if isinstance(text, str) and read_value(text):
                        reports.setdefault(image, {}).setdefault(name, set()).add(" ".join(text.casefold().split()))
    for (one, first), (other, second) in combinations(reports.items(), 2):
        if clash := [name for name in first if name in second and first[name].isdisjoint(second[name])]:
            raise DatasetError(
                f"{places[one]} and {places[other]} have one {key}, different images and different texts "
                f"({clash[0]}); give each study an {key} of its own, or the report of the study with each of its images"
            )
