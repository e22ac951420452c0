import numpy as np
import pytest
from pydicom.sequence import Sequence

from prelim.errors import Refused
from prelim.images.contrast import equalizing_levels
from prelim.images.dicom.gray_scale import GrayScale, Window, gray_table
from prelim.images.radiograph import InputConfig, Radiograph, read_radiograph
from tests.dicom_files import (
    lut_item,
    make_dicom,
    phantom,
)


def read(data: bytes, **options: object) -> Radiograph:
    """Read with the default configuration, or with these options."""
    return read_radiograph(data, InputConfig(**options))


def names(radiograph: Radiograph) -> list[str]:
    """Return the first words of the warnings."""
    return [warning.split(":")[0] for warning in radiograph.warnings]


LINEAR_12 = (np.arange(4096) - 2047.5) / 4095 + 0.5


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME1", None, True),
        ("MONOCHROME2", None, False),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
    ],
)
@pytest.mark.parametrize("window", [True, False])
def test_polarity(photometric: str, shape: str | None, inverted: bool, window: bool) -> None:
    """(2050,0020) decides if present, else MONOCHROME1 inverts: once, and about the declared range."""
    header = {} if shape is None else {"PresentationLUTShape": shape}
    drop = () if window else ("WindowCenter", "WindowWidth")
    radiograph = read(make_dicom(PhotometricInterpretation=photometric, drop=drop, **header))
    spine, lung = radiograph.pixels[24, 20], radiograph.pixels[24, 10]
    assert (spine < lung) == inverted
    if window:
        expected = LINEAR_12[phantom()]
        np.testing.assert_allclose(radiograph.pixels, 1 - expected if inverted else expected, atol=1e-6)
        assert radiograph.warnings == ()
    else:
        assert names(radiograph) == ["no_window"]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_negative_slope_turns_the_gray_scale_once(photometric: str) -> None:
    """A negative RescaleSlope with its window mirrored shows what the positive slope shows, with MONOCHROME1 too."""
    pixels = phantom()
    plain = read(make_dicom(pixels, PhotometricInterpretation=photometric)).pixels
    turned = read(
        make_dicom(
            4095 - pixels,
            PhotometricInterpretation=photometric,
            RescaleSlope=-10,
            RescaleIntercept=40950,
            WindowCenter=10 * 2047.5 + 0.5,
            WindowWidth=40951,
        )
    ).pixels
    np.testing.assert_allclose(turned, plain, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("LINEAR", lambda x: np.clip((x - 1999.5) / 999 + 0.5, 0, 1)),
        ("LINEAR_EXACT", lambda x: np.clip((x - 2000) / 1000 + 0.5, 0, 1)),
        ("SIGMOID", lambda x: 1 / (1 + np.exp(-4 * (x - 2000) / 1000))),
    ],
)
def test_window_functions(function: str, expected: object) -> None:
    """The three functions of PS3.3 C.11.2.1.2, of the first window."""
    pixels = read(make_dicom(WindowCenter=[2000, 5], WindowWidth=[1000, 5], VOILUTFunction=function)).pixels
    np.testing.assert_allclose(pixels, expected(phantom().astype(float)), atol=1e-6)


def test_window_of_width_one_is_a_threshold() -> None:
    """LINEAR of width 1 is black up to center - 0.5 and white above (PS3.3 C.11.2.1.2.1)."""
    pixels = read(make_dicom(WindowCenter=2000, WindowWidth=1)).pixels
    assert np.array_equal(pixels, (phantom() > 1999.5).astype(np.float32))


@pytest.mark.parametrize("width", [0, -5, "", None])
def test_unusable_window_is_no_window(width: object) -> None:
    """A window of width 0, negative or empty is replaced by percentiles 0.5 and 99.5 with a warning."""
    radiograph = read(make_dicom(WindowWidth=width))
    low, high = np.percentile(phantom(), [0.5, 99.5], method="inverted_cdf")
    np.testing.assert_allclose(radiograph.pixels, np.clip((phantom() - float(low)) / (high - low), 0, 1), atol=1e-6)
    assert names(radiograph) == ["no_window"] if width in ("", None) else ["invalid_value", "no_window"]


def test_voi_lut_goes_before_the_window() -> None:
    """The first VOI LUT is applied and the window next to it is not."""
    entries = np.rint(65535 * np.linspace(0, 1, 4096) ** 2)
    header = {"VOILUTSequence": Sequence([lut_item(0, entries, 16), lut_item(0, entries[::-1], 16)])}
    pixels = read(make_dicom(**header)).pixels
    np.testing.assert_allclose(pixels, entries[phantom()] / 65535, atol=1e-6)


def test_voi_lut_longer_than_eight_bit_data() -> None:
    """A VOI LUT with 1024 entries maps 8-bit data that Rescale Slope spreads over it."""
    entries = np.arange(1024) * 64
    pixels = phantom(bits=8).astype(np.uint8)
    header = {"RescaleSlope": 4, "RescaleIntercept": 2, "VOILUTSequence": Sequence([lut_item(0, entries, 16)])}
    expected = entries[np.minimum(pixels.astype(int) * 4 + 2, 1023)] / 65535
    np.testing.assert_allclose(read(make_dicom(pixels, bits=8, **header)).pixels, expected, atol=1e-6)


def test_voi_lut_with_negative_first_value() -> None:
    """A table that starts at -1024 takes modality values below 0, and its ends take the values beyond it."""
    entries = np.arange(2048) * 32
    header = {"RescaleIntercept": -1500, "VOILUTSequence": Sequence([lut_item(-1024, entries, 16)])}
    expected = entries[np.clip(phantom().astype(int) - 1500 + 1024, 0, 2047)] / 65535
    np.testing.assert_allclose(read(make_dicom(**header)).pixels, expected, atol=1e-6)


@pytest.mark.parametrize(("declared", "top"), [(16, 4095), (8, 65535), (12, 4095)])
def test_voi_lut_that_contradicts_its_bits(declared: int, top: int) -> None:
    """The output range of a VOI LUT follows its entries where the declared bits are wrong."""
    entries = np.rint(np.linspace(0, top, 4096))
    radiograph = read(make_dicom(VOILUTSequence=Sequence([lut_item(0, entries, declared)])))
    np.testing.assert_allclose(radiograph.pixels, phantom() / 4095, atol=1e-4)
    assert any(warning.startswith("voi_lut") for warning in radiograph.warnings) == (declared != 12)


def test_dark_voi_lut_stays_dark() -> None:
    """Entries that use a part of their bits do not contradict them."""
    radiograph = read(make_dicom(VOILUTSequence=Sequence([lut_item(0, np.arange(4096) * 1000 // 4095, 12)])))
    assert radiograph.pixels.max() == pytest.approx(phantom().max() / 4095 * 1000 / 4095, abs=1e-3)
    assert not any(warning.startswith("voi_lut") for warning in radiograph.warnings)


def test_modality_lut_goes_before_slope_and_window() -> None:
    """The Modality LUT replaces slope and intercept, and the window applies to its output."""
    entries = 4095 - np.arange(4096)
    header = {"ModalityLUTSequence": Sequence([lut_item(0, entries, 12)]), "RescaleSlope": 3}
    np.testing.assert_allclose(read(make_dicom(**header)).pixels, LINEAR_12[4095 - phantom()], atol=1e-6)


def test_bits_above_bits_stored_are_not_looked_at() -> None:
    """Whatever lies above BitsStored changes nothing."""
    junk = (np.random.default_rng(4).integers(0, 16, phantom().shape) << 12).astype(np.uint16)
    assert np.array_equal(read(make_dicom(phantom() | junk)).pixels, read(make_dicom()).pixels)


def test_signed_pixels() -> None:
    """Signed samples, with junk above their 12 bits, are the values they stand for."""
    signed = phantom().astype(np.int16) - 2048
    junk = (signed.view(np.uint16) & 0x0FFF | 0x5000).view(np.int16)
    for pixels in (signed, junk):
        radiograph = read(make_dicom(pixels, WindowCenter=0, WindowWidth=4096))
        np.testing.assert_allclose(radiograph.pixels, LINEAR_12[phantom()], atol=1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("value", "limit"), [(4095, None), (4000, 4095), (4095, 4000)])
def test_padding_is_black_and_does_not_count(photometric: str, value: int, limit: int | None) -> None:
    """Padding is black in both polarities and does not move the percentiles."""
    pixels = np.minimum(phantom(rows=64, columns=60), 3990)
    padded = pixels.copy()
    padded[:20] = value
    header = {"PixelPaddingValue": value, "PhotometricInterpretation": photometric}
    if limit is not None:
        header["PixelPaddingRangeLimit"] = limit
    seen = read(make_dicom(padded, drop=("WindowCenter",), **header)).pixels
    alone = read(make_dicom(pixels[20:], drop=("WindowCenter",), PhotometricInterpretation=photometric)).pixels
    assert (seen[:20] == 0).all()
    np.testing.assert_allclose(seen[20:], alone, atol=1e-6)


def test_negative_padding() -> None:
    """A padding value below 0 is found among signed samples."""
    pixels = phantom().astype(np.int16) - 1000
    pixels[:20] = -2000
    seen = read(make_dicom(pixels, bits=16, PixelPaddingValue=-2000, drop=("WindowCenter",))).pixels
    assert (seen[:20] == 0).all()
    assert (seen[20:] > 0).mean() > 0.9


def test_only_padding_is_refused() -> None:
    """A file of nothing but padding is refused by name."""
    with pytest.raises(Refused, match="only_padding"):
        read(make_dicom(np.full((48, 40), 7, dtype=np.uint16), PixelPaddingValue=7))


def equalize_as_opencv(levels: np.ndarray) -> np.ndarray:
    """Return cv2.equalizeHist of (rows, columns) uint8, pixel by pixel from its definition."""
    histogram = [int((levels == level).sum()) for level in range(256)]
    lowest = next(level for level in range(256) if histogram[level])
    scale, below, table = np.float32(255 / (levels.size - histogram[lowest])), 0, [0] * 256
    for level in range(lowest + 1, 256):
        below += histogram[level]
        table[level] = round(float(np.float32(below) * scale))
    return np.array(table, dtype=np.uint8)[levels]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_minmax_equalize(photometric: str) -> None:
    """The recipe ignores the window: min-max to 8 bits, inverted if MONOCHROME1, then cv2.equalizeHist."""
    header = {"PhotometricInterpretation": photometric, "WindowCenter": 100, "WindowWidth": 20}
    pixels = phantom().astype(float)
    levels = np.rint(255 * (pixels - pixels.min()) / (pixels.max() - pixels.min())).astype(np.uint8)
    levels = 255 - levels if photometric == "MONOCHROME1" else levels
    radiograph = read(make_dicom(**header), render="minmax_equalize")
    assert np.array_equal(np.rint(radiograph.pixels * 255), equalize_as_opencv(levels))
    assert radiograph.warnings == ()


def test_equalizing_one_level_keeps_it() -> None:
    """A histogram of one level maps it to itself, as OpenCV does."""
    histogram = np.zeros(256)
    histogram[77] = 10
    assert equalizing_levels(histogram)[77] == 77


def test_padding_that_would_be_white_is_a_warning() -> None:
    """Padding of 0 in MONOCHROME1 is black, and so is metal of that value: the sender is told."""
    counts = np.ones(4096, dtype=np.int64)
    window = Window(2048, 4096)
    table, warnings = gray_table(GrayScale(12, False, True, padding=(0, 0), voi=window), counts, "voi")
    assert table[0] == 0
    assert [warning.split(":")[0] for warning in warnings] == ["padding"]
    assert gray_table(GrayScale(12, False, True, padding=(4095, 4095), voi=window), counts, "voi")[1] == ()
    assert gray_table(GrayScale(12, False, False, padding=(0, 0), voi=window), counts, "voi")[1] == ()
    counts[0] = 0
    assert gray_table(GrayScale(12, False, True, padding=(0, 0), voi=window), counts, "voi")[1] == ()
