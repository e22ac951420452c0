"""Uncompressed pixel data as PS3.5 section 8 and annex D lay it out, byte by byte."""

import numpy as np
import pytest

from prelim.errors import UnreadableInput
from prelim.images.dicom.pixels import read_dicom, read_native
from prelim.images.dicom.transfer_syntax import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from prelim.images.dicom.values import RawValue
from prelim.images.input_config import InputConfig
from tests.dicom_files import make_dicom
from tests.model_src.images.dicom.test_header_values import header

JPEG = "1.2.840.10008.1.2.4.50"
EIGHT = {"bits_allocated": 8, "bits_stored": 8, "high_bit": 7}


@pytest.mark.parametrize(
    ("width", "vr", "little", "swapped"),
    [
        (1, "OW", True, False),
        (1, "OB", True, False),
        (1, "OB", False, False),
        (1, "OW", False, True),
        (2, "OW", True, False),
        (2, "OB", True, False),
        (2, "OW", False, True),
        (2, "OB", False, True),
    ],
)
def test_words_of_big_endian_are_swapped(width: int, vr: str, little: bool, swapped: bool) -> None:
    """PS3.5 8.1.1: a word of OW holds two samples of eight bits, and single bytes have no order."""
    count = 48 * 40
    data = (np.arange(count * width, dtype=np.uint32) % 251).astype(np.uint8).tobytes()
    in_order = np.frombuffer(data, ">u2").astype("<u2").tobytes() if swapped else data

    samples = read_native(
        RawValue(vr, data, little), header(**(EIGHT if width == 1 else {})), EXPLICIT_LITTLE if little else EXPLICIT_BIG
    )

    assert samples.pixels.shape == (48, 40, 1)
    assert samples.pixels.tobytes() == in_order
    assert (samples.precision, samples.overshoots, samples.warnings) == (8 * width, False, ())


def test_pixel_data_that_are_empty() -> None:
    """They are told from those that are too short."""
    with pytest.raises(UnreadableInput, match="Pixel Data is empty"):
        read_dicom(make_dicom(PixelData=b""), InputConfig())


@pytest.mark.parametrize("by_plane", [0, 1])
def test_colors_by_pixel_and_by_plane(by_plane: int) -> None:
    """(0028,0006) Planar Configuration 0: red, green, blue of each pixel; 1: all red, all green, all blue."""
    pixels = np.arange(48 * 40 * 3).reshape(48, 40, 3).astype(np.uint8)
    data = (np.moveaxis(pixels, -1, 0) if by_plane else pixels).tobytes()
    of_color = header(samples_per_pixel=3, photometric="RGB", planar_configuration=by_plane, **EIGHT)

    np.testing.assert_array_equal(read_native(RawValue("OB", data, True), of_color, EXPLICIT_LITTLE).pixels, pixels)


def test_pairs_of_pixels_share_their_chroma() -> None:
    """PS3.3 C.7.6.3.1.2, YBR_FULL_422: two of luminance, blue, red; so that columns are even."""
    four = np.arange(48 * 20 * 4).reshape(48, 20, 4).astype(np.uint8)
    paired = {"samples_per_pixel": 3, "photometric": "YBR_FULL_422", "planar_configuration": 0, **EIGHT}

    pixels = read_native(RawValue("OB", four.tobytes(), True), header(**paired), EXPLICIT_LITTLE).pixels

    assert pixels.shape == (48, 40, 3)
    np.testing.assert_array_equal(pixels[..., 0].reshape(48, 20, 2), four[..., :2])
    for half in (0, 1):
        np.testing.assert_array_equal(pixels[:, half::2, 1:], four[..., 2:])
    with pytest.raises(UnreadableInput, match="Columns is odd"):
        read_native(RawValue("OB", bytes(48 * 41 * 2), True), header(columns=41, **paired), EXPLICIT_LITTLE)
    with pytest.raises(UnreadableInput, match="pixels of 16 bits need 3840"):
        read_native(RawValue("OB", four.tobytes()[:-1], True), header(**paired), EXPLICIT_LITTLE)


@pytest.mark.parametrize("bits", [8, 16])
def test_bytes_that_are_needed(bits: int) -> None:
    """One fewer is refused with the numbers; more are not looked at."""
    needed, of = 48 * 40 * bits // 8, header(**(EIGHT if bits == 8 else {}))

    for length in (needed, needed + 1, needed + 2000):
        for little in (True, False):
            assert read_native(RawValue("OW", bytes(length), little), of, IMPLICIT_LITTLE).pixels.shape == (48, 40, 1)
    with pytest.raises(UnreadableInput, match=rf"has {needed - 1} bytes; 48 x 40 pixels of {bits} bits need {needed}"):
        read_native(RawValue("OW", bytes(needed - 1), True), of, IMPLICIT_LITTLE)


@pytest.mark.parametrize("syntax", [IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG, JPEG])
def test_a_syntax_that_the_data_contradict(syntax: str) -> None:
    """Bytes as many as uncompressed data have, and one of padding, are these; with more of them it is not known."""
    needed = 48 * 40 * 2
    for extra in (0, 1):
        warnings = read_native(RawValue("OW", bytes(needed + extra), True), header(), syntax).warnings
        assert [warning.split(":")[0] for warning in warnings] == (["transfer_syntax"] if syntax == JPEG else [])
    if syntax == JPEG:
        with pytest.raises(UnreadableInput, match="is not encapsulated"):
            read_native(RawValue("OW", bytes(needed + 2), True), header(), syntax)
