"""Values of a header that decide how a picture looks, at their edges; each with the value that PS3.3 gives."""

from typing import Any

import numpy as np
import pytest

from prelim.errors import InputError, Refused, UnreadableInput
from prelim.images import gray_levels
from prelim.images.contrast import scale_between, weighted_percentiles
from prelim.images.dicom.gray_scale import (
    GrayScale,
    LookupTable,
    Window,
    gray_table,
)
from prelim.images.dicom.header import DicomHeader, check_header
from prelim.images.dicom.pixels import Samples, gray_of, stored_codes
from prelim.images.dicom.rendering import MAX_OBLONG, as_signed, full_range, read_gray_scale, read_spacing
from prelim.images.dicom.tags import HeaderValues
from prelim.images.gray_levels import sample_percentiles, scale_samples
from prelim.images.input_config import InputConfig

VALUES: dict[str, Any] = {
    "rows": 48, "columns": 40, "bits_allocated": 16, "pixel_data": True, "photometric": "MONOCHROME2",
    "samples_per_pixel": 1, "bits_stored": 12, "high_bit": 11, "pixel_representation": 0, "modality": "CR",
    "burned_in": ("NO",),
}  # fmt: skip


def values(**changes: Any) -> HeaderValues:
    """A plain radiograph's header."""
    return HeaderValues(**(VALUES | changes))


def header(**changes: Any) -> DicomHeader:
    """What is needed of it."""
    return check_header(values(**changes), InputConfig())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"high_bit": 11}, None),
        ({"high_bit": None}, None),
        ({"high_bit": 10}, Refused),
        ({"high_bit": 12}, Refused),
        ({"high_bit": 15}, Refused),
        ({"bits_stored": 16, "high_bit": 15}, None),
        ({"bits_stored": None, "high_bit": 15}, None),
        ({"bits_stored": None, "high_bit": 11}, None),
        ({"bits_stored": None, "high_bit": 16}, UnreadableInput),
        ({"bits_stored": 1, "high_bit": 0}, None),
        ({"bits_stored": 0, "high_bit": None}, UnreadableInput),
        ({"bits_stored": 17, "high_bit": None}, UnreadableInput),
        ({"bits_allocated": 8, "bits_stored": 8, "high_bit": 7}, None),
        ({"bits_allocated": 8, "bits_stored": 9, "high_bit": 8}, UnreadableInput),
        ({"bits_allocated": 32, "bits_stored": 12}, Refused),
        ({"bits_allocated": 12, "bits_stored": 12}, Refused),
        ({"pixel_representation": None}, None),
        ({"pixel_representation": 1}, None),
        ({"pixel_representation": 2}, UnreadableInput),
        ({"number_of_frames": 1}, None),
        ({"number_of_frames": 2}, Refused),
        ({"photometric": "MONOCHROME1", "samples_per_pixel": 3}, UnreadableInput),
        ({"photometric": "RGB", "samples_per_pixel": 3}, None),
        ({"photometric": "RGB", "samples_per_pixel": None}, None),
        ({"photometric": "RGB"}, UnreadableInput),
        ({"photometric": "ARGB"}, Refused),
        ({"burned_in": ("YES",)}, Refused),
        ({"rows": None}, UnreadableInput),
        ({"bits_allocated": None}, UnreadableInput),
        ({"pixel_data": None}, UnreadableInput),
        ({"pixel_data": None, "rows": None}, Refused),
        ({"pixel_data": None, "float_pixel_data": True}, Refused),
        ({"pixel_data": None, "double_pixel_data": True}, Refused),
    ],
)
def test_where_a_sample_lies_in_its_bytes(changes: dict[str, Any], error: type[InputError] | None) -> None:
    """High Bit is Bits Stored - 1 (PS3.5 8.1.1), and all that contradicts it is refused."""
    if error is None:
        assert header(**changes).rows == 48
    else:
        with pytest.raises(error):
            header(**changes)


def test_what_is_taken_from_the_header() -> None:
    """Each field, for a plain file and for one with everything else."""
    plain = header()
    assert (plain.samples, plain.by_plane, plain.paired, plain.lossy, plain.view, plain.spacing) == (
        1, False, False, False, None, None,
    )  # fmt: skip
    assert (plain.bits_allocated, plain.gray_scale.bits_stored, plain.modality, plain.warnings) == (16, 12, "CR", ())
    other = header(
        photometric="YBR_FULL_422", samples_per_pixel=3, planar_configuration=1, lossy="01", view_position=("PA",),
        spacing=(0.1, 0.1), number_of_frames=0, burned_in=None, overlays=True, bits_allocated=8, bits_stored=8,
        high_bit=7,
    )  # fmt: skip
    assert (other.samples, other.by_plane, other.paired, other.lossy, other.view) == (3, True, True, True, "PA")
    assert (other.spacing, other.gray_scale) == ((0.1, 0.1), full_range(8))
    names = [warning.split(":")[0] for warning in other.warnings]
    assert names == ["invalid_value", "burned_in_unknown", "overlay_ignored"]
    assert header(lossy="00").lossy is False
    allowed = check_header(values(burned_in=("YES",)), InputConfig(burned_in="warn"))
    assert [warning.split(":")[0] for warning in allowed.warnings] == ["burned_in_annotation"]


@pytest.mark.parametrize(
    ("value", "signed", "expected"),
    [
        (0x8000, False, 32768),
        (0x8000, True, -32768),
        (0x7FFF, True, 32767),
        (0xFFFF, True, -1),
        (0xFFFF, False, 65535),
        (-2000, True, -2000),
        (0, True, 0),
    ],
)
def test_a_value_whose_sign_the_pixels_have(value: int, signed: bool, expected: int) -> None:
    """(0028,0120) is US or SS by Pixel Representation; files exist that write a negative one as US."""
    assert as_signed(value, signed) == expected
    scale = read_gray_scale(values(pixel_representation=int(signed), padding=value), 16, [])
    assert scale.padding == (expected, expected)


def test_padding_of_0x8000_is_black() -> None:
    """The lowest of signed 16 bits, a common border; the range goes to its limit, whichever is larger."""
    scale = GrayScale(16, signed=True, invert=False, padding=(-32768, -32768), voi=Window(0, 100))
    counts = np.ones(2**16, dtype=np.int64)
    table, _ = gray_table(scale, counts, "voi")
    assert table[0x8000] == 0
    unsigned = gray_table(GrayScale(16, signed=False, invert=True, padding=(0x8000, 0x8002)), counts, "voi")[0]
    assert unsigned[0x8000:0x8003].tolist() == [0, 0, 0]
    assert (unsigned[[0x7FFF, 0x8003]] > 0.4).all()
    for padding, limit in ((5, 9), (9, 5)):
        assert read_gray_scale(values(padding=padding, padding_limit=limit), 12, []).padding == (5, 9)
    assert read_gray_scale(values(padding_limit=7), 12, []).padding is None


def test_signed_codes_are_in_their_order() -> None:
    """A code of 12 signed bits from 2048 on stands for a negative value (PS3.5 8.1.1)."""
    counts = np.ones(4096, dtype=np.int64)
    table, _ = gray_table(GrayScale(12, True, False, voi=Window(0.5, 4097)), counts, "voi")
    # LINEAR: (x - (c - 0.5)) / (w - 1) + 0.5 = x / 4096 + 0.5
    assert table[[0, 1, 2047, 2048, 4095]].tolist() == pytest.approx(
        [0.5, 0.5 + 1 / 4096, 0.5 + 2047 / 4096, 0, 0.5 - 1 / 4096]
    )


def test_modality_step_comes_first() -> None:
    """Slope and intercept, or the table in their place; then the window."""
    counts = np.ones(256, dtype=np.int64)
    sloped, _ = gray_table(GrayScale(8, False, False, slope=2, intercept=-10, voi=Window(0.5, 101)), counts, "voi")
    assert sloped[[5, 30, 255]].tolist() == pytest.approx([0.5, 1, 1])
    table = LookupTable(10, np.arange(4) * 25.0, 8)
    looked, _ = gray_table(GrayScale(8, False, False, slope=9, modality=table, voi=Window(50.5, 101)), counts, "voi")
    assert looked[[0, 10, 11, 13, 200]].tolist() == pytest.approx([0, 0, 0.25, 0.75, 0.75])


@pytest.mark.parametrize(
    ("window", "inputs", "outputs"),
    [
        (Window(50, 101), [-1, -0.5, 49.5, 99.5, 100], [0, 0, 0.5, 1, 1]),
        (Window(50, 1), [49.5, 49.6], [0, 1]),
        (Window(50, 100, "LINEAR_EXACT"), [0, 25, 50, 100, 101], [0, 0.25, 0.5, 1, 1]),
        (Window(50, 100, "SIGMOID"), [50, 75, 1e9, -1e9], [0.5, 1 / (1 + np.exp(-1)), 1, 0]),
    ],
)
def test_windows_by_hand(window: Window, inputs: list[float], outputs: list[float]) -> None:
    """PS3.3 C.11.2.1.2."""
    assert window.apply(np.array(inputs, dtype=float)).tolist() == pytest.approx(outputs)


@pytest.mark.parametrize(
    ("function", "width", "found", "warnings"),
    [
        (None, 1.0, "LINEAR", 0),
        ("LINEAR", 0.9, None, 1),
        ("LINEAR_EXACT", 0.5, "LINEAR_EXACT", 0),
        ("SIGMOID", 0.5, "SIGMOID", 0),
        ("SIGMOID", 0.0, None, 1),
        ("OTHER", 2.0, "LINEAR", 1),
        ("OTHER", 0.5, None, 2),
    ],
)
def test_width_that_a_window_needs(function: str | None, width: float, found: str | None, warnings: int) -> None:
    """LINEAR from 1, the others above 0; an unknown function is LINEAR with a warning."""
    said: list[str] = []
    scale = read_gray_scale(
        values(window_center=(5.0, 6.0), window_width=(width, 9.0), voi_function=function), 12, said
    )
    assert scale.voi == (None if found is None else Window(5.0, width, found))
    assert len(said) == warnings


def test_sign_of_tables_follows_their_input() -> None:
    """The first value of a VOI LUT is signed where the modality step may be negative."""
    table = LookupTable(0xFFFF, np.arange(3.0), 8)
    for changes, first in (
        ({}, 65535),
        ({"pixel_representation": 1}, -1),
        ({"intercept": (-1.0,)}, -1),
        ({"intercept": (0.0,)}, 65535),
        ({"slope": (-1.0,)}, -1),
        ({"intercept": (-1.0,), "modality_table": table}, 65535),
    ):
        voi = read_gray_scale(values(voi_table=table, **changes), 12, []).voi
        assert isinstance(voi, LookupTable)
        assert voi.first == first, changes
    modality = read_gray_scale(values(modality_table=table, pixel_representation=1), 12, []).modality
    assert modality is not None
    assert modality.first == -1


def test_slope_and_polarity() -> None:
    """A slope of 0 is none; IDENTITY and INVERSE decide before MONOCHROME1; others are ignored."""
    said: list[str] = []
    scale = read_gray_scale(values(slope=(0.0,), intercept=(3.0, 4.0)), 12, said)
    assert (scale.slope, scale.intercept, len(said)) == (1, 3, 1)
    assert read_gray_scale(values(), 12, said).slope == 1
    for photometric, shape, inverted in (
        ("MONOCHROME1", None, True), ("MONOCHROME2", None, False), ("MONOCHROME1", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True), ("MONOCHROME1", "OTHER", True),
    ):  # fmt: skip
        assert read_gray_scale(values(photometric=photometric, presentation_shape=shape), 12, said).invert == inverted
    with pytest.raises(Refused, match="LIN OD"):
        read_gray_scale(values(presentation_shape="LIN OD"), 12, said)


def test_spacing_by_its_source() -> None:
    """At the patient, else at the detector, else on the film; oblong from one percent on."""
    said: list[str] = []
    three = {"spacing": (0.1, 0.1), "imager_spacing": (0.2, 0.2), "scanned_spacing": (0.3, 0.3)}
    assert read_spacing(values(**three), said) == (0.1, 0.1)
    assert read_spacing(values(**three | {"spacing": None}), said) == (0.2, 0.2)
    assert read_spacing(values(scanned_spacing=(0.3, 0.3)), said) == (0.3, 0.3)
    assert read_spacing(values(), said) is None
    assert read_spacing(values(spacing=(1.0, 1.0 + MAX_OBLONG / 2)), said) == (1.0, 1.005)
    assert read_spacing(values(aspect_ratio=(1.0, 1.0)), said) is None
    assert said == []
    for number, changes in enumerate(
        ({"spacing": (1.02, 1.0)}, {"spacing": (1.0, 1.02)}, {"aspect_ratio": (2.0, 1.0)}), 1
    ):
        read_spacing(values(**changes), said)
        assert len(said) == number
        assert said[-1].startswith("anisotropic_pixels")
    for wrong in ((0.0, 0.1), (0.1,), (0.1, 0.1, 0.1), (-1.0, 1.0)):
        assert read_spacing(values(spacing=wrong, imager_spacing=(0.2, 0.2)), said) == (0.2, 0.2)
        assert said[-1].startswith("invalid_value")


def test_levels_by_percentiles() -> None:
    """The values at which 0.5 and 99.5 percent of the pixels are reached, or the extremes if those are equal."""
    levels = np.array([3.0, 1, 2, 0])
    assert weighted_percentiles(levels, np.array([4, 5, 990, 1])) == (1, 2)
    assert weighted_percentiles(levels, np.array([5, 4, 990, 1])) == (1, 2)
    assert weighted_percentiles(levels, np.array([6, 4, 990, 0])) == (2, 3)
    assert weighted_percentiles(levels, np.array([1, 0, 9999, 0])) == (2, 3)
    assert scale_between(np.array([0.0, 1, 2, 3, 4]), 1, 3).tolist() == [0, 0, 0.5, 1, 1]
    assert scale_between(np.array([5.0]), 1, 1).tolist() == [0]
    assert sample_percentiles(np.array([0.0] * 5 + [1] * 990 + [2] * 5, dtype=np.float32)) == (0, 1)
    assert sample_percentiles(np.array([0.0] * 4 + [1] * 990 + [2] * 6, dtype=np.float32)) == (1, 2)
    assert sample_percentiles(np.array([0.0] * 6 + [1] * 988 + [2] * 6, dtype=np.float32)) == (0, 2)
    assert sample_percentiles(np.array([np.nan, 1, np.inf, 2, -np.inf], dtype=np.float32)) == (1, 2)


def test_range_of_samples() -> None:
    """Unsigned samples that use half of their type are divided by its maximum; all others by their percentiles."""
    # One level alone in the upper half, as 32768 would be, is a marker.
    for top, full in ((40000, True), (32767, False), (65535, True)):
        samples = np.linspace(0, top, 10_001).astype(np.uint16)
        samples[:200], samples[-200:] = 0, top
        gray, own = scale_samples(samples, "voi", invert=False)
        assert own != full
        assert gray.max() == pytest.approx(top / 65535 if full else 1, abs=1e-6)
        assert scale_samples(samples, "voi", invert=True)[0] + gray == pytest.approx(1, abs=1e-6)
    for kind in ("int16", "uint32", "float32"):
        gray, own = scale_samples(np.arange(1000).astype(kind), "voi", invert=False)
        assert own
        assert (gray.min(), gray.max(), gray.dtype) == (0, 1, np.float32)
    assert gray_levels.PIECE == 2**18


def codes(pixels: np.ndarray, *, precision: int = 16, overshoots: bool = False, **changes: Any) -> list[int]:
    """Stored bits of the first pixels of an image."""
    whole = np.zeros((48, 40, 1), dtype=pixels.dtype)
    whole[0, : len(pixels), 0] = pixels
    found = stored_codes(Samples(whole, precision, overshoots), header(**changes))
    return [int(code) for code in found[0, : len(pixels), 0]]


def test_bits_that_are_stored() -> None:
    """Other data above Bits Stored are cut off; values that a coding with loss made are clipped; signs are kept."""
    native = np.array([0x0123, 0x4123, 0xFFFF], dtype=np.uint16)
    assert codes(native) == [0x123, 0x123, 0xFFF]
    assert codes(np.array([4095, 4096, 4100, 0], dtype=np.uint16), overshoots=True) == [4095, 4095, 4095, 0]
    signed = {"pixel_representation": 1}
    assert codes(np.array([-1, -2048, 2047], dtype=np.int16), **signed) == [0xFFF, 0x800, 0x7FF]
    overshot = np.array([-3000, 3000, -5], dtype=np.int16)
    assert codes(overshot, overshoots=True, **signed) == [0x800, 0x7FF, 0xFFB]
    # A codestream of 12 bits without a sign holds the signed ones as they are.
    assert codes(np.array([0xFFF, 0x7FF], dtype=np.uint16), precision=12, overshoots=True, **signed) == [0xFFF, 0x7FF]
    assert codes(np.array([-1, 5], dtype=np.int16), precision=12) == [0xFFF, 5]
    eight = {"bits_allocated": 8, "bits_stored": 8, "high_bit": 7}
    assert codes(np.array([255, 7], dtype=np.uint8), precision=8, **eight) == [255, 7]
    with pytest.raises(UnreadableInput, match="samples of 16 bits"):
        codes(np.array([1], dtype=np.uint32))
    with pytest.raises(UnreadableInput, match="48 x 40 whole numbers"):
        codes(np.array([1], dtype=np.float32))
    with pytest.raises(UnreadableInput, match="48 x 40 whole numbers"):
        stored_codes(Samples(np.zeros((47, 40, 1), dtype=np.uint16), 16, False), header())


@pytest.mark.parametrize(("apart", "share", "gray"), [(24, 1.0, True), (25, 0.009, True), (25, 0.012, False)])
@pytest.mark.parametrize("coding", ["RGB", "YBR"])
def test_gray_stored_as_color(apart: int, share: float, gray: bool, coding: str) -> None:
    """Components may differ by 24 of 256 levels, and by more in one percent of the pixels."""
    first = np.full((100, 100), 90, dtype=np.uint8)
    other = first.copy() if coding == "RGB" else np.full_like(first, 128)
    other.reshape(-1)[: int(share * 10_000)] += apart
    neutral = first if coding == "RGB" else np.full_like(first, 128)
    eight = {"bits_allocated": 8, "bits_stored": 8, "high_bit": 7, "photometric": "RGB", "samples_per_pixel": 3}
    for components in ((first, other, neutral), (first, neutral, other)):
        pixels = np.stack(components, axis=-1)
        if gray:
            weight = 0.587 if components[1] is other else 0.114
            luma = first + weight * (other.astype(float) - neutral) if coding == "RGB" else first
            assert np.abs(gray_of(pixels, header(**eight)) - luma).max() <= 0.5
        else:
            with pytest.raises(Refused, match="photometric"):
                gray_of(pixels, header(**eight))
