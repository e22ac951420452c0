"""One folder a sample, each with one image and caption.json: `{"caption": text}` (system 0's raw data)."""

from collections.abc import Iterator
from pathlib import Path

from training.datasets.files import collect_labels, keep_texts, read_json, read_records
from training.datasets.image_files import IMAGE_SUFFIXES, find_folder, list_images
from training.datasets.membership import read_membership
from training.datasets.split_names import SplitReader
from training.datasets.study import DatasetError, Study


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read every folder in `path` that has a caption.json, in the order of their names.

    Further keys name the patient and the split (`read_membership`), or are labels.
    """
    if path.is_file():
        raise DatasetError(f"{path} is a file; give the folder with one folder a sample as path")
    splits = SplitReader()
    for file in sorted(path.glob("*/caption.json")):
        folder = file.parent if images is None else find_folder(images, file.parent.name)
        found = list_images(folder)
        if len(found) != 1:
            names = ", ".join(image.name for image in found) or "none"
            raise DatasetError(f"{folder} must have one image ({', '.join(IMAGE_SUFFIXES)}); it has {names}")
        [(place, record)] = read_records(file, [read_json(file)], ("caption",))
        patient, split, keys = read_membership(record, place, splits, file.parent.name)
        yield Study(
            study_id=file.parent.name,
            images=(found[0],),
            sections=keep_texts({"report": record["caption"]}, place),
            patient_id=patient,
            views=("",),
            source=path.name,
            split=split,
            labels=collect_labels(record, ("caption", *keys)),
            place=str(file),
        )
