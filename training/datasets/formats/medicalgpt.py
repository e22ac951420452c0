"""MedicalGPT's list `[{"image", "caption", "prompt"}]`: a question or order, and its answer, about one image."""

from collections.abc import Iterator
from pathlib import Path

from training.datasets.files import filled, find_file, find_image, read_json, read_records
from training.datasets.study import Study


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read filter_cap.json; the images are relative to its folder. An image is a patient, as nothing more is known."""
    file = find_file(path, "filter_cap.json")
    for i, (place, record) in enumerate(read_records(file, read_json(file), ("image", "caption", "prompt"))):
        texts = filled({"report": record["caption"], "image": record["image"], "prompt": record["prompt"]}, place)
        name = texts.pop("image", "")
        prompt = texts.pop("prompt", "")
        image = find_image(images or file.parent, name)
        yield Study(str(i), (image,), texts, name, ("",), "MedicalGPT", None, {"prompt": prompt})
