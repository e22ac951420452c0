"""MedicalGPT's list `[{"image", "caption", "prompt"}]`: a question or order, and its answer, about one image."""

from collections.abc import Iterator
from pathlib import Path

from training.datasets.files import PROMPT, collect_labels, find_file, keep_texts, read_json, read_records
from training.datasets.image_files import ImageFolder
from training.datasets.membership import read_membership
from training.datasets.split_names import SplitReader
from training.datasets.study import DatasetError, Study

KEYS = ("image", "caption", "prompt")


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read filter_cap.json; the images are relative to its folder. Entries of one image are in one split.

    Further keys name the patient and the split (`read_membership`), or are labels.
    """
    file = find_file(path, "filter_cap.json")
    folder = ImageFolder(images or file.parent)
    splits = SplitReader()
    for i, (place, record) in enumerate(read_records(file, read_json(file), KEYS)):
        texts = keep_texts(
            {"report": record["caption"], **{name: record[name] for name in KEYS[::2]}}, place, answers=True
        )
        name = texts.pop("image", "")
        if not name:
            raise DatasetError(f"{place}: image is empty; give a file name, or remove the entry")
        patient, split, keys = read_membership(record, place, splits, name)
        yield Study(
            study_id=str(i),
            images=(folder.find(name),),
            sections={key: text for key, text in texts.items() if key == "report"},
            patient_id=patient,
            views=("",),
            source="MedicalGPT",
            split=split,
            labels={PROMPT: texts.get("prompt", ""), **collect_labels(record, (*KEYS, *keys))},
            group=name,
            place=place,
        )
