"""All tags that are read of a DICOM header, in one table: which are needed, and what happens if one is invalid."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from prelim.errors import UnreadableInput
from prelim.images.decoder_fence import fence
from prelim.images.dicom.gray_scale import LookupTable
from prelim.images.dicom.structure import DataSet
from prelim.images.dicom.values import (
    Concept,
    Invalid,
    describe_tag,
    read_code,
    read_coded_concepts,
    read_decimals,
    read_presence,
    read_table,
    read_uid,
    read_whole,
    read_words,
    tag_of,
)

# PS3.3 C.9.2: (60xx,0010) Overlay Rows of the sixteen overlay groups.
OVERLAY_ROWS = tuple(0x60000010 + (group << 16) for group in range(0, 32, 2))


class Use(Enum):
    """What a tag is for, which says what its absence and an invalid value mean."""

    NEEDED = "absent or invalid: 400, because no picture can be made without it"
    DECISIVE = "absent: by the rule of the standard; invalid: 400, because a guess could show another picture"
    OPTIONAL = "absent: done without; invalid: the same, with a warning that names the tag"


@dataclass(frozen=True)
class Tag:
    """How one field of HeaderValues is read."""

    keyword: str
    read: Callable[[Dataset, str], Any]
    use: Use


def needed(keyword: str, read: Callable[[Dataset, str], Any]) -> Any:
    """Declare a field that no picture can do without."""
    return dataclasses.field(default=None, metadata={"tag": Tag(keyword, read, Use.NEEDED)})


def decisive(keyword: str, read: Callable[[Dataset, str], Any]) -> Any:
    """Declare a field that may be absent and must not be guessed."""
    return dataclasses.field(default=None, metadata={"tag": Tag(keyword, read, Use.DECISIVE)})


def optional(keyword: str, read: Callable[[Dataset, str], Any]) -> Any:
    """Declare a field that an invalid value leaves empty."""
    return dataclasses.field(default=None, metadata={"tag": Tag(keyword, read, Use.OPTIONAL)})


@dataclass(frozen=True)
class HeaderValues:
    """What is read of a header, once; None for every tag that is absent, empty, or optional and invalid.

    overlays : the file has overlays (60xx)
    warnings : one for every optional tag that is invalid, free of patient data
    """

    # The pixels
    rows: int | None = needed("Rows", read_whole)
    columns: int | None = needed("Columns", read_whole)
    bits_allocated: int | None = needed("BitsAllocated", read_whole)
    pixel_data: bool | None = needed("PixelData", read_presence)
    float_pixel_data: bool | None = decisive("FloatPixelData", read_presence)
    double_pixel_data: bool | None = decisive("DoubleFloatPixelData", read_presence)
    photometric: str | None = decisive("PhotometricInterpretation", read_code)
    samples_per_pixel: int | None = decisive("SamplesPerPixel", read_whole)
    bits_stored: int | None = decisive("BitsStored", read_whole)
    high_bit: int | None = decisive("HighBit", read_whole)
    pixel_representation: int | None = decisive("PixelRepresentation", read_whole)
    number_of_frames: int | None = optional("NumberOfFrames", read_whole)
    planar_configuration: int | None = optional("PlanarConfiguration", read_whole)
    lossy: str | None = optional("LossyImageCompression", read_code)

    # What the picture is of, and whether it may be answered
    modality: str | None = decisive("Modality", read_code)
    presentation_intent: tuple[str, ...] | None = optional("PresentationIntentType", read_words)
    burned_in: tuple[str, ...] | None = optional("BurnedInAnnotation", read_words)
    sop_class: str | None = optional("SOPClassUID", read_uid)
    body_part: tuple[str, ...] | None = optional("BodyPartExamined", read_words)
    regions: tuple[Concept, ...] | None = optional("AnatomicRegionSequence", read_coded_concepts)
    view_position: tuple[str, ...] | None = optional("ViewPosition", read_words)
    view_codes: tuple[Concept, ...] | None = optional("ViewCodeSequence", read_coded_concepts)

    # The gray scale
    presentation_shape: str | None = optional("PresentationLUTShape", read_code)
    slope: tuple[float, ...] | None = optional("RescaleSlope", read_decimals)
    intercept: tuple[float, ...] | None = optional("RescaleIntercept", read_decimals)
    modality_table: LookupTable | None = optional("ModalityLUTSequence", read_table)  # noqa: RUF009 - a field
    voi_table: LookupTable | None = optional("VOILUTSequence", read_table)  # noqa: RUF009 - a field
    window_center: tuple[float, ...] | None = optional("WindowCenter", read_decimals)
    window_width: tuple[float, ...] | None = optional("WindowWidth", read_decimals)
    voi_function: str | None = optional("VOILUTFunction", read_code)
    padding: int | None = optional("PixelPaddingValue", read_whole)
    padding_limit: int | None = optional("PixelPaddingRangeLimit", read_whole)

    # The size of a pixel
    spacing: tuple[float, ...] | None = optional("PixelSpacing", read_decimals)
    imager_spacing: tuple[float, ...] | None = optional("ImagerPixelSpacing", read_decimals)
    scanned_spacing: tuple[float, ...] | None = optional("NominalScannedPixelSpacing", read_decimals)
    aspect_ratio: tuple[float, ...] | None = optional("PixelAspectRatio", read_decimals)

    overlays: bool = False
    warnings: tuple[str, ...] = ()


TAGS: dict[str, Tag] = {
    field.name: field.metadata["tag"] for field in dataclasses.fields(HeaderValues) if "tag" in field.metadata
}


def parse(data_set: DataSet) -> Dataset:
    """The elements of TAGS and no others: names, numbers and dates of patients never become values."""
    tags = [tag_of(tag.keyword) for tag in TAGS.values()]
    with fence("the DICOM header"):
        return read_dataset(
            BytesIO(data_set.body),
            data_set.implicit,
            data_set.little_endian,
            specific_tags=[*tags, *OVERLAY_ROWS],
        )


def read_header_values(dataset: Dataset) -> HeaderValues:
    """The values of all TAGS.

    Raises UnreadableInput (400) for an invalid value of a tag that is needed or decisive. Whether the needed ones are
    there is asked later, by `require`: a report without pixels is not a damaged image.
    """
    values: dict[str, Any] = {}
    warnings = []
    for name, tag in TAGS.items():
        try:
            values[name] = tag.read(dataset, tag.keyword)
        except Invalid as error:
            if tag.use is not Use.OPTIONAL:
                raise UnreadableInput(f"{describe_tag(tag.keyword)} {error}; check its export") from None
            warnings.append(ignore_tag(name, str(error)))
    overlays = any(tag in dataset for tag in OVERLAY_ROWS)
    return HeaderValues(**values, overlays=overlays, warnings=tuple(warnings))


def ignore_tag(name: str, reason: str) -> str:
    """The warning that the tag of this field is invalid; `reason` goes after the name of the tag."""
    return f"invalid_value: {describe_tag(TAGS[name].keyword)} {reason}; the image is shown as if it were absent"


def require(values: HeaderValues) -> None:
    """Raise UnreadableInput (400) if a needed tag is absent."""
    for name, tag in TAGS.items():
        if tag.use is Use.NEEDED and getattr(values, name) is None:
            raise UnreadableInput(f"{describe_tag(tag.keyword)} is absent; an image needs it; check its export")
