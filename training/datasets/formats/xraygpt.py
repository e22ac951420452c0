"""XrayGPT's filter_cap.json: `{"annotations": [{"image_id", "caption"}]}`, and `image/{image_id}.jpg` or `.png`."""

import re
from collections.abc import Iterator
from pathlib import Path

from training.datasets.files import filled, find_file, find_image, read_json, read_records
from training.datasets.study import DatasetError, Study


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read filter_cap.json; the images are in `image/` beside it.

    Open-i's ids are `1384_1`, the second image of report 1384, whose images share the patient; of the others nothing is
    known, and every one counts as a patient.
    """
    file = find_file(path, "filter_cap.json")
    folder = images or file.parent / "image"
    contents = read_json(file)
    if not isinstance(contents, dict) or "annotations" not in contents:
        raise DatasetError(f"{file} has no key annotations; if it is a list (MedicalGPT), give the format medicalgpt")
    for place, record in read_records(file, contents["annotations"], ("image_id", "caption")):
        name = str(record["image_id"])
        numbered = re.fullmatch(r"(\d+)_\d+", name)
        sections = filled({"report": record["caption"]}, place)
        image = find_image(folder, f"{name}.jpg")
        yield Study(name, (image,), sections, numbered[1] if numbered else name, ("",), "XrayGPT", None, {})
