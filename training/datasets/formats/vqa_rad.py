"""VQA-RAD: questions about images of MedPix, with their answers; every question is a study."""

from collections.abc import Iterator
from pathlib import Path

from training.datasets.files import filled, find_file, find_image, read_json, read_records
from training.datasets.study import Study

KEYS = ("qid", "image_name", "image_case_url", "question", "answer")


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read VQA_RAD Dataset Public.json; the images are in `images/` beside it.

    The questions whose phrase_type begins with `test` are the data set's test split, the others have no split: the same
    images are asked about in both, so the split is by question, not by patient, and is left to the label `phrase_type`.
    """
    file = find_file(path, "VQA_RAD Dataset Public.json", "vqa_rad_dataset_public.json", "qa_chest.json")
    folder = images or file.parent / "images"
    cases: dict[str, str] = {}
    for place, record in read_records(file, read_json(file), KEYS):
        name = str(record["image_name"])
        # Some rows count the case up (…a2, …a3) as a spreadsheet does: the first row of an image names its case.
        case = cases.setdefault(name, str(record["image_case_url"]))
        yield Study(
            study_id=str(record["qid"]),
            images=(find_image(folder, name),),
            # A few answers are numbers.
            sections=filled({"report": str(record["answer"])}, place),
            patient_id=case,
            views=("",),
            source="VQA-RAD",
            split=None,
            labels={
                "prompt": str(record["question"]),
                **{
                    key: str(record.get(key, ""))
                    for key in ("image_organ", "phrase_type", "question_type", "answer_type")
                },
            },
        )
