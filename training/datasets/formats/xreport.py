"""XREPORT: a table `id;text`, and one image an id.

The id is the name of the image file up to its first dot.
"""

from collections.abc import Iterator
from pathlib import Path

from training.datasets.files import IMAGE_SUFFIXES, filled, find_file, read_rows
from training.datasets.study import Study


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read XREPORT_dataset.csv; the images are in `images/` beside it."""
    table = find_file(path, "XREPORT_dataset.csv")
    folder = images or table.parent / "images"
    files = {
        file.name.partition(".")[0]: file for file in sorted(folder.glob("*")) if file.suffix.lower() in IMAGE_SUFFIXES
    }
    for place, row in read_rows(table, ("id", "text"), delimiter=";"):
        image = files.get(row["id"], folder / f"{row['id']}.png")
        sections = filled({"report": row["text"]}, place)
        yield Study(row["id"], (image,), sections, row["id"], ("",), "XREPORT", None, {})
