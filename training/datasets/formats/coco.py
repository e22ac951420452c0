"""COCO captions: `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`.

annotations.json, captions.json         : images next to it or in `images/`
annotations/captions_train2017.json     : images in `train2017/`, one folder up
train/_annotations.coco.json            : images next to it (Roboflow)
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.datasets.files import check_keys, collect_labels, keep_readings, read_json, read_records
from training.datasets.image_files import ImageFolder, strip_suffixes
from training.datasets.membership import read_membership
from training.datasets.split_names import SplitReader, find_split
from training.datasets.study import DatasetError, Study

PATTERNS = ("annotations.json", "captions*.json", "annotations/captions*.json", "*/_annotations.coco.json")


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read one file, or all of a folder; the split is in the name of the file or its folder, or in each image's record.

    An image is a study, by its file name without the suffix, with the split before it where several splits have a file
    of that name; its captions are references. The patient is a key of the
    image's record, else unknown.

    Raises DatasetError for two images of one id, and for captions of no image.
    """
    files = [path] if path.is_file() else next((f for f in (sorted(path.glob(p)) for p in PATTERNS) if f), [])
    if not files:
        raise DatasetError(f"{path} has no {' or '.join(PATTERNS)}; give the folder with it, or the file, as path")
    splits = SplitReader()
    contents = [_read_contents(file) for file in files]
    names = Counter(str(record.get("file_name")) for part in contents for record in part["images"])
    for file, part in zip(files, contents, strict=True):
        yield from _read_file(file, part, images, splits, names)


def _read_contents(file: Path) -> dict[str, Any]:
    contents: dict[str, Any] = read_json(file)
    check_keys(str(file), contents, ("images", "annotations"))
    for place, record in read_records(file, contents["images"], ("id", "file_name")):
        _check_id(place, record["id"])
    return contents


def _check_id(place: str, name: Any) -> None:
    if not isinstance(name, int | str):
        raise DatasetError(f"{place}: the id of an image is {name!r}; it must be a number or a text")


def _read_file(
    file: Path, contents: Mapping[str, Any], images: Path | None, splits: SplitReader, names: Mapping[str, int]
) -> Iterator[Study]:
    split = find_split("/".join(file.parts[-2:]))
    # captions_train2017.json has its images in train2017/.
    own = file.stem.partition("_")[2]
    near = (file.parent, file.parent / "images", file.parent.parent / own, file.parent.parent / "images")
    folder = ImageFolder(*([images] if images else near))
    captions: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for place, record in read_records(file, contents["annotations"], ("image_id", "caption")):
        _check_id(place, record["image_id"])
        captions[record["image_id"]].append({"report": record["caption"]})
    places: dict[Any, str] = {}
    for place, record in read_records(file, contents["images"], ("id", "file_name")):
        if (first := places.setdefault(record["id"], place)) != place:
            raise DatasetError(
                f"{place}: the image id {record['id']!r} is there a second time, first in {first}; its captions may be "
                "of either: give every image an id of its own"
            )
        name = str(record["file_name"])
        sections, further = keep_readings(captions.pop(record["id"], []), place)
        patient, own_split, keys = read_membership(record, place, splits, name)
        yield Study(
            study_id=f"{split}/{strip_suffixes(name)}" if names[name] > 1 and split else strip_suffixes(name),
            images=(folder.find(name),),
            sections=sections,
            further=further,
            patient_id=patient,
            views=("",),
            source="COCO captions",
            split=own_split or split,
            labels=collect_labels(record, ("id", "file_name", *keys)),
            place=place,
        )
    if captions:
        raise DatasetError(f"{file} has captions of the image {next(iter(captions))!r}, which is not among its images")
