"""R2Gen's annotation.json, which most papers on IU X-Ray and MIMIC-CXR share: reports with their images, by split."""

from collections.abc import Iterator
from pathlib import Path

from training.datasets.files import collect_labels, find_file, keep_texts, read_json, read_records
from training.datasets.image_files import ImageFolder
from training.datasets.membership import read_membership
from training.datasets.split_names import SplitReader, name_split
from training.datasets.study import DatasetError, Study


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read annotation.json; the images are in `images/` next to it. The splits of the file are kept.

    The patient is `subject_id` (MIMIC-CXR) or in the id (IU X-Ray: CXR2384_IM-0942), else unknown.
    """
    file = find_file(path, "annotation.json", "r2gen_annotation.json")
    folder = ImageFolder(images or file.parent / "images")
    parts = read_json(file)
    if not isinstance(parts, dict):
        raise DatasetError(
            f"{file} has {type(parts).__name__} where an object with the keys train, val, test is expected"
        )
    splits = SplitReader()
    for name, records in parts.items():
        for where, record in read_records(file, records, ("id", "report", "image_path")):
            place = f"{where} of {name!r}"
            paths = record["image_path"]
            if not isinstance(paths, list) or not all(isinstance(image, str) for image in paths):
                raise DatasetError(f"{place}: image_path is {type(paths).__name__}; expected a list of file names")
            study_id = str(record["id"])
            patient, split, keys = read_membership(record, place, splits, study_id)
            yield Study(
                study_id=study_id,
                images=tuple(folder.find(image) for image in paths),
                sections=keep_texts({"report": record["report"]}, place),
                patient_id=patient,
                views=("",) * len(paths),
                source="R2Gen",
                # Some copies have a key of four spaces for the test list; records that name a split do it rightly.
                split=split or name_split(name.strip() or "test", place),
                labels=collect_labels(record, ("id", "report", *keys)),
                place=place,
            )
