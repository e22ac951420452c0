"""XrayGPT's filter_cap.json: `{"annotations": [{"image_id", "caption"}]}`, and `image/{image_id}.jpg` or `.png`."""

import re
from collections.abc import Iterator
from pathlib import Path

from training.datasets.files import collect_labels, find_file, keep_texts, read_json, read_records
from training.datasets.image_files import ImageFolder
from training.datasets.membership import read_membership
from training.datasets.split_names import SplitReader
from training.datasets.study import DatasetError, Study

KEYS = ("image_id", "caption")


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read filter_cap.json; the images are in `image/` next to it.

    Open-i's ids are `1384_1`, the second image of report 1384, whose images share the patient; the patient of any other
    id is unknown, unless a further key names it (`read_membership`).
    """
    file = find_file(path, "filter_cap.json")
    folder = ImageFolder(images or file.parent / "image")
    contents = read_json(file)
    if not isinstance(contents, dict) or "annotations" not in contents:
        raise DatasetError(f"{file} has no key annotations; if it is a list (MedicalGPT), give the format medicalgpt")
    if "images" in contents:
        raise DatasetError(f"{file} names its images under the key images; give the format coco")
    splits = SplitReader()
    for place, record in read_records(file, contents["annotations"], KEYS):
        name = str(record["image_id"])
        numbered = re.fullmatch(r"(\d+)_\d+", name)
        patient, split, keys = read_membership(record, place, splits, name)
        yield Study(
            study_id=name,
            images=(folder.find(f"{name}.jpg"),),
            sections=keep_texts({"report": record["caption"]}, place),
            patient_id=patient or (numbered[1] if numbered else None),
            views=("",),
            source="XrayGPT",
            split=split,
            labels=collect_labels(record, (*KEYS, *keys)),
            place=place,
        )
