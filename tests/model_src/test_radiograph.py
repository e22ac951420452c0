import importlib.util
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG2MPML,
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
)

from model_src.dicom_codestream import JPEG_LOSSLESS
from model_src.dicom_grey import equalizing_levels
from model_src.errors import ArchiveError, InputError, NotAnImage, Refused, TooLarge, UnreadableInput
from model_src.radiograph import InputConfig, Radiograph, read_radiograph
from tests.dicom_files import (
    SECRETS,
    compress,
    compress_by_gdcm,
    dataset,
    encapsulate,
    encode,
    lut_item,
    make_dicom,
    phantom,
)

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom"
CONFIG = InputConfig()


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return the file of an image."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey_image() -> Image.Image:
    """Return the phantom in 8 bits."""
    return Image.fromarray(phantom(bits=8).astype(np.uint8))


def read(data: bytes, **options: object) -> Radiograph:
    """Read with the default configuration, or with these options."""
    return read_radiograph(data, InputConfig(**options))


def names(radiograph: Radiograph) -> list[str]:
    """Return the first words of the warnings."""
    return [warning.split(":")[0] for warning in radiograph.warnings]


# --- PNG, JPEG, WebP, TIFF -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "lzw"})]
)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_lossless_files_keep_grey_exactly(kind: str, options: dict, mode: str) -> None:
    """A grey image comes out of every lossless kind and mode as value / 255, without a warning."""
    if (kind, mode) == ("WEBP", "P"):
        mode = "RGB"
    radiograph = read(save(grey_image().convert(mode), kind, **options))
    assert np.array_equal(radiograph.pixels, phantom(bits=8).astype(np.float32) / 255)
    assert radiograph.pixels.dtype == np.float32
    assert (radiograph.warnings, radiograph.spacing, radiograph.modality, radiograph.view) == ((), None, None, None)


def test_jpeg_and_cmyk() -> None:
    """JPEG of grey, colour and CMYK samples comes out close to its original."""
    for mode in ("L", "RGB", "CMYK"):
        pixels = read(save(grey_image().convert(mode), "JPEG", quality=95)).pixels
        assert np.abs(pixels - phantom(bits=8) / 255).max() < 0.06, mode


def test_one_bit() -> None:
    """A 1-bit image has the levels 0 and 1."""
    assert set(np.unique(read(save(grey_image().convert("1"), "PNG")).pixels)) == {0.0, 1.0}


def test_alpha_lies_on_black() -> None:
    """Transparent pixels are black, half transparent ones half as bright."""
    image = grey_image().convert("RGBA")
    alpha = np.full((48, 40), 255, dtype=np.uint8)
    alpha[:10] = 0
    alpha[10:20] = 128
    image.putalpha(Image.fromarray(alpha))
    pixels, opaque = read(save(image, "PNG")).pixels, phantom(bits=8) / 255
    assert (pixels[:10] == 0).all()
    np.testing.assert_allclose(pixels[10:20], opaque[10:20] * 128 / 255, atol=1 / 255)
    np.testing.assert_allclose(pixels[20:], opaque[20:], atol=1e-6)


def test_sixteen_bits_over_the_whole_range() -> None:
    """A 16-bit image that uses the top bit is divided by 65535."""
    deep = phantom(bits=16)
    for kind in ("PNG", "TIFF"):
        radiograph = read(save(Image.fromarray(deep), kind))
        np.testing.assert_allclose(radiograph.pixels, deep / 65535, atol=1e-6)
        assert radiograph.warnings == ()


@pytest.mark.parametrize("samples", [phantom(bits=12), phantom(bits=12).astype(np.int32) - 1000, phantom() / 7.0])
def test_samples_of_unknown_range_are_scaled_by_percentiles(samples: np.ndarray) -> None:
    """12-bit data in 16 bits, signed and float samples fill [0, 1], in their order, with a warning."""
    if samples.dtype == np.float64:
        samples = samples.astype(np.float32)
        samples[0, 0] = np.nan
    radiograph = read(save(Image.fromarray(samples), "TIFF"))
    assert names(radiograph) == ["range"]
    assert (radiograph.pixels.min(), radiograph.pixels.max()) == (0, 1)
    order = np.argsort(phantom().ravel()[1:], kind="stable")
    assert (np.diff(radiograph.pixels.ravel()[1:][order]) >= 0).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero_tiff_is_inverted_once(bits: int) -> None:
    """TIFF 6.0 PhotometricInterpretation 0 shows low samples as white, at 8 and at 16 bits."""
    top = 2**bits - 1
    samples = (top - phantom(bits=bits)).astype(f"u{bits // 8}")
    data = white_is_zero(samples)
    np.testing.assert_allclose(read(data).pixels, phantom(bits=bits) / top, atol=1e-6)


def white_is_zero(samples: np.ndarray) -> bytes:
    """Return a TIFF whose header says WhiteIsZero; Pillow itself writes no such file."""
    data = bytearray(save(Image.fromarray(samples), "TIFF"))
    entry = data.find(b"\x06\x01\x03\x00\x01\x00\x00\x00\x01")
    data[entry + 8] = 0
    return bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_once(kind: str) -> None:
    """With Exif orientation 6 the stored image is turned a quarter clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    pixels = read(save(grey_image(), kind, exif=exif, **options)).pixels
    assert np.abs(pixels - np.rot90(phantom(bits=8), -1) / 255).max() < 0.06


def test_colour_is_told() -> None:
    """A picture with colours becomes grey with a warning."""
    noise = np.random.default_rng(2).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    assert names(read(save(Image.fromarray(noise), "PNG"))) == ["colour"]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(kind: str) -> None:
    """An animation or a document of several pages is refused by name."""
    other = Image.fromarray(255 - phantom(bits=8).astype(np.uint8))
    data = save(grey_image(), kind, save_all=True, append_images=[other])
    with pytest.raises(Refused, match="multi_frame"):
        read(data)


@pytest.mark.parametrize("shape", [(1, 1), (31, 100), (100, 31), (40, 400)])
def test_tiny_and_elongated_images_are_refused(shape: tuple[int, int]) -> None:
    """No icon and no ribbon is taken for a radiograph, in any kind of file."""
    noise = np.random.default_rng(3).integers(0, 4096, shape).astype(np.uint16)
    for data in (save(Image.fromarray((noise >> 4).astype(np.uint8)), "PNG"), make_dicom(noise)):
        with pytest.raises(Refused, match=r"too_small|elongated"):
            read(data)


def test_flat_images_are_refused() -> None:
    """An image of one grey level is refused by name, also when it is the window that leaves one."""
    flat = np.full((48, 40), 700, dtype=np.uint16)
    for data in (
        save(Image.new("L", (40, 48), 80), "PNG"),
        save(Image.fromarray(flat), "PNG"),
        make_dicom(flat),
        make_dicom(flat, drop=("WindowCenter", "WindowWidth")),
        make_dicom(WindowCenter=60000, WindowWidth=10),
    ):
        with pytest.raises(Refused, match="flat_image"):
            read(data)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"%PDF-1.7 " + bytes(200), "PDF"),
        (b"PK\x03\x04" + bytes(200), "ZIP"),
        (b"\x1f\x8b\x08" + bytes(200), "GZIP"),
        (b"GIF89a" + bytes(200), "GIF"),
        (b"BM" + bytes(200), "BMP"),
        (b"\x00\x00\x00\x0cjP  \r\n" + bytes(200), "JPEG 2000"),
        (b"\n <!DOCTYPE html><p>", "HTML"),
        (b'{"image": "x"}', "JSON"),
        (b"iVBORw0KGgoAAAANSUhEUg", "base64"),
        (bytes(range(256)), "unknown"),
        (b"\x08", "unknown"),
    ],
)
def test_other_kinds_are_named(data: bytes, kind: str) -> None:
    """What is no image is a 415 that says what it looks like and what is allowed."""
    with pytest.raises(NotAnImage, match=rf"{kind}.*PNG, JPEG, WebP, TIFF, DICOM") as caught:
        read(data)
    assert caught.value.status == 415


def test_size_limits() -> None:
    """No bytes are a 400; more bytes or pixels than configured are a 413."""
    with pytest.raises(UnreadableInput):
        read(b"")
    for data in (save(grey_image(), "PNG"), make_dicom()):
        with pytest.raises(TooLarge, match="max_bytes"):
            read(data, max_bytes=100)
        with pytest.raises(TooLarge, match="max_pixels"):
            read(data, max_pixels=48 * 40 - 1)


# --- DICOM: grey scale -----------------------------------------------------------------------------------------------

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
def test_negative_slope_turns_the_grey_scale_once(photometric: str) -> None:
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
    assert names(radiograph) == ["no_window"]


def test_voi_lut_goes_before_the_window() -> None:
    """The first VOI LUT is applied and the window beside it is not."""
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
    pixels = read(make_dicom(VOILUTSequence=Sequence([lut_item(0, entries, declared)]))).pixels
    np.testing.assert_allclose(pixels, phantom() / 4095, atol=1e-4)


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


# --- DICOM: the recipe of MIMIC-CXR-JPG and CheXpert -----------------------------------------------------------------


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


# --- DICOM: files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
@pytest.mark.parametrize("bits", [8, 12])
def test_native_syntaxes_agree(syntax: str, bits: int) -> None:
    """The four uncompressed encodings of one data set are the same radiograph."""
    pixels = phantom(bits=bits).astype(np.uint8 if bits == 8 else np.uint16)
    if syntax == ExplicitVRBigEndian:
        made = dataset(pixels, bits=bits)
        made.PixelData = pixels.byteswap().tobytes()
        made["PixelData"].VR = "OB" if bits == 8 else "OW"
        data = encode(made, syntax)
    else:
        data = make_dicom(pixels, syntax, bits=bits)
    assert np.array_equal(read(data).pixels, read(make_dicom(pixels, bits=bits)).pixels)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_data_set_without_preamble(syntax: str) -> None:
    """A bare data set, without preamble and meta information, is recognised and read."""
    data = make_dicom(syntax=syntax, preamble=False)
    assert data[128:132] != b"DICM"
    assert np.array_equal(read(data).pixels, read(make_dicom()).pixels)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, *JPEG_LOSSLESS])
@pytest.mark.parametrize("kind", ["u2", "i2", "u1"])
def test_compressed_syntaxes_agree(syntax: str, kind: str) -> None:
    """A losslessly compressed file is the radiograph of its original, unsigned, signed, and of 8 bits."""
    bits = 8 if kind == "u1" else 12
    pixels = (phantom(bits=bits).astype(int) - (2048 if kind == "i2" else 0)).astype(kind)
    header = {"bits": bits, **({"WindowCenter": 0} if kind == "i2" else {})}
    made = compress_by_gdcm if syntax in JPEG_LOSSLESS else compress
    assert np.array_equal(read(made(pixels, syntax, **header)).pixels, read(make_dicom(pixels, **header)).pixels)


def test_baseline_jpeg() -> None:
    """JPEG Baseline is read with the warning that it is lossy."""
    stream = save(grey_image(), "JPEG", quality=95)
    radiograph = read(encapsulate(stream, "1.2.840.10008.1.2.4.50", bits=8))
    assert np.abs(radiograph.pixels - phantom(bits=8) / 255).max() < 0.06
    assert names(radiograph) == ["lossy"]


def test_header_of_the_radiograph() -> None:
    """Spacing is (row, column) in mm from PixelSpacing, else from ImagerPixelSpacing, and none if it is 0."""
    plain = read(make_dicom(PixelSpacing=[0.2, 0.2], ImagerPixelSpacing=[0.3, 0.3]))
    assert (plain.spacing, plain.modality, plain.view, plain.warnings) == ((0.2, 0.2), "CR", "PA", ())
    assert read(make_dicom(ImagerPixelSpacing=[0.3, 0.3])).spacing == (0.3, 0.3)
    assert read(make_dicom(PixelSpacing=[0, 0])).spacing is None
    assert read(make_dicom()).spacing is None


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("anisotropic_pixels", {"PixelSpacing": [0.2, 0.1]}),
        ("anisotropic_pixels", {"PixelAspectRatio": [2, 1]}),
        ("lossy", {"LossyImageCompression": "01"}),
        ("burned_in_unknown", {"drop": ("BurnedInAnnotation",)}),
    ],
)
def test_warnings(name: str, header: dict) -> None:
    """What the reader of a report should know of the rendering is a warning with its name."""
    assert names(read(make_dicom(**header))) == [name]


def test_overlay_is_told() -> None:
    """Overlays are not drawn, which is a warning."""
    made = dataset(phantom())
    made.add_new(0x60020010, "US", 48)
    assert names(read(encode(made))) == ["overlay_ignored"]


# --- DICOM: refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "header", "options"),
    [
        ("modality", {"Modality": "CT"}, {}),
        ("modality", {"Modality": "MG"}, {}),
        ("modality", {"drop": ("Modality",)}, {}),
        ("no_pixel_data", {"SOPClassUID": BasicTextSRStorage, "Modality": "SR", "drop": ("PixelData", "Rows")}, {}),
        ("multi_frame", {"NumberOfFrames": 2}, {}),
        ("photometric", {"PhotometricInterpretation": "RGB"}, {}),
        ("photometric", {"PhotometricInterpretation": "PALETTE COLOR"}, {}),
        ("photometric", {"drop": ("PhotometricInterpretation",)}, {}),
        ("burned_in_annotation", {"BurnedInAnnotation": "YES"}, {}),
        ("for_processing", {"PresentationIntentType": "FOR PROCESSING"}, {}),
        ("presentation_lut", {"PresentationLUTShape": "LIN OD"}, {}),
        ("voi_lut_function", {"VOILUTFunction": "CUBIC"}, {}),
        ("view", {"ViewPosition": "LL"}, {"views": ("PA", "AP")}),
        ("bits", {"HighBit": 15}, {}),
        ("bits", {"BitsAllocated": 32}, {}),
    ],
)
def test_refusals_are_named(name: str, header: dict, options: dict) -> None:
    """A readable file that must not be answered is a 422 that names reason, tag, value, what is allowed, way out."""
    with pytest.raises(Refused, match=rf"^{name}: \([0-9A-F]{{4}},[0-9A-F]{{4}}\) .*; ") as caught:
        read(make_dicom(**header), **options)
    assert caught.value.status == 422


def test_modality_and_view_by_configuration() -> None:
    """Mammograms and lateral views are answered where model.yaml lists them; an absent view only warns."""
    assert read(make_dicom(Modality="MG"), modalities=("MG",)).modality == "MG"
    assert read(make_dicom(ViewPosition="LL"), views=("LL",)).view == "LL"
    assert names(read(make_dicom(ViewPosition=""), views=("PA",))) == ["view_unknown"]


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (JPEGExtended12Bit, "JPEG Extended"),
        (MPEG2MPML, "MPEG2"),
        ("1.2.3.4.5.6", "not in the standard"),
    ],
)
def test_transfer_syntax_without_decoder(syntax: str, name: str) -> None:
    """What cannot be decoded is refused by name and number, with the way through the PACS."""
    with pytest.raises(Refused, match=rf"transfer_syntax: \(0002,0010\).*{name}.*Explicit VR Little Endian"):
        read(encapsulate(b"\xff\xd8\xff\xd9", syntax))


@pytest.mark.parametrize(
    "header",
    [
        {"drop": ("Rows",)},
        {"drop": ("BitsAllocated",)},
        {"drop": ("PixelData",)},
        {"Rows": 0},
        {"Rows": 49},
        {"BitsStored": 17},
        {"SamplesPerPixel": 3},
        {"NumberOfFrames": 0},
        {"RescaleSlope": 0},
        {"RescaleSlope": "1e999"},
        {"VOILUTSequence": Sequence([Dataset()])},
        {"VOILUTSequence": Sequence([lut_item(0, np.zeros(0), 12)])},
    ],
)
def test_contradicting_headers_are_damage(header: dict) -> None:
    """A header that contradicts the standard or its pixels is a 400 that names the tag."""
    with pytest.raises(UnreadableInput, match=r"\([0-9A-F]{4},[0-9A-F]{4}\)|rows"):
        read(make_dicom(**header))


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless])
def test_codestream_of_another_size(syntax: str) -> None:
    """A codestream that holds more or fewer pixels than the header says is a 400, before it is decoded."""
    small = compress(phantom(), JPEG2000Lossless if syntax == HTJ2KLossless else syntax)
    changed = small.replace(b"\x28\x00\x10\x00US\x02\x00\x30\x00", b"\x28\x00\x10\x00US\x02\x00\x60\x00")
    assert changed != small
    with pytest.raises(UnreadableInput, match=r"7FE0,0010"):
        read(changed)


@pytest.mark.parametrize(
    "options",
    [{"modalities": ()}, {"modalities": "CR"}, {"views": ("pa",)}, {"render": "raw"}, {"max_pixels": 0}],
)
def test_bad_configuration(options: dict) -> None:
    """A value of section `input` that is not allowed is an ArchiveError that names its field."""
    with pytest.raises(ArchiveError, match=rf"input\.{next(iter(options))}.*allowed"):
        InputConfig(**options)


# --- real files ------------------------------------------------------------------------------------------------------


def data_store() -> Path:
    """Return the folder of the installed package pydicom-data."""
    spec = importlib.util.find_spec("data_store")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def looks_like_a_frontal_chest(pixels: np.ndarray) -> bool:
    """Return whether the lungs, left and right of the middle, are darker than the spine and abdomen."""
    rows, columns = pixels.shape

    def mean(top: float, left: float, size: float = 0.1) -> float:
        patch = pixels[int(top * rows) : int((top + size) * rows), int(left * columns) : int((left + size) * columns)]
        return float(patch.mean())

    lungs = max(mean(0.3, 0.25), mean(0.3, 0.65))
    return lungs < min(mean(0.45, 0.45), mean(0.85, 0.45))


@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "RG1_J2KI.dcm"])
def test_real_chest_radiograph(name: str) -> None:
    """The PA chest of pydicom-data, MONOCHROME1, has dark lungs between white spine and abdomen."""
    radiograph = read((data_store() / name).read_bytes())
    assert radiograph.pixels.shape == (1955, 1841)
    assert (radiograph.modality, radiograph.view, radiograph.spacing) == ("CR", "PA", None)
    assert looks_like_a_frontal_chest(radiograph.pixels)


SHARED_FILES = sorted(SHARED.glob("*/*")) if SHARED.is_dir() else []


# A window beside its pixel values, and two files that no permissive decoder reads.
REFUSED_SHARED = ("JPEG2KLossless_1s_1f_u_16_16.dcm", "RG2_JPLY.dcm", "RG2_JPLY_fixed.dcm")


@pytest.mark.skipif(not SHARED_FILES, reason="the DICOM files of ../shared are not on this machine")
@pytest.mark.parametrize("path", SHARED_FILES, ids=lambda path: path.name[:40])
def test_real_files_shared(path: Path) -> None:
    """Every real file is rendered or refused by an InputError of one line without any of its identifiers."""
    if path.name in REFUSED_SHARED or (path.parent.name == "odd" and path.name != "CR-MONO1-10-chest_no_preamble"):
        with pytest.raises(InputError, match=r"^.+$"):
            read(path.read_bytes())
        return
    radiograph = read(path.read_bytes())
    assert radiograph.pixels.dtype == np.float32
    assert 0 <= radiograph.pixels.min() < radiograph.pixels.max() <= 1
    if path.parent.name == "chest":
        # A normal picture relabelled MONOCHROME1 by its authors: right is what the label says.
        assert looks_like_a_frontal_chest(radiograph.pixels) == (path.name != "Fake_MONOHR1.dcm") or "966" in path.name


def test_secrets_are_in_the_files() -> None:
    """The files of these tests do hold the patient data that `test_hostile_input` looks for in messages."""
    data = make_dicom()
    assert all(secret.encode() in data for secret in SECRETS)
