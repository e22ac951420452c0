"""De-identification by an allow-list: a DICOM file with what makes and describes its picture, and nothing else.

PS3.15 annex E lists what a de-identifier must remove; stations write names into tags that no list has, so here
everything is left out except the elements of ALLOWED, and of those every value that is neither a number nor a word
known in advance. UIDs become keyed hashes. Pixels are copied, without what surrounds them (bridge.dicom.bare_pixels):
text that is burned into them stays (see PS3.15 E.3.1).
"""

import math
import struct
from collections.abc import Callable, Sequence
from io import BytesIO
from itertools import pairwise
from typing import Any

from pydicom import dcmwrite
from pydicom.datadict import dictionary_VM
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from bridge.dicom.anatomy_words import REGION_CODES, REGION_WORDS, VIEW_CODES, VIEW_WORDS, split_words
from bridge.dicom.bare_pixels import bare_pixels
from bridge.dicom.identity import SiteKey

MOST_WINDOWS = 16
FEWEST_ENTRIES = 16
"""Of a lookup table; shorter ones could be a word."""

Kept = Callable[[DataElement, SiteKey], Any]
"""Returns the value to write, or None to leave the element out."""


def _numbers(element: DataElement, _: SiteKey) -> Any:
    """Keep finite numbers, as many as the element may have, written again from their values.

    The bytes of a name in a binary element read as numbers too, but as too many.
    """
    if element.VR == "SQ" or str(element.VM) not in _multiplicities(element.keyword):
        return None
    values = list(element.value) if element.VM > 1 else [element.value]
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return None
    if not numbers or not all(map(math.isfinite, numbers)):
        return None
    if element.VR == "DS":
        return [f"{number:.10g}" for number in numbers]
    return [int(number) for number in numbers]


def _multiplicities(keyword: str) -> tuple[str, ...]:
    """Return how many values an element may have (PS3.6): one number, or a list for windows."""
    allowed = dictionary_VM(keyword)
    return tuple(map(str, range(1, MOST_WINDOWS + 1))) if allowed == "1-n" else (allowed,)


def _one_of(*terms: str) -> Kept:
    """Keep a code string that is one of these."""

    def keep(element: DataElement, _: SiteKey) -> Any:
        text = _text(element).strip()
        return text if text in terms else None

    return keep


def _known_words(element: DataElement, _: SiteKey) -> Any:
    """Keep the words of anatomy and projection; the server ignores other words too."""
    found = [word for word in split_words(_text(element)) if word in REGION_WORDS | VIEW_WORDS]
    # CS has 16 characters (PS3.5 6.2).
    while len(" ".join(found)) > 16:
        found.pop()
    return " ".join(found) or None


def _known_codes(element: DataElement, _: SiteKey) -> Any:
    """Keep coded regions and views, without their meaning, which is free text."""
    items = []
    for item in element.value if element.VR == "SQ" else ():
        code = str(item.get("CodeValue", "")).strip()
        if code in REGION_CODES | VIEW_CODES:
            kept = Dataset()
            kept.CodeValue = code
            kept.CodingSchemeDesignator = "SRT" if "-" in code else "SCT"
            kept.CodeMeaning = "region or view"
            items.append(kept)
    return items or None


def _lookup_tables(element: DataElement, _: SiteKey) -> Any:
    """Keep the numbers of lookup tables, without their explanations."""
    items = []
    for item in element.value if element.VR == "SQ" else ():
        descriptor, data = item.get("LUTDescriptor"), item.get("LUTData")
        if not isinstance(descriptor, Sequence) or len(descriptor) != 3 or not isinstance(data, Sequence):
            continue
        # PS3.3 C.11.1.1: 0 entries are 65,536. The entries are words, or bytes two of which make a word.
        entries = descriptor[0] or 65536
        if len(data) in (entries, 2 * entries) and _is_curve(data, entries):
            kept = Dataset()
            kept["LUTDescriptor"], kept["LUTData"] = item["LUTDescriptor"], item["LUTData"]
            items.append(kept)
    return items or None


def _is_curve(data: Any, entries: int) -> bool:
    """Whether a table rises or falls all along, as one of gray levels does and text does not."""
    readings = [list(data)]
    if isinstance(data, bytes) and len(data) == 2 * entries:
        readings = [list(struct.unpack(f"{order}{entries}H", data)) for order in "<>"]
    return entries >= FEWEST_ENTRIES and any(not {-1, 1} <= _directions(values) for values in readings)


def _directions(values: list[int]) -> set[int]:
    return {(after > before) - (after < before) for before, after in pairwise(values)}


def _standard_uid(element: DataElement, _: SiteKey) -> Any:
    uid = _text(element)
    return uid if UID(uid).keyword else None


def _hashed_uid(element: DataElement, key: SiteKey) -> Any:
    return key.replace_uid(_text(element))


def _text(element: DataElement) -> str:
    return " ".join(map(str, element.value)) if element.VM > 1 else str(element.value)


ALLOWED: dict[str, Kept] = {
    "SOPClassUID": _standard_uid,
    "SOPInstanceUID": _hashed_uid,
    "StudyInstanceUID": _hashed_uid,
    "SeriesInstanceUID": _hashed_uid,
    "Modality": _one_of("CR", "DX", "DR", "RG", "RF", "XA", "MG", "CT", "MR", "US", "OT", "PX", "IO", "SC", "ES", "PT"),
    "PresentationIntentType": _one_of("FOR PRESENTATION", "FOR PROCESSING"),
    "BurnedInAnnotation": _one_of("YES", "NO"),
    "LossyImageCompression": _one_of("00", "01"),
    "BodyPartExamined": _known_words,
    "ViewPosition": _known_words,
    "AnatomicRegionSequence": _known_codes,
    "ViewCodeSequence": _known_codes,
    "SamplesPerPixel": _numbers,
    "PhotometricInterpretation": _one_of(
        *("MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
    ),
    "PlanarConfiguration": _numbers,
    "NumberOfFrames": _numbers,
    "Rows": _numbers,
    "Columns": _numbers,
    "BitsAllocated": _numbers,
    "BitsStored": _numbers,
    "HighBit": _numbers,
    "PixelRepresentation": _numbers,
    "PixelPaddingValue": _numbers,
    "PixelPaddingRangeLimit": _numbers,
    "PixelAspectRatio": _numbers,
    "PixelSpacing": _numbers,
    "ImagerPixelSpacing": _numbers,
    "NominalScannedPixelSpacing": _numbers,
    "RescaleSlope": _numbers,
    "RescaleIntercept": _numbers,
    "WindowCenter": _numbers,
    "WindowWidth": _numbers,
    "VOILUTFunction": _one_of("LINEAR", "LINEAR_EXACT", "SIGMOID"),
    "PresentationLUTShape": _one_of("IDENTITY", "INVERSE", "LIN OD"),
    "ModalityLUTSequence": _lookup_tables,
    "VOILUTSequence": _lookup_tables,
}


def deidentify(dataset: Dataset, key: SiteKey) -> Dataset:
    """Return a new data set of the allowed elements and the pixels, ready to be written.

    dataset : an image with its file meta information; unchanged
    """
    kept = Dataset()
    for keyword, keep in ALLOWED.items():
        if keyword not in dataset or dataset[keyword].is_empty:
            continue
        value = keep(dataset[keyword], key)
        if value is not None:
            kept.add_new(keyword, dataset[keyword].VR, value)
    if "PixelData" in dataset and (pixels := bare_pixels(dataset)) is not None:
        kept.add_new("PixelData", dataset["PixelData"].VR, pixels)
        kept["PixelData"].is_undefined_length = dataset["PixelData"].is_undefined_length
    kept.file_meta = FileMetaDataset()
    syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
    kept.file_meta.TransferSyntaxUID = syntax
    kept.file_meta.MediaStorageSOPClassUID = kept.get("SOPClassUID", UID("1.2.840.10008.5.1.4.1.1.7"))
    kept.file_meta.MediaStorageSOPInstanceUID = kept.get("SOPInstanceUID", key.replace_uid(""))
    return kept


def write_deidentified(dataset: Dataset, key: SiteKey) -> bytes:
    """Return the DICOM file of `deidentify`."""
    file = BytesIO()
    dcmwrite(file, deidentify(dataset, key), enforce_file_format=True)
    return file.getvalue()
