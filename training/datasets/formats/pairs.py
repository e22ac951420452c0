"""A JSON list with one object an image: `[{"file", "findings", ...}]`, the plainest format for data of one's own.

file                   : image, relative to the folder of images
any of SECTIONS        : texts; one may be missing or null
uid                    : study; objects of one uid are one study, whose texts the first of them gives
patientid, view, split : see Study
any other text         : a label
"""

from collections.abc import Iterator
from pathlib import Path

from training.datasets.files import filled, find_file, find_image, read_json, read_records, split_named
from training.datasets.study import Study

SECTIONS = ("findings", "impression", "indication", "comparison", "report", "note", "imaging_text")
OTHER = ("file", "uid", "patientid", "view", "split")


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read pairs.json; the images are in `images/` beside it. Where there is no patientid, a study is a patient."""
    file = find_file(path, "pairs.json")
    folder = images or file.parent / "images"
    studies: dict[str, list[tuple[str, dict[str, object]]]] = {}
    for place, record in read_records(file, read_json(file), ("file",)):
        studies.setdefault(str(record.get("uid") or record["file"]), []).append((place, record))
    for study_id, rows in studies.items():
        place, first = rows[0]
        # One file may be listed twice, for instance once a licence.
        views = {find_image(folder, str(record["file"])): str(record.get("view") or "") for _, record in rows}
        split = first.get("split")
        yield Study(
            study_id=study_id,
            images=tuple(views),
            sections=filled({name: first.get(name) for name in SECTIONS}, place),
            patient_id=str(first.get("patientid") or study_id),
            views=tuple(views.values()),
            source=file.parent.name,
            split=None if split is None else split_named(str(split), place),
            labels={
                key: value for key, value in first.items() if isinstance(value, str) and key not in (*SECTIONS, *OTHER)
            },
        )
