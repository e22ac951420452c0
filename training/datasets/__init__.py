"""Data sets that can be trained on, one file each; every one gives `Study` objects.

$ python -m training.validate_data r2gen path/to/annotation.json

A further format is one file with a function `read` and one line in FORMATS.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from training.datasets.formats import (
    caption_folders,
    chexpert_plus,
    feature_json,
    indiana_csv,
    medgen,
    medicalgpt,
    mimic_cxr,
    open_radiology,
    openi_xml,
    pairs,
    r2gen,
    radimagenet_vqa,
    rexrank,
    roco,
    vqa_rad,
    xraygpt,
    xreport,
)
from training.datasets.study import DatasetError, Reader, Study

FORMATS: dict[str, Reader] = {
    "caption_folders": caption_folders.read,
    "chexpert_plus": chexpert_plus.read,
    "feature_json": feature_json.read,
    "indiana_csv": indiana_csv.read,
    "medgen": medgen.read,
    "medicalgpt": medicalgpt.read,
    "mimic_cxr": mimic_cxr.read,
    "open_radiology": open_radiology.read,
    "openi_xml": openi_xml.read,
    "pairs": pairs.read,
    "r2gen": r2gen.read,
    "radimagenet_vqa": radimagenet_vqa.read,
    "rexrank": rexrank.read,
    "roco": roco.read,
    "vqa_rad": vqa_rad.read,
    "xraygpt": xraygpt.read,
    "xreport": xreport.read,
}
"""Every format that can be read, by the name that configurations give as `dataset.format`."""


def read_studies(
    format: str,  # noqa: A002 - the word of the configuration
    path: str | Path,
    images: str | Path | None = None,
    *,
    limit: int | None = None,
    only_present: bool = False,
) -> list[Study]:
    """The studies of a data set, in its order.

    format       : a key of FORMATS
    path         : its file or folder, see the module of the format
    images       : folder that image names are relative to, where it is not the format's own; for radimagenet_vqa the
                   folder that images are written to
    limit        : at most so many studies, from the first on; the rest is not read
    only_present : leave out images that are not on this disk, and studies that are left without image and features

    Raises DatasetError for an unknown format, an unreadable file, two studies of one id, or no study at all.
    """
    reader = FORMATS.get(format)
    if reader is None:
        raise DatasetError(f"dataset.format is {format!r}; allowed: {', '.join(FORMATS)}")
    path, images = Path(path), None if images is None else Path(images)
    if images is not None and not images.exists() and format != "radimagenet_vqa":
        raise DatasetError(
            f"the image folder {images} does not exist; give that of the image files (dataset.image_folder)"
        )
    found = reader(path, images)
    studies = list(islice(_present(found) if only_present else found, limit))
    if not studies:
        lacks = "study whose image is on this disk" if only_present else "study"
        raise DatasetError(f"{path}, read as {format}, has no {lacks}; check dataset.format, path and images")
    seen: set[str] = set()
    for study in studies:
        if study.study_id in seen:
            raise DatasetError(f"{path} has two studies {study.study_id!r}; ids must be unique: remove or rename one")
        seen.add(study.study_id)
    return studies


def _present(studies: Iterator[Study]) -> Iterator[Study]:
    for study in studies:
        there = [i for i, image in enumerate(study.images) if image.is_file()]
        if there or study.features is not None:
            images = tuple(study.images[i] for i in there)
            yield replace(study, images=images, views=tuple(study.views[i] for i in there))
