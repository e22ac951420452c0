"""One folder a sample, each with one image and caption.json: `{"caption": text}` (system 0's raw data)."""

from collections.abc import Iterator
from pathlib import Path

from training.datasets.files import collect_labels, keep_texts, read_json, read_records
from training.datasets.image_files import IMAGE_SUFFIXES, find_folder, list_images
from training.datasets.study import DatasetError, Study


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read every folder in `path` that has a caption.json, in the order of their names; patients are unknown."""
    if path.is_file():
        raise DatasetError(f"{path} is a file; give the folder with one folder a sample as path")
    for file in sorted(path.glob("*/caption.json")):
        folder = file.parent if images is None else find_folder(images, file.parent.name)
        found = list_images(folder)
        if len(found) != 1:
            names = ", ".join(image.name for image in found) or "none"
            raise DatasetError(f"{folder} must have one image ({', '.join(IMAGE_SUFFIXES)}); it has {names}")
        [(place, record)] = read_records(file, [read_json(file)], ("caption",))
        yield Study(
            study_id=file.parent.name,
            images=(found[0],),
            sections=keep_texts({"report": record["caption"]}, place),
            patient_id=None,
            views=("",),
            source=path.name,
            split=None,
            labels=collect_labels(record, ("caption",)),
            place=str(file),
        )
