"""WebDataset: tar files whose members of one name are a sample: `0001.png` with `0001.txt` or `0001.json`."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prelim.formats.json_text import RepeatedKey, load_json
from training.datasets.encodings import decode_text
from training.datasets.files import PROMPT, collect_labels, keep_readings
from training.datasets.image_files import IMAGE_SUFFIXES, strip_suffixes, write_image
from training.datasets.membership import read_membership
from training.datasets.packed import read_members
from training.datasets.split_names import SplitReader, find_split
from training.datasets.study import DatasetError, Study
from training.datasets.study_rows import name_questions

SECTIONS = ("findings", "impression", "indication", "comparison", "report")
PLAIN = (".txt", ".text", ".caption")
TEXTS = (*PLAIN, ".json")
REPORTS = ("report", "caption", "text")
"""Keys of a JSON that hold the report as a whole; `report` counts before the others, which must not differ."""

VIEWS = ("frontal", "lateral", "pa", "ap", "ll", "lat", "oblique")

_VIEW = re.compile(r"(?:image|img)?_?\d*|(" + "|".join(VIEWS) + r")_?\d*")
_MIDDLE = re.compile(rf"(?:\.(?:{_VIEW.pattern}))?(?:\.(?:{'|'.join(SECTIONS)}))?")
"""Between a sample's name, which ends at the first dot, and a suffix."""

_DOTTED = re.compile(
    rf"(?:\.(?:(?:image|img)_?\d*|(?:{'|'.join(VIEWS)})_?\d*))?(?:\.(?:{'|'.join(SECTIONS)}))?\Z", re.IGNORECASE
)
"""The end of a name with dots, before the suffix; a number belongs to the name: `1.2.840`."""

_MASK = re.compile(
    r"(?:\w+[_-])?(?:masks?|seg|segmentations?|labels?|labelmap|heatmap|overlay|saliency|depth|bbox|thumb|thumbnail)"
    r"(?:[_-]\w+|\d+)?",
    re.IGNORECASE,
)
"""A part of a name that marks something else than an image of a study."""

_ARCHIVES = (".tgz", ".tbz", ".tbz2", ".txz")

_NUMBER = re.compile(r"(\.(?:image|img)?_?\d+)(?=\.)")


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read one tar file or all of a folder; the split is in the JSON, or a word of the name (`shard-train-000.tar`).

    images : folder that the images are written to, by the hash of their bytes

    A member of PLAIN is the report, `1.findings.txt` the section of sample 1 that it names; a .json has SECTIONS, or
    the report under one of REPORTS, the patient, the split and labels. Several images of a sample are `1.0.png` and
    `1.1.png`, or named by their views: `1.frontal.png`; with texts of their own, `1.0.txt` and `1.1.txt`, they are
    several studies. Members of a sample follow each other, as the format has it.
    A name with further dots is that of a sample up to its suffix: `1.2.840.png` with `1.2.840.txt`. Masks
    (`1.mask.png`) and the files that a Mac writes (`._1.png`) are passed over.
    A list of texts is several references.
    """
    if images is None:
        raise DatasetError(f"the images are inside {path}; give as images the folder to write them to (about its size)")
    files = sorted(filter(_is_archive, path.rglob("*"))) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise DatasetError(f"{path} has no tar files; give one, or a folder of them, as path")
    splits = SplitReader()
    shards = Counter(_name_shard(file) for file in files)
    for file in files:
        split = find_split(str(file.relative_to(path)) if path.is_dir() else file.name)
        shard = _name_shard(file)
        if shards[shard] > 1:  # train/00000.tar and val/00000.tar
            shard = (file.parent.relative_to(path) / shard).as_posix()
        for key, group, members in _read_numbered(file):
            place = f"{file}, sample {key}"
            pictures = {kind: data for kind, data in members.items() if kind.endswith(IMAGE_SUFFIXES)}
            record = _read_texts(place, members)
            sections, further = keep_readings(
                [{name: record.get(name) for name in SECTIONS}], place, answers=bool(record.get(PROMPT))
            )
            patient, own_split, keys = read_membership(record, place, splits, key)
            yield Study(
                study_id=f"{shard}/{key}",
                images=tuple(write_image(data, images) for data in pictures.values()),
                sections=sections,
                further=further,
                patient_id=patient,
                views=tuple(map(_find_view, pictures)),
                source=path.stem,
                split=own_split or split,
                labels=collect_labels(record, (*SECTIONS, *REPORTS, *keys)),
                group=group,
                place=place,
            )


def _is_archive(file: Path) -> bool:
    name = file.name.lower()
    return (".tar" in name or name.endswith(_ARCHIVES)) and not name.startswith("._") and file.is_file()


def _name_shard(file: Path) -> str:
    return file.name.partition(".")[0]


def _read_numbered(file: Path) -> Iterator[tuple[str, str, dict[str, bytes]]]:
    """Every sample with what it was a part of: one whose texts are numbered as its images are is several."""
    for key, members in _read_samples(file):
        if not any(kind.endswith(TEXTS) and _NUMBER.match(kind) for kind in members):
            yield key, "", members
            continue
        common = {kind: data for kind, data in members.items() if not _NUMBER.match(kind)}
        parts: dict[str, dict[str, bytes]] = {}
        for kind, data in members.items():
            if found := _NUMBER.match(kind):
                parts.setdefault(found[1], dict(common))[kind[found.end() :]] = data
        for number, part in parts.items():
            yield f"{key}{number}", key, part


def _read_samples(file: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Every sample with the bytes of its members by what follows their name; other kinds are passed over.

    Raises DatasetError for two members of one name, and for an image that is of no sample.
    """
    key = ""
    plain: dict[str, bytes] = {}
    dotted: dict[str, dict[str, bytes]] = {}
    ended: set[str] = set()
    for path, data in read_members(file):
        folder, _, name = path.rpartition("/")
        if name.startswith("._"):
            continue
        stem = name.partition(".")[0]
        if f"{folder}/{stem}" != key:
            yield from _end_samples(file, key, plain, dotted)
            key, plain, dotted, ended = f"{folder}/{stem}", {}, {}, set()
        suffix = f".{name.rpartition('.')[2].lower()}" if "." in name else ""
        if suffix not in (*IMAGE_SUFFIXES, *TEXTS):
            continue
        rest = strip_suffixes(name[: -len(suffix)])
        middle = rest[len(stem) :]
        if _MIDDLE.fullmatch(middle.lower()):
            members, kind = plain, f"{middle.lower()}{suffix}"
        elif any(map(_MASK.fullmatch, middle.split("."))):
            continue
        else:
            end = _DOTTED.search(rest)
            whole = rest[: end.start()] if end else rest
            if whole not in dotted and not plain:  # the last one is complete; names of one UID root are many
                yield from _end_samples(file, key, plain, dotted)
                ended |= dotted.keys()
                dotted = {}
            if whole in ended:
                raise DatasetError(
                    f"{file}: {path} does not follow the other members of its sample; write the tar file again, sorted "
                    "by name"
                )
            members, kind = dotted.setdefault(whole, {}), f"{rest[len(whole) :].lower()}{suffix}"
        if kind in members:
            raise DatasetError(f"{file} has two members {path}; write the tar file again")
        members[kind] = data
    yield from _end_samples(file, key, plain, dotted)


def _end_samples(
    file: Path, key: str, plain: dict[str, bytes], dotted: dict[str, dict[str, bytes]]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The sample of a name up to its first dot, and those whose names continue after it and that have an image.

    Raises DatasetError for an image without a text that is neither an image of the first nor called a mask.
    """
    if plain:
        yield key.lstrip("/"), plain
    folder = key.rpartition("/")[0]
    for name, members in dotted.items():
        images = [kind for kind in members if kind.endswith(IMAGE_SUFFIXES)]
        if images and plain and len(images) == len(members):
            raise DatasetError(
                f"{file}, sample {key.lstrip('/')}: {name}{images[0]} is neither an image of it nor a study with a "
                f"text of its own; number it if it is an image of it ({key.rpartition('/')[2]}.0{images[0]}), else "
                "give it a name without dots, or call it a mask (.mask)"
            )
        if images:
            yield f"{folder}/{name}".lstrip("/"), members


def _find_view(kind: str) -> str:
    found = _VIEW.fullmatch(kind.rpartition(".")[0].lstrip("."))
    return (found and found[1]) or ""


def _read_texts(place: str, members: dict[str, bytes]) -> dict[str, Any]:
    try:
        record = load_json(decode_text(members.get(".json", b"{}")))
        texts = {kind: decode_text(data) for kind, data in members.items() if kind.endswith(PLAIN)}
    except ValueError as error:
        raise DatasetError(f"{place}: its text is not UTF-8 or not JSON: {error}; write the tar file again") from error
    except RepeatedKey as error:
        raise DatasetError(f"{place}: the key {error.key!r} is there twice; remove or rename one") from error
    if not isinstance(record, dict):
        raise DatasetError(f"{place}: its JSON is {type(record).__name__}; expected an object")
    record = name_questions(place, record)
    named = {name: texts[f".{name}{suffix}"] for name in SECTIONS for suffix in PLAIN if f".{name}{suffix}" in texts}
    return {**record, **named, "report": _find_report(place, record, {**texts, **named})}


def _find_report(place: str, record: Mapping[str, Any], texts: Mapping[str, str]) -> Any:
    """The report as a whole: a member of PLAIN, else what the sample has under one of REPORTS.

    Raises DatasetError for different texts of which none is called a report: one may be that of a web page.
    """
    said = {**record, **texts}
    found = {name: said[name] for name in (*PLAIN, *REPORTS) if said.get(name)}
    if "report" in found:
        found = {name: text for name, text in found.items() if name not in REPORTS[1:]}
    (one, report), *others = found.items() or [("", None)]
    if other := next((name for name, text in others if str(text).split() != str(report).split()), None):
        raise DatasetError(
            f"{place} has two different texts, {one} and {other}; leave out the one that is not to be learned, or call "
            "the other report"
        )
    return report
