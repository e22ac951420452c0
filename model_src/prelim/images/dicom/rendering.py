"""Header values -> how stored values become gray (PS3.4 N.2), and how large a pixel is."""

from __future__ import annotations

from dataclasses import replace

from prelim.errors import Refused
from prelim.images.dicom.gray_scale import VOI_FUNCTIONS, GrayScale, LookupTable, Window
from prelim.images.dicom.tags import HeaderValues, ignore_tag
from prelim.images.dicom.values import describe_tag

# Stored values have 16 bits; no unit of theirs, nor a window in it, is a billion times as large, or as small.
MAX_NUMBER = 1e14

# Beyond this the two sides of a pixel are not a matter of rounding.
MAX_OBLONG = 0.01


def read_gray_scale(values: HeaderValues, bits_stored: int, warnings: list[str]) -> GrayScale:
    """The gray scale of a monochrome image, with a warning for each value that cannot be used.

    Raises Refused (422) for a Presentation LUT Shape that is valid and not supported.
    """
    signed = values.pixel_representation == 1
    modality = _with_sign(_table(values, "modality_table", warnings), signed)
    slope, intercept = _number(values, "slope", warnings), _number(values, "intercept", warnings)
    if slope is not None and abs(slope) < 1 / MAX_NUMBER:
        warnings.append(ignore_tag("slope", "is 0" if slope == 0 else "is nearly 0"))
        slope = None
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    # The input of a VOI LUT is signed if the output of the modality step can be negative.
    negative = modality is None and (signed or intercept < 0 or slope < 0)
    return GrayScale(
        bits_stored=bits_stored,
        signed=signed,
        invert=_is_inverted(values, warnings),
        slope=slope,
        intercept=intercept,
        padding=_padding(values, signed),
        modality=modality,
        voi=_with_sign(_table(values, "voi_table", warnings), negative) or _window(values, warnings),
    )


def full_range(bits_stored: int) -> GrayScale:
    """The gray scale of samples that are gray already: 0 is black, the largest is white."""
    return GrayScale(bits_stored, signed=False, invert=False, voi=Window(2.0 ** (bits_stored - 1), 2.0**bits_stored))


def _is_inverted(values: HeaderValues, warnings: list[str]) -> bool:
    """Whether low values are white: (2050,0020) decides if present, else MONOCHROME1 (PS3.3 C.7.6.3.1.2)."""
    shape = values.presentation_shape
    if shape == "LIN OD":
        raise Refused(
            f"presentation_lut: {describe_tag('PresentationLUTShape')} is 'LIN OD'; allowed: IDENTITY, INVERSE; "
            "let the PACS render it"
        )
    if shape is not None and shape not in ("IDENTITY", "INVERSE"):
        warnings.append(ignore_tag("presentation_shape", "is neither IDENTITY nor INVERSE"))
        shape = None
    return values.photometric == "MONOCHROME1" if shape is None else shape == "INVERSE"


def _padding(values: HeaderValues, signed: bool) -> tuple[int, int] | None:
    if values.padding is None:
        return None
    limit = values.padding if values.padding_limit is None else values.padding_limit
    ends = sorted(as_signed(end, signed) for end in (values.padding, limit))
    return ends[0], ends[1]


def as_signed(value: int, signed: bool) -> int:
    """The value of a tag of VR "US or SS": files exist that write a negative one as US."""
    return value - 2**16 if signed and value >= 2**15 else value


def _number(values: HeaderValues, name: str, warnings: list[str]) -> float | None:
    """The first number of a tag, or None if it is absent or so large that it makes one gray of all pixels."""
    numbers = getattr(values, name)
    if not numbers:
        return None
    if abs(numbers[0]) > MAX_NUMBER:
        warnings.append(ignore_tag(name, "is too large"))
        return None
    return float(numbers[0])


def _table(values: HeaderValues, name: str, warnings: list[str]) -> LookupTable | None:
    """A table, or None if it is absent or has one output value."""
    table: LookupTable | None = getattr(values, name)
    if table is not None and table.entries.min() == table.entries.max():
        warnings.append(ignore_tag(name, "has one value in all its entries"))
        return None
    return table


def _with_sign(table: LookupTable | None, signed: bool) -> LookupTable | None:
    return None if table is None else replace(table, first=as_signed(table.first, signed))


def _window(values: HeaderValues, warnings: list[str]) -> Window | None:
    """The first window, or None if there is none that can be applied."""
    center, width = _number(values, "window_center", warnings), _number(values, "window_width", warnings)
    if center is None or width is None:
        return None
    function = values.voi_function or "LINEAR"
    if function not in VOI_FUNCTIONS:
        *names, last = VOI_FUNCTIONS
        warnings.append(ignore_tag("voi_function", f"is not {', '.join(names)} or {last}"))
        function = "LINEAR"
    window = Window(center, width, function)
    if not window.is_usable:
        warnings.append(ignore_tag("window_width", "is too small"))
        return None
    return window


def read_spacing(values: HeaderValues, warnings: list[str]) -> tuple[float, float] | None:
    """Row and column spacing in mm, with a warning of pixels that are not square.

    At the patient if that is known, else at the detector, else on the film that was scanned (PS3.3 10.7.1).
    """
    ratio = values.aspect_ratio
    if ratio is not None and (len(ratio) != 2 or min(ratio) <= 0):
        warnings.append(ignore_tag("aspect_ratio", "is not two numbers above 0"))
        ratio = None
    oblong = ratio is not None and ratio[0] != ratio[1]
    spacing: tuple[float, float] | None = None
    for name in ("scanned_spacing", "imager_spacing", "spacing"):
        pair = getattr(values, name)
        if pair is not None and len(pair) == 2 and min(pair) > 0:
            spacing = pair
        elif pair is not None:
            warnings.append(ignore_tag(name, "is not two numbers above 0"))
    if oblong or (spacing is not None and abs(spacing[0] / spacing[1] - 1) > MAX_OBLONG):
        warnings.append("anisotropic_pixels: the pixels are not square; the image is not corrected for it")
    return spacing
