"""ROCO: figures of open-access articles with their captions, in any of three shapes.

ROCO    : {train,validation,test}/radiology/captions.txt, `id <tab> caption` without a header; images/{id}.jpg
Kaggle  : the same folders with {train,val,test}data.csv: `id,name,caption`
ROCOv2  : {train,valid,test}_captions.csv: `ID,Caption`; {train,valid,test}/{id}.jpg, also in `{train,...}_images/`
"""

import re
from collections.abc import Iterator
from pathlib import Path

from training.datasets.delimited import find_delimiter, read_rows
from training.datasets.files import keep_texts
from training.datasets.image_files import ImageFolder
from training.datasets.membership import read_membership
from training.datasets.split_names import SplitReader, find_split
from training.datasets.study import DatasetError, Study

PATTERNS = ("*_captions.csv", "*/radiology/captions.txt", "*/radiology/*data.csv")


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read one file of captions, or every such file of a folder, with the split that its path names.

    images : one folder for all images; else each file has its own, as above

    Patients are unknown, unless a further column of a table names them, as one may name the split (`read_membership`).
    Figures of one article are a group, where licences.txt or the column `name` tells the article
    (`PMC...`). 1,195 articles of the published ROCO are in two splits: dataset.splits=disjoint leaves them out of
    training.
    """
    tables = [path] if path.is_file() else next((t for t in (sorted(path.glob(p)) for p in PATTERNS) if t), [])
    if not tables:
        raise DatasetError(
            f"{path} has no {' or '.join(PATTERNS)}; give the folder of ROCO, or one of these files, as path"
        )
    splits = SplitReader()
    for table in tables:
        yield from _read_table(table, images, splits)


def _read_table(table: Path, images: Path | None, splits: SplitReader) -> Iterator[Study]:
    of_file = find_split("/".join(table.parts[-3:]))
    own, figures = [table.parent / "images"], {}
    if table.suffix == ".txt":
        figures = _read_figures(table.parent / "licences.txt")
        rows = read_rows(table, (), delimiter="\t", header=("id", "caption"))
        found = ((place, row, row["id"], f"{row['id']}.jpg", row["caption"]) for place, row in rows)
    elif table.name.endswith("_captions.csv"):
        name = table.name.removesuffix("_captions.csv")
        own = [table.parent / name, table.parent / f"{name}_images"]
        rows = read_rows(table, ("ID", "Caption"))
        found = ((place, row, row["ID"], f"{row['ID']}.jpg", row["Caption"]) for place, row in rows)
    else:
        rows = read_rows(table, ("name", "caption"))
        found = ((place, row, row.get("id") or row["name"], row["name"], row["caption"]) for place, row in rows)
    folder = ImageFolder(*([images] if images else own))
    for place, row, key, name, caption in found:
        patient, split, _ = read_membership(row, place, splits)
        article = re.match(r"PMC\d+", figures.get(key, name))
        yield Study(
            study_id=key,
            images=(folder.find(name),),
            sections=keep_texts({"report": caption.strip()}, place),
            patient_id=patient,
            views=("",),
            source="ROCO",
            split=split or of_file,
            labels={},
            group=article[0] if article else key,
            place=place,
        )


def _read_figures(licenses: Path) -> dict[str, str]:
    """File name in the article (`PMC3970251_CRIONM2014-931546.003.jpg`) by id."""
    if not licenses.is_file():
        return {}
    # The file separates its three columns by tabs, or by commas where a program has saved it again.
    rows = read_rows(licenses, ("ROCO_ID", "PMC_ID"), find_delimiter(licenses))
    return {row["ROCO_ID"]: row["PMC_ID"] for _, row in rows}
