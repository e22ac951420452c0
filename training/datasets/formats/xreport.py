"""XREPORT: a table `id;text`, and one image an id.

The id is the name of the image file without its suffix, or up to its first dot.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from training.datasets.delimited import read_rows
from training.datasets.files import collect_labels, find_file, keep_texts
from training.datasets.image_files import list_images, nest_folders, strip_suffixes
from training.datasets.membership import read_membership
from training.datasets.split_names import SplitReader
from training.datasets.study import DatasetError, Study


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read XREPORT_dataset.csv; the images are in `images/` next to it.

    Further columns name the patient and the split (`read_membership`), or are labels.

    Raises DatasetError where two files fit an id and neither has its whole name.
    """
    table = find_file(path, "XREPORT_dataset.csv")
    folder = nest_folders(images or table.parent / "images")[-1]
    rows = list(read_rows(table, ("id", "text"), delimiter=";"))
    files: dict[str, list[Path]] = defaultdict(list)
    for file in list_images(folder):
        files[strip_suffixes(file.name)].append(file)
    splits = SplitReader()
    ids = {row["id"] for _, row in rows}
    whole = set(files)
    for name in sorted(whole - ids):  # belongs to the id up to its first dot, unless a file has that as its whole name
        if (start := name.partition(".")[0]) not in whole:
            files[start] += files[name]
    for place, row in rows:
        found = files.get(row["id"], [])
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise DatasetError(f"{place}: {names} fit the id; remove all but one, or give the id the whole name")
        patient, split, keys = read_membership(row, place, splits, row["id"])
        yield Study(
            study_id=row["id"],
            images=(found[0] if found else folder / f"{row['id']}.png",),
            sections=keep_texts({"report": row["text"]}, place),
            patient_id=patient,
            views=("",),
            source="XREPORT",
            split=split,
            labels=collect_labels(row, ("id", "text", *keys)),
            place=place,
        )
