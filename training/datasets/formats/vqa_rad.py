"""VQA-RAD: questions about images of MedPix, with their answers; every question is a study."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.datasets.files import PROMPT, find_file, keep_texts, read_json, read_records
from training.datasets.image_files import ImageFolder
from training.datasets.membership import read_membership
from training.datasets.split_names import SplitReader
from training.datasets.study import Study
from training.datasets.values import read_value

KEYS = ("qid", "image_name", "image_case_url", "question", "answer")
FILES = ("VQA_RAD Dataset Public.json", "vqa_rad_dataset_public.json", "qa_chest.json")
LABELS = ("image_organ", "phrase_type", "question_type", "answer_type")


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read VQA_RAD Dataset Public.json; the images are in `VQA_RAD Image Folder/` or `images/` next to it.

    The questions whose phrase_type begins with `test` are the data set's test split, the others have no split: the same
    images are asked about in both, so the split is by question, not by patient, and is left to the label `phrase_type`.
    """
    file = find_file(path, *FILES)
    own = (file.parent / "images", file.parent / "VQA_RAD Image Folder")
    folder = ImageFolder(images) if images else ImageFolder(*own)
    splits = SplitReader()
    cases: dict[str, str | None] = {}
    for place, record in read_records(file, read_json(file), KEYS):
        name = str(record["image_name"])
        # Some rows count the case up (…a2, …a3) as a spreadsheet does: the first row of an image names its case.
        case = cases.setdefault(name, read_value(record["image_case_url"]))
        texts = keep_texts({key: _write_number(record[key]) for key in ("answer", "question")}, place, answers=True)
        patient, split, _ = read_membership(record, place, splits)
        yield Study(
            study_id=str(record["qid"]),
            images=(folder.find(name),),
            sections={"report": texts["answer"]} if "answer" in texts else {},
            patient_id=patient or case,
            views=("",),
            source="VQA-RAD",
            split=split,
            labels={PROMPT: texts.get("question", ""), **{key: str(record.get(key) or "") for key in LABELS}},
            group=name,
            place=place,
        )


def _write_number(value: Any) -> Any:
    """A few answers are numbers."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
