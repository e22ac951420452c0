"""R2Gen's annotation.json, which most papers on IU X-Ray and MIMIC-CXR share: reports with their images, by split."""

from collections.abc import Iterator
from pathlib import Path

from training.datasets.files import filled, find_file, find_image, read_json, read_records, split_named
from training.datasets.study import DatasetError, Study


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read annotation.json; the images are in `images/` beside it. The splits of the file are kept.

    The patient is `subject_id` (MIMIC-CXR) or what stands before the `_` of the id (IU X-Ray: CXR2384_IM-0942).
    """
    file = find_file(path, "annotation.json", "r2gen_annotation.json")
    folder = images or file.parent / "images"
    parts = read_json(file)
    if not isinstance(parts, dict):
        raise DatasetError(
            f"{file} has {type(parts).__name__} where an object with the keys train, val, test is expected"
        )
    for name, records in parts.items():
        for place, record in read_records(file, records, ("id", "report", "image_path")):
            paths = record["image_path"]
            if not isinstance(paths, list) or not all(isinstance(image, str) for image in paths):
                raise DatasetError(f"{place}, {name!r}: image_path is {paths!r}; expected a list of file names")
            study_id = str(record["id"])
            yield Study(
                study_id=study_id,
                images=tuple(find_image(folder, image) for image in paths),
                sections=filled({"report": record["report"]}, place),
                patient_id=str(record.get("subject_id", study_id.partition("_")[0])),
                views=("",) * len(paths),
                source="R2Gen",
                # Some copies have a key of four spaces for the test list; records that name a split do it rightly.
                split=split_named(str(record.get("split", name.strip() or "test")), f"{place}, {name!r}"),
                labels={},
            )
