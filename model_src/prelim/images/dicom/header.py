"""May this model answer this DICOM file: the header, checked before any pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from prelim.errors import Refused, UnreadableInput
from prelim.images.dicom.gray_scale import GrayScale
from prelim.images.dicom.rendering import full_range, read_gray_scale, read_spacing
from prelim.images.dicom.subject import check_subject, find_views
from prelim.images.dicom.tags import HeaderValues, ignore_tag, require
from prelim.images.dicom.values import describe_tag, standard_name
from prelim.images.input_config import InputConfig, check_size

MONOCHROME = ("MONOCHROME1", "MONOCHROME2")

# The standard has the first of each (PS3.3 C.7.6.1).
YES, NO = frozenset(("YES", "Y", "TRUE", "T", "1")), frozenset(("NO", "N", "FALSE", "F", "0"))

# Gray pictures are stored in these too; whether one has colors is found out from its pixels.
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")


@dataclass(frozen=True)
class DicomHeader:
    """What is needed of a header that passed.

    samples    : of a pixel: 1, or 3 for gray stored as color
    by_plane   : the samples of native data come color after color (PS3.3 C.7.6.3.1.3)
    paired     : two pixels of native data share their chroma: Y Y B R (PS3.3 C.7.6.3.1.2, YBR_FULL_422)
    spacing    : row and column spacing in mm, or None
    warnings   : free of patient data
    """

    rows: int
    columns: int
    samples: int
    by_plane: bool
    paired: bool
    bits_allocated: int
    gray_scale: GrayScale
    spacing: tuple[float, float] | None
    modality: str
    view: str | None
    lossy: bool
    warnings: tuple[str, ...]


def check_header(values: HeaderValues, config: InputConfig) -> DicomHeader:
    """The header of a radiograph that this model may answer.

    Raises Refused (422) with its name for everything readable that must not be answered, UnreadableInput (400) for
    values that contradict the standard or each other, TooLarge (413) over `max_pixels`.
    """
    _check_pixel_data(values)
    warnings = [*check_subject(values, config), *values.warnings]
    _check_frames(values, warnings)
    _check_burned_in(values, config, warnings)
    samples = _samples(values)
    require(values)
    rows, columns, allocated = values.rows or 0, values.columns or 0, values.bits_allocated or 0
    check_size(rows, columns, config)
    stored = _bits_stored(values, allocated)
    if values.overlays:
        warnings.append("overlay_ignored: the file has overlays (60xx), which are not drawn")
    views = find_views(values)
    return DicomHeader(
        rows=rows,
        columns=columns,
        samples=samples,
        by_plane=values.planar_configuration == 1,
        paired=values.photometric == "YBR_FULL_422",
        bits_allocated=allocated,
        gray_scale=read_gray_scale(values, stored, warnings) if samples == 1 else full_range(stored),
        spacing=read_spacing(values, warnings),
        modality=values.modality or "",
        view=views[0].term if views else None,
        lossy=values.lossy == "01",
        warnings=tuple(warnings),
    )


def _check_pixel_data(values: HeaderValues) -> None:
    """Refuse what is not an image, and tell it from an image that has lost its pixels."""
    if values.pixel_data:
        return
    if values.rows is not None and not values.float_pixel_data and not values.double_pixel_data:
        raise UnreadableInput(
            f"{describe_tag('PixelData')} is absent although {describe_tag('Rows')} is there: the file is truncated "
            "or without its pixels; send it again"
        )
    raise Refused(
        f"no_pixel_data: {describe_tag('PixelData')} is absent, {describe_tag('SOPClassUID')} is "
        f"{standard_name(values.sop_class or '')}; allowed: an image; send the radiograph of the study"
    )


def _check_frames(values: HeaderValues, warnings: list[str]) -> None:
    frames = values.number_of_frames
    if frames is not None and frames < 1:
        warnings.append(ignore_tag("number_of_frames", "is less than 1"))
    elif frames is not None and frames > 1:
        raise Refused(f"multi_frame: {describe_tag('NumberOfFrames')} is {frames}; allowed: 1; send one frame")


def _check_burned_in(values: HeaderValues, config: InputConfig, warnings: list[str]) -> None:
    tag = describe_tag("BurnedInAnnotation")
    said = set(values.burned_in or ())
    if not said:
        warnings.append(f"burned_in_unknown: {tag} is absent")
    elif said & YES and config.burned_in == "warn":
        warnings.append(f"burned_in_annotation: {tag} is 'YES': the pixels hold text, which may name the patient")
    elif said & YES:
        raise Refused(
            f"burned_in_annotation: {tag} is 'YES'; allowed: NO; send the image without text in its pixels, or set "
            "input.burned_in to warn in model.yaml"
        )
    elif not said <= NO:
        warnings.append(f"burned_in_unknown: {tag} says neither YES nor NO")


def _samples(values: HeaderValues) -> int:
    """How many samples a pixel has, by Photometric Interpretation and Samples per Pixel, which must agree."""
    photometric, samples = values.photometric, values.samples_per_pixel
    if photometric not in (*MONOCHROME, *COLOR):
        raise Refused(
            f"photometric: {describe_tag('PhotometricInterpretation')} is '{photometric or ''}'; "
            f"allowed: {', '.join(MONOCHROME)}, and RGB or YBR if the pixels are gray; send the original radiograph"
        )
    expected = 1 if photometric in MONOCHROME else 3
    if samples not in (None, expected):
        raise UnreadableInput(
            f"{describe_tag('SamplesPerPixel')} is {samples}; {photometric} has {expected}; check its export"
        )
    return expected


def _bits_stored(values: HeaderValues, allocated: int) -> int:
    """Bits Stored, after a look at all tags that say where in its bytes a sample lies (PS3.5 8.1.1)."""
    stored = values.bits_stored
    if stored is None:
        stored = allocated if values.high_bit is None else values.high_bit + 1
    if allocated not in (8, 16):
        raise Refused(f"bits: {describe_tag('BitsAllocated')} is {allocated}; allowed: 8, 16; export it as 16 bits")
    if not 1 <= stored <= allocated:
        raise UnreadableInput(f"{describe_tag('BitsStored')} is {stored}; allowed: 1 to {allocated}; check its export")
    if values.high_bit not in (None, stored - 1):
        raise Refused(
            f"bits: {describe_tag('HighBit')} is {values.high_bit}; allowed: {stored - 1}; let the PACS convert it"
        )
    if values.pixel_representation not in (None, 0, 1):
        raise UnreadableInput(
            f"{describe_tag('PixelRepresentation')} is {values.pixel_representation}; allowed: 0, 1; check its export"
        )
    return stored
