"""May this model answer this DICOM file: the header, checked before any pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from prelim.errors import Refused, UnreadableInput
from prelim.images.decoder_fence import fenced
from prelim.images.dicom.grey_scale import GreyScale, LookupTable, Window
from prelim.images.dicom.values import (
    NOT_A_CODE,
    OVERLAY_ROWS,
    coded,
    decimals,
    named,
    read_value,
    standard_name,
    whole,
)
from prelim.images.input_config import InputConfig, check_size


@dataclass(frozen=True)
class DicomHeader:
    """What is needed of a header that passed.

    spacing   : row and column spacing in mm, or None
    warnings  : free of patient data
    """

    rows: int
    columns: int
    bits_allocated: int
    grey_scale: GreyScale
    spacing: tuple[float, float] | None
    modality: str
    view: str | None
    lossy: bool
    warnings: tuple[str, ...]


def check_header(dataset: Dataset, config: InputConfig) -> DicomHeader:
    """Return the header of a radiograph that this model may answer.

    Raises Refused (422) with its name for everything readable that must not be answered, UnreadableInput (400) for
    values that contradict the standard or each other, TooLarge (413) over `max_pixels`.
    """
    _check_kind(dataset, config)
    warnings = _check_content(dataset)
    rows, columns = _required(dataset, "Rows"), _required(dataset, "Columns")
    check_size(rows, columns, config)
    view = coded(dataset, "ViewPosition")
    if config.views is not None:
        if view is None:
            warnings.append(f"view_unknown: {named('ViewPosition')} is absent; this model reads {_list(config.views)}")
        elif view not in config.views:
            raise Refused(
                f"view: {named('ViewPosition')} is '{view}'; this model reads {_list(config.views)}; "
                "send that view, or set input.views in model.yaml"
            )
    if any(tag in dataset for tag in OVERLAY_ROWS):
        warnings.append("overlay_ignored: the file has overlays (60xx), which are not drawn")
    spacing = _spacing(dataset, warnings)
    return DicomHeader(
        rows=rows,
        columns=columns,
        bits_allocated=_required(dataset, "BitsAllocated"),
        grey_scale=_grey_scale(dataset),
        spacing=spacing,
        modality=coded(dataset, "Modality") or "",
        view=None if view == NOT_A_CODE else view,
        lossy=coded(dataset, "LossyImageCompression") == "01",
        warnings=tuple(warnings),
    )


def _list(values: tuple[str, ...]) -> str:
    return ", ".join(values)


def _required(dataset: Dataset, keyword: str) -> int:
    value = whole(dataset, keyword)
    if value is None:
        raise UnreadableInput(f"{named(keyword)} is absent; an image needs it; check its export")
    return value


def _check_kind(dataset: Dataset, config: InputConfig) -> None:
    """Refuse what is no image, and images of other modalities."""
    modality = coded(dataset, "Modality")
    if "PixelData" not in dataset:
        if "Rows" in dataset and "FloatPixelData" not in dataset and "DoubleFloatPixelData" not in dataset:
            raise UnreadableInput(
                f"{named('PixelData')} is absent although {named('Rows')} is there: the file is truncated or without "
                "its pixels; send it again"
            )
        raise Refused(
            f"no_pixel_data: {named('PixelData')} is absent, {named('SOPClassUID')} is "
            f"{standard_name(str(read_value(dataset, 'SOPClassUID') or ''))}; "
            "allowed: an image; send the radiograph of the study"
        )
    if modality not in config.modalities:
        found = f"'{modality}'" if modality else "absent"
        raise Refused(
            f"modality: {named('Modality')} is {found}; this model reads {_list(config.modalities)}; "
            "set input.modalities in model.yaml if it was trained on more"
        )


def _check_content(dataset: Dataset) -> list[str]:
    """Refuse images that are not one grey-scale picture for presentation; return warnings."""
    frames = whole(dataset, "NumberOfFrames")
    if frames is not None and frames != 1:
        if frames < 1:
            raise UnreadableInput(f"{named('NumberOfFrames')} is {frames}; allowed: 1; check its export")
        raise Refused(f"multi_frame: {named('NumberOfFrames')} is {frames}; allowed: 1; send one frame")
    photometric = coded(dataset, "PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Refused(
            f"photometric: {named('PhotometricInterpretation')} is '{photometric or ''}'; "
            "allowed: MONOCHROME1, MONOCHROME2; send the original radiograph, not a colour capture"
        )
    samples = whole(dataset, "SamplesPerPixel")
    if samples not in (None, 1):
        raise UnreadableInput(f"{named('SamplesPerPixel')} is {samples}; {photometric} has 1; check its export")
    if coded(dataset, "PresentationIntentType") == "FOR PROCESSING":
        raise Refused(
            f"for_processing: {named('PresentationIntentType')} is 'FOR PROCESSING'; allowed: FOR PRESENTATION; "
            "send the processed image"
        )
    burned_in = coded(dataset, "BurnedInAnnotation")
    if burned_in == "YES":
        raise Refused(
            f"burned_in_annotation: {named('BurnedInAnnotation')} is 'YES'; allowed: NO; "
            "send the image without text in its pixels"
        )
    if burned_in is None:
        return [f"burned_in_unknown: {named('BurnedInAnnotation')} is absent"]
    return []


def _grey_scale(dataset: Dataset) -> GreyScale:
    allocated = _required(dataset, "BitsAllocated")
    stored = whole(dataset, "BitsStored") or allocated
    if allocated not in (8, 16):
        raise Refused(f"bits: {named('BitsAllocated')} is {allocated}; allowed: 8, 16; export it as 16 bits")
    if not 1 <= stored <= allocated:
        raise UnreadableInput(f"{named('BitsStored')} is {stored}; allowed: 1 to {allocated}; check its export")
    high_bit = whole(dataset, "HighBit")
    if high_bit not in (None, stored - 1):
        # PS3.5 8.1.1
        raise Refused(f"bits: {named('HighBit')} is {high_bit}; allowed: {stored - 1}; let the PACS convert it")
    signed = whole(dataset, "PixelRepresentation") == 1
    slopes, intercepts = decimals(dataset, "RescaleSlope"), decimals(dataset, "RescaleIntercept")
    modality_lut = _lookup_table(dataset, "ModalityLUTSequence", signed)
    # The input of a VOI LUT is signed if the output of the modality step can be negative.
    slope, intercept = slopes[0] if slopes else 1.0, intercepts[0] if intercepts else 0.0
    if slope == 0:
        raise UnreadableInput(f"{named('RescaleSlope')} is 0; allowed: any other number; check its export")
    negative = modality_lut is None and (signed or intercept < 0 or slope < 0)
    return GreyScale(
        bits_stored=stored,
        signed=signed,
        invert=_is_inverted(dataset),
        slope=slope,
        intercept=intercept,
        padding=_padding(dataset, signed),
        modality=modality_lut,
        voi=_lookup_table(dataset, "VOILUTSequence", negative) or _window(dataset),
    )


def _is_inverted(dataset: Dataset) -> bool:
    """Return whether low values are white: (2050,0020) decides if present, else MONOCHROME1 (PS3.3 C.7.6.3.1.2)."""
    shape = coded(dataset, "PresentationLUTShape")
    if shape is None:
        return coded(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    if shape not in ("IDENTITY", "INVERSE"):
        raise Refused(
            f"presentation_lut: {named('PresentationLUTShape')} is '{shape}'; allowed: IDENTITY, INVERSE; "
            "let the PACS render it"
        )
    return shape == "INVERSE"


def _padding(dataset: Dataset, signed: bool) -> tuple[int, int] | None:
    value = whole(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = whole(dataset, "PixelPaddingRangeLimit")
    ends = sorted(_as_signed(end, signed) for end in (value, value if limit is None else limit))
    return ends[0], ends[1]


def _as_signed(value: int, signed: bool) -> int:
    """Return the value of a tag of VR "US or SS": files exist that write a negative one as US."""
    return value - 2**16 if signed and value >= 2**15 else value


def _window(dataset: Dataset) -> Window | None:
    """Return the first window, or None if there is none that can be applied."""
    centers, widths = decimals(dataset, "WindowCenter"), decimals(dataset, "WindowWidth")
    if not centers or not widths:
        return None
    function = coded(dataset, "VOILUTFunction") or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise Refused(
            f"voi_lut_function: {named('VOILUTFunction')} is '{function}'; allowed: LINEAR, LINEAR_EXACT, SIGMOID; "
            "let the PACS render it"
        )
    # PS3.3 C.11.2.1.2: LINEAR needs a width from 1, the others one above 0.
    usable = widths[0] >= 1 if function == "LINEAR" else widths[0] > 0
    return Window(centers[0], widths[0], function) if usable else None


def _lookup_table(dataset: Dataset, keyword: str, signed: bool) -> LookupTable | None:
    """Return the table of the first item of a LUT sequence (PS3.3 C.11.1.1), or None."""
    items = read_value(dataset, keyword)
    if not items:
        return None
    with fenced(named(keyword)):
        descriptor = [int(number) for number in items[0].LUTDescriptor]
        data = items[0].LUTData
        length = descriptor[0] or 2**16
        if isinstance(data, bytes):
            # Entries of 8 bits may lie two in a word (PS3.3 C.11.1.1.1).
            packed = descriptor[2] <= 8 and len(data) < 2 * length
            order = "<" if items[0].is_little_endian is not False else ">"
            entries = np.frombuffer(data, dtype=np.uint8 if packed else f"{order}u2")
        else:
            entries = np.atleast_1d(np.asarray(data))
        entries = entries[:length].astype(np.float64)
    if not 0 < length == len(entries) or not 1 <= descriptor[2] <= 16 or entries.min() < 0:
        raise UnreadableInput(f"{named(keyword)} has a table that contradicts its descriptor; check its export")
    return LookupTable(_as_signed(descriptor[1], signed), entries, descriptor[2])


def _spacing(dataset: Dataset, warnings: list[str]) -> tuple[float, float] | None:
    """Return row and column spacing in mm and warn of pixels that are not square."""
    ratio = decimals(dataset, "PixelAspectRatio")
    oblong = len(ratio) == 2 and ratio[0] != ratio[1]
    spacing: tuple[float, float] | None = None
    for keyword in ("ImagerPixelSpacing", "PixelSpacing"):
        values = decimals(dataset, keyword)
        if len(values) == 2 and min(values) > 0:
            spacing = values[0], values[1]
    if oblong or (spacing is not None and abs(spacing[0] / spacing[1] - 1) > 0.01):
        warnings.append("anisotropic_pixels: the pixels are not square; the image is not corrected for it")
    return spacing
