"""One folder a sample, each with one image and caption.json: `{"caption": text}` (system 0's raw data)."""

from collections.abc import Iterator
from pathlib import Path

from training.datasets.files import IMAGE_SUFFIXES, filled, read_json, read_records
from training.datasets.study import DatasetError, Study


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read every folder in `path` that has a caption.json, in the order of their names; a folder is a patient."""
    for file in sorted(path.glob("*/caption.json")):
        folder = file.parent if images is None else images / file.parent.name
        found = [image for image in sorted(folder.glob("*")) if image.suffix.lower() in IMAGE_SUFFIXES]
        if len(found) != 1:
            names = ", ".join(image.name for image in found) or "none"
            raise DatasetError(f"{folder} must have one image ({', '.join(IMAGE_SUFFIXES)}); it has {names}")
        [(place, record)] = read_records(file, [read_json(file)], ("caption",))
        name = file.parent.name
        yield Study(name, (found[0],), filled({"report": record["caption"]}, place), name, ("",), path.name, None, {})
