"""Data sets that can be trained on, one file each; every one gives `Study` objects.

$ python -m training.validate_data r2gen path/to/annotation.json

A further format is one file with a function `read` and one line in FORMATS. docs/training-data.md has the table.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from training.datasets.cleaning import remove_markup
from training.datasets.files import PROMPT
from training.datasets.formats import (
    bimcv,
    caption_folders,
    chexpert_plus,
    coco,
    feature_json,
    indiana_csv,
    medgen,
    medicalgpt,
    mimic_cxr,
    open_radiology,
    openi_xml,
    padchest,
    pairs,
    r2gen,
    radimagenet_vqa,
    rexgradient,
    rexrank,
    roco,
    table,
    vqa_rad,
    webdataset,
    xraygpt,
    xreport,
)
from training.datasets.packed import is_zip, unpack_images
from training.datasets.study import DatasetError, Reader, Study
from training.datasets.values import SHORTENED, read_value

FORMATS: dict[str, Reader] = {
    "bimcv": bimcv.read,
    "caption_folders": caption_folders.read,
    "chexpert_plus": chexpert_plus.read,
    "coco": coco.read,
    "feature_json": feature_json.read,
    "indiana_csv": indiana_csv.read,
    "medgen": medgen.read,
    "medicalgpt": medicalgpt.read,
    "mimic_cxr": mimic_cxr.read,
    "open_radiology": open_radiology.read,
    "openi_xml": openi_xml.read,
    "padchest": padchest.read,
    "pairs": pairs.read,
    "r2gen": r2gen.read,
    "radimagenet_vqa": radimagenet_vqa.read,
    "rexgradient": rexgradient.read,
    "rexrank": rexrank.read,
    "roco": roco.read,
    "table": table.read,
    "vqa_rad": vqa_rad.read,
    "webdataset": webdataset.read,
    "xraygpt": xraygpt.read,
    "xreport": xreport.read,
}
"""Every format that can be read, by the name that configurations give as `dataset.format`."""

WRITES_IMAGES = ("radimagenet_vqa", "webdataset")
"""Formats whose images are inside their files: the folder of images is where they are written to."""


UNWRITABLE = re.compile("[\0\ud800-\udfff]")
"""What JSON can have in a name and a file cannot."""

MAX_NAME = 255
"""Bytes that a file name can have."""


def read_studies(
    format: str,  # noqa: A002 - the word of the configuration
    path: str | Path,
    images: str | Path | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> list[Study]:
    """The studies of a data set, in its order.

    format  : a key of FORMATS
    path    : its file or folder, see the module of the format
    images  : folder that image names are relative to, where it is not the format's own, or a .zip file with them, which
              is unpacked next to itself; for WRITES_IMAGES the folder that images are written to
    columns : of the format `table`
    limit   : at most this many studies, from the first on; the rest is not read

    Raises DatasetError for an unknown format, an unreadable file, two studies of one id, or no study at all.
    """
    reader = FORMATS.get(format)
    if reader is None:
        raise DatasetError(f"dataset.format is {format!r}; allowed: {', '.join(FORMATS)}")
    if format == "table":
        reader = partial(table.read, columns=columns or {})
    elif columns:
        raise DatasetError(f"dataset.columns is set, but the format is {format}; only the format table has columns")
    path, images = Path(path), None if images is None else Path(images)
    if is_zip(path):
        raise DatasetError(f"{path} is a zip archive; unpack it, and give its folder or the file in it as path")
    # A table in parquet may hold its images: the folder is then where they are written to.
    written = format in WRITES_IMAGES or (format == "table" and (path.suffix == ".parquet" or path.is_dir()))
    if images is not None and not (written and not images.exists()):
        images = unpack_images(images)
    places: dict[str, str] = {}
    studies = []
    for study in islice(reader(path, images), limit):
        _check(study, path)
        if study.study_id in places:
            raise DatasetError(
                f"{path} has two studies {study.study_id!r}: {places[study.study_id] or 'one'} and "
                f"{study.place or 'another'}; ids must be unique: remove or rename one, or give one data set as path"
            )
        places[study.study_id] = study.place
        asked = {PROMPT: remove_markup(study.labels[PROMPT]).strip()} if PROMPT in study.labels else {}
        studies.append(replace(study, patient_id=read_value(study.patient_id), labels={**study.labels, **asked}))
    if not studies:
        raise DatasetError(f"{path}, read as {format}, has no study; check dataset.format and path")
    return studies


def _check(study: Study, path: Path) -> None:
    """Raises DatasetError for ids that are missing or lost their digits, and names that no file system takes."""
    if read_value(study.study_id) is None:
        raise DatasetError(f"{study.place or path} has no id: it is {study.study_id!r}; give every study its own")
    for name in (study.study_id, study.patient_id):
        if name is not None and SHORTENED.fullmatch(str(name).strip()):
            raise DatasetError(
                f"{study.place or path}: the id {name!r} has lost its last digits in a spreadsheet, and others may be "
                "the same now; read the original with that column as text, and save it again"
            )
    names = (study.study_id, study.patient_id or "", *map(str, study.images))
    if odd := next((name for name in names if UNWRITABLE.search(str(name))), None):
        raise DatasetError(
            f"{study.place or path}: {odd!a} has NUL or half a character, which no name of a file can have; correct it"
        )
    longest = max((len(part.encode()) for image in study.images for part in image.parts), default=0)
    if longest > MAX_NAME:
        raise DatasetError(
            f"{study.place or path}: an image name has {longest} bytes; at most {MAX_NAME} are possible: correct it"
        )
