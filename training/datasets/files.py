"""Files of data sets: found by name, read with errors that name the place, checked for what they must have."""

import ast
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prelim.formats.json_text import RepeatedKey, load_json
from training.datasets.cleaning import has_words, remove_escapes, remove_markup
from training.datasets.encodings import find_encoding, refuse_encoding
from training.datasets.study import DatasetError
from training.datasets.values import read_value

CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ud800-\udfff]")
"""Control characters such as NUL, and halves of characters; tabs and line ends are text."""

PROMPT = "prompt"
"""The label that holds what is asked about the images."""


def find_file(path: Path, *names: str) -> Path:
    """The path itself if it is a file, else the first of `names` in it.

    Raises DatasetError that lists the names.
    """
    if path.is_file():
        return path
    for name in names:
        if (path / name).is_file():
            return path / name
    if path.is_dir() and not names:
        raise DatasetError(f"{path} is a folder; give the file itself as path")
    if not path.exists() and not names:
        raise DatasetError(f"{path} does not exist; give the file as path")
    if not path.exists():
        raise DatasetError(f"{path} does not exist; give the file, or the folder with {' or '.join(names)}, as path")
    raise DatasetError(
        f"the folder {path} has no {' or '.join(names)}; give the file itself as path, or another format"
    )


def read_text(path: Path) -> str:
    """A text file in UTF-8, or in an encoding of `name_encoding`. Raises DatasetError with the line."""
    try:
        return path.read_text(encoding=find_encoding(path))
    except UnicodeDecodeError as error:
        raise refuse_encoding(path, error) from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error


def read_json(path: Path) -> Any:
    """The contents of a JSON file. Raises DatasetError with the line, and for an object with two values for one key."""
    text = read_text(path)
    try:
        return load_json(text)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path} is not JSON: {error}; repair it or fetch it again") from error
    except RepeatedKey as error:
        line = text[: _find_second(text, error.key)].count("\n") + 1
        raise DatasetError(
            f"{path}, line {line}: the key {error.key!r} is there twice in one object; remove or rename one"
        ) from error


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file with one JSON object a line, as (place, record)."""
    # Characters such as U+2028 and U+0085 may be in a JSON text, and do not end a line.
    for number, line in enumerate(re.split(r"\r\n|\n|\r", read_text(path)), 1):
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            record = load_json(line)
        except json.JSONDecodeError as error:
            raise DatasetError(f"{place} is not JSON: {error.msg}; repair it or fetch it again") from error
        except RepeatedKey as error:
            raise DatasetError(f"{place}: the key {error.key!r} is there twice; remove or rename one") from error
        if not isinstance(record, dict):
            raise DatasetError(f"{place} is {type(record).__name__}; expected an object")
        yield place, record


def _find_second(text: str, key: str) -> int:
    quoted = json.dumps(key, ensure_ascii=False)
    return max(text.find(quoted, text.find(quoted) + 1), 0)


def read_records(path: Path, records: Any, required: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON list as (place, record). Raises DatasetError for other entries, and for a missing key."""
    if not isinstance(records, list):
        raise DatasetError(f"{path} has {type(records).__name__} where a list of objects is expected")
    for i, record in enumerate(records):
        place = f"{path}, entry {i}"
        check_keys(place, record, required)
        yield place, record


def check_keys(place: str, record: Any, required: Sequence[str]) -> None:
    """Raises DatasetError for a record that is not an object, or lacks a key."""
    if not isinstance(record, dict):
        raise DatasetError(
            f"{place} is {type(record).__name__}; expected an object with the keys {', '.join(required)}"
        )
    missing = [key for key in required if key not in record]
    if missing:
        raise DatasetError(f"{place} has no key {', '.join(missing)}; its keys are: {', '.join(record)}")


def keep_texts(sections: Mapping[str, Any], place: str, *, answers: bool = False) -> dict[str, str]:
    """The sections that have words, without control characters, HTML and escaped line ends.

    Unknown values (`null`, `nan`, `#N/A`) and texts of marks alone (`XXXX`, `___`) are left out. A list of one text
    that was written as text (`['Clear.']`) is that text.

    answers : they answer questions, so that "None" and "Unknown" say something

    Raises DatasetError for a value that is neither text nor null, such as a list, and for a list of several texts.
    """
    kept = {}
    for name, value in sections.items():
        text = unpack_list(value) if isinstance(value, str) else value
        if text is not None and not isinstance(text, str):
            raise DatasetError(f"{place}: {name} is {type(text).__name__}; expected a text or null")
        if text and (answers or read_value(text)) and has_words(text):
            kept[name] = CONTROLS.sub("", remove_markup(remove_escapes(text))).strip()
    return kept


def unpack_list(text: str) -> Any:
    """The text, or, where it is a Python or JSON list of texts such as `['Clear.']`, its only one, else the list."""
    if not re.fullmatch(r"\s*\[\s*(['\"]).*\1\s*,?\s*\]\s*", text, re.DOTALL):
        return text
    try:
        texts = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
        return text
    return texts[0] if len(texts) == 1 else texts


def keep_readings(
    reports: Iterable[Mapping[str, Any]], place: str, *, answers: bool = False
) -> tuple[dict[str, str], tuple[dict[str, str], ...]]:
    """The sections of the first report and those of further ones, by the rules of `keep_texts`; repeats are left out.

    reports : of one study; a section that is a list of texts is one text for each of several reports. Reports that
              contradict each other in no section, such as findings in one row and the impression in the next, are one
    answers : of keep_texts

    Raises DatasetError like keep_texts.
    """
    found: list[dict[str, str]] = []
    for report in reports:
        lists = {name: value for name, value in report.items() if isinstance(value, list)}
        for number in range(max((len(value) for value in lists.values()), default=1) or 1):
            chosen = {name: value[number] if number < len(value) else None for name, value in lists.items()}
            texts = keep_texts({**report, **chosen}, place, answers=answers)
            if not texts or texts in found:
                continue
            part = next(
                (one for one in found if all(one.get(name, text) == text for name, text in texts.items())), None
            )
            if part is None:
                found.append(texts)
            else:
                part.update(texts)
    return (found[0], tuple(found[1:])) if found else ({}, ())


def collect_labels(record: Mapping[str, Any], known: Iterable[str] = ()) -> dict[str, str]:
    """What else a record says, as texts: every value that is a text or a number, but for the keys that are `known`."""
    skipped = set(known)
    return {
        key: CONTROLS.sub("", str(value)).strip()
        for key, value in record.items()
        if key not in skipped
        and isinstance(value, str | int | float)
        and not isinstance(value, bool)
        and str(value).strip()
        and not (isinstance(value, float) and math.isnan(value))
    }
