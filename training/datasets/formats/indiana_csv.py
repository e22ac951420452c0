"""Indiana University chest X-rays as two tables (Kaggle `raddar/chest-xrays-indiana-university`)."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from training.datasets.delimited import read_rows
from training.datasets.files import find_file, keep_texts
from training.datasets.image_files import ImageFolder
from training.datasets.membership import read_membership
from training.datasets.split_names import SplitReader
from training.datasets.study import Study
from training.datasets.study_rows import join_views

SECTIONS = ("indication", "comparison", "findings", "impression")


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read indiana_reports.csv and, from the same folder, indiana_projections.csv.

    The images are in `images/images_normalized/` or `images/`, by their names there or by those of Open-i. One report a
    patient (Demner-Fushman et al., JAMIA 2016), unless a further column names patients.
    """
    reports = find_file(path, "indiana_reports.csv")
    projections = find_file(reports.parent, "indiana_projections.csv")
    own = reports.parent / "images"
    folder = ImageFolder(images) if images else ImageFolder(own, own / "images_normalized")
    splits = SplitReader()
    projected: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    for _, row in read_rows(projections, ("uid", "filename", "projection")):
        uid, name = row["uid"], row["filename"]
        # 1_IM-0001-4001.dcm.png is CXR1_1_IM-0001-4001.png in the XML of report 1, but has no 1_ in most others.
        openi = name.removesuffix(".dcm.png")
        projected[uid].append((folder.find(name, f"CXR{openi}.png", f"CXR{uid}_{openi}.png"), row["projection"]))
    views = {uid: join_views(pairs) for uid, pairs in projected.items()}
    for place, row in read_rows(reports, ("uid", "MeSH", "Problems", *SECTIONS)):
        uid = row["uid"]
        patient, split, _ = read_membership(row, place, splits)
        yield Study(
            study_id=uid,
            images=tuple(views.get(uid, ())),
            sections=keep_texts({name: row[name] for name in SECTIONS}, place),
            patient_id=patient or uid,
            views=tuple(views.get(uid, {}).values()),
            source="Indiana University",
            split=split,
            labels={"mesh": row["MeSH"], "problems": row["Problems"]},
            place=place,
        )
