"""PNG and TIFF files of every depth: all bits are kept, and the range of their samples does not hang on single ones."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from prelim.errors import InputError, Refused, UnreadableInput
from prelim.images.gray_levels import PIECE, count_levels, look_up, sample_percentiles, scale_samples
from prelim.images.radiograph import InputConfig, Radiograph, read_radiograph
from tests.dicom_files import make_dicom, phantom
from tests.hostile_files import png_chunk

STRANGERS = Path(__file__).resolve().parents[4] / "shared" / "data" / "strangers"
needs_strangers = pytest.mark.skipif(not STRANGERS.is_dir(), reason=f"{STRANGERS} is not there")


def read(data: bytes, **options: object) -> Radiograph:
    """Read with the default configuration, or with these options."""
    return read_radiograph(data, InputConfig(**options))


def tiff(samples: np.ndarray, **options: object) -> bytes:
    """Return the TIFF of samples."""
    buffer = BytesIO()
    tifffile.imwrite(buffer, samples, metadata=None, **options)
    return buffer.getvalue()


def by_percentiles(samples: np.ndarray) -> np.ndarray:
    """Return samples with percentiles 0.5 and 99.5 mapped to 0 and 1, by sorting."""
    ordered = np.sort(samples, axis=None).astype(np.float64)
    low, high = (ordered[int(np.ceil(share * ordered.size)) - 1] for share in (0.005, 0.995))
    return np.clip((samples.astype(np.float64) - low) / (high - low), 0, 1)


def channels(gray: np.ndarray, number: int) -> np.ndarray:
    """Return (rows, columns, number): gray repeated, and opaque alpha for 2 and 4."""
    alpha = [np.full_like(gray, 65535)] if number in (2, 4) else []
    return np.dstack([gray] * (number - len(alpha)) + alpha)


def white_is_zero(samples: np.ndarray, **options: object) -> bytes:
    """Return a TIFF whose low samples are white."""
    return tiff(samples, photometric="miniswhite", **options)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_deep_png_keeps_its_low_byte(number: int) -> None:
    """Gray of 12 bits comes out alike from 16-bit gray, gray with alpha, RGB and RGBA."""
    gray = phantom()
    radiograph = read(imagecodecs.png_encode(channels(gray, number).squeeze()))
    np.testing.assert_allclose(radiograph.pixels, by_percentiles(gray), atol=1e-6)
    assert [warning.split(":")[0] for warning in radiograph.warnings] == ["range"]


@pytest.mark.parametrize("options", [{}, {"compression": "lzw"}, {"compression": "zlib", "predictor": True}])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_deep_tiff_rgb_keeps_its_low_byte(options: dict, order: str, planar: str) -> None:
    """RGB of 16 bits keeps 12 bits of gray, whatever byte order, planes and compression."""
    gray = phantom()
    rgb = np.dstack([gray] * 3)
    rgb = np.moveaxis(rgb, -1, 0) if planar == "separate" else rgb
    data = tiff(rgb, photometric="rgb", planarconfig=planar, byteorder=order, **options)
    np.testing.assert_allclose(read(data).pixels, by_percentiles(gray), atol=1e-6)


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "uint32", "float16", "float32"])
@pytest.mark.parametrize("options", [{}, {"compression": "packbits"}, {"tile": (16, 16), "compression": "zlib"}])
def test_samples_of_every_type(kind: str, options: dict) -> None:
    """Signed, 32-bit and float samples keep their order and are scaled by percentiles."""
    samples = (phantom(bits=8).astype(np.int64) - (128 if kind[0] == "i" else 0)).astype(kind)
    radiograph = read(tiff(samples, **options))
    np.testing.assert_allclose(radiograph.pixels, by_percentiles(samples), atol=1e-6)


@pytest.mark.parametrize("kind", ["uint16", "int16", "int32", "float32"])
@pytest.mark.parametrize("hot", ["low", "high"])
def test_one_hot_pixel_changes_only_itself(kind: str, hot: str) -> None:
    """A single pixel at the end of the type's range leaves all others as they were."""
    samples = phantom(480, 400).astype(kind)
    limits = np.finfo(kind) if kind == "float32" else np.iinfo(kind)
    other = samples.copy()
    other[3, 5] = limits.max if hot == "high" else limits.min
    before, after = read(tiff(samples)).pixels, read(tiff(other)).pixels
    assert after[3, 5] == (hot == "high")
    after[3, 5] = before[3, 5]
    assert np.abs(after - before).max() < 0.005


@pytest.mark.parametrize("share", [0.0005, 0.003, 0.01, 0.05, 0.2])
@pytest.mark.parametrize("level", [65535, 60000, 40000])
def test_marker_of_one_level_changes_only_itself(level: int, share: float) -> None:
    """A label, a border or an arrow of one level does not tell what the samples can be at most."""
    gray = phantom()
    marked = gray.copy()
    marked[: int(share * len(gray))] = level
    marked[0, :4] = level
    expected = by_percentiles(marked[marked != level])

    radiograph = read(imagecodecs.png_encode(marked))

    np.testing.assert_allclose(radiograph.pixels[marked != level], expected, atol=0.02)
    assert (radiograph.pixels[marked == level] == 1).all()
    assert [warning.split(":")[0] for warning in radiograph.warnings] == ["range"]


@pytest.mark.parametrize("kind", ["uint32", "int32", "int16", "int8", "float32"])
@pytest.mark.parametrize("share", [0.01, 0.2])
def test_marker_in_samples_without_a_known_range(kind: str, share: float) -> None:
    """A picture that uses a small part of its type keeps its contrast next to a marker of the highest value."""
    gray = (phantom(bits=6) - (20 if kind.startswith("int") else 0)).astype(kind)
    marked = gray.copy()
    marked[0, : 1 + int(share * len(gray))] = np.finfo(kind).max if kind == "float32" else np.iinfo(kind).max
    marked[1 : int(share * len(gray))] = marked[0, 0]
    rest = marked == gray

    pixels = read(tiff(marked)).pixels

    np.testing.assert_allclose(pixels[rest], by_percentiles(gray[rest]), atol=0.02)


def test_saturated_pictures_use_their_range() -> None:
    """White that many other levels lead up to is not a marker, and a picture of two levels has both."""
    bright = np.linspace(0, 90000, 256 * 256).clip(0, 65535).astype(np.uint16).reshape(256, 256)
    two = np.where(np.arange(256 * 256).reshape(256, 256) % 256 < 100, 0, 65535).astype(np.uint16)

    for samples in (bright, two):
        radiograph = read(imagecodecs.png_encode(samples))
        np.testing.assert_allclose(radiograph.pixels, samples / 65535, atol=1e-6)
        assert radiograph.warnings == ()


def test_offset_samples_of_16_bits_are_not_gray() -> None:
    """Signed samples that were stored with 32768 added use a small part of the range, and fill the gray scale."""
    radiograph = read(tiff(phantom() + np.uint16(31000)))
    np.testing.assert_allclose(radiograph.pixels, by_percentiles(phantom()), atol=1e-6)


@pytest.mark.parametrize("kind", ["uint16", "int8", "int32", "float32"])
def test_white_is_zero_is_inverted(kind: str) -> None:
    """TIFF 6.0 PhotometricInterpretation 0: the same samples come out inverted."""
    samples = phantom(bits=7).astype(kind)
    np.testing.assert_allclose(read(white_is_zero(samples)).pixels, 1 - by_percentiles(samples), atol=1e-6)


def test_values_that_are_not_finite() -> None:
    """NaN is black; infinities take the ends of the scale; samples without a finite one are refused."""
    samples = phantom().astype(np.float32)
    samples[0, :3] = np.nan, np.inf, -np.inf
    for data, ends in ((tiff(samples), (0, 1, 0)), (white_is_zero(samples), (0, 0, 1))):
        assert tuple(read(data).pixels[0, :3]) == ends
    with pytest.raises(UnreadableInput, match="no finite sample"):
        read(tiff(np.full((48, 40), np.nan, dtype=np.float32)))


def test_deep_alpha_lies_on_black() -> None:
    """Half transparent pixels of 16 bits are half as bright; the alpha of an undefined kind is not applied."""
    gray = phantom(bits=16)
    alpha = np.full_like(gray, 65535)
    alpha[:10], alpha[10:20] = 0, 32768
    expected = np.where(alpha == 65535, gray, np.rint(gray * (alpha / 65535))) / 65535
    both = np.dstack([gray, alpha])
    for data in (imagecodecs.png_encode(both), tiff(both, extrasamples=["unassalpha"], planarconfig="contig")):
        np.testing.assert_allclose(read(data).pixels, expected, atol=1e-5)
    undefined = tiff(both, extrasamples=["unspecified"], planarconfig="contig")
    np.testing.assert_allclose(read(undefined).pixels, gray / 65535, atol=1e-5)


def test_deep_color_becomes_luma() -> None:
    """Color of 16 bits becomes ITU-R 601-2 luma, as color of 8 bits does."""
    rng = np.random.default_rng(3)
    eight = rng.integers(0, 256, (48, 40, 3), dtype=np.uint8)
    deep = read(imagecodecs.png_encode(eight.astype(np.uint16) * 257)).pixels
    luma = np.asarray(Image.fromarray(eight).convert("L")) / 255
    assert np.abs(deep - luma).max() < 1 / 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_deep_files(orientation: int) -> None:
    """Exif and TIFF Orientation turn a deep file as they turn one of 8 bits."""
    gray = phantom()
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = BytesIO()
    Image.fromarray(phantom(bits=8).astype(np.uint8)).save(turned, "PNG", exif=exif)
    expected = read(turned.getvalue()).pixels
    png = imagecodecs.png_encode(gray)
    png = png[:33] + png_chunk(b"eXIf", exif.tobytes()[6:]) + png[33:]
    for data in (png, tiff(gray, extratags=[(274, 3, 1, orientation, True)])):
        pixels = read(data).pixels
        assert pixels.shape == expected.shape
        assert np.corrcoef(pixels.ravel(), expected.ravel())[0, 1] > 0.999


def test_minmax_equalize_of_floats_is_that_of_integers() -> None:
    """The recipe of the training JPEGs gives the same for samples of 12 bits in any type."""
    expected = read(make_dicom(), render="minmax_equalize").pixels
    for kind in ("uint16", "int32", "float32"):
        assert np.array_equal(read(tiff(phantom().astype(kind)), render="minmax_equalize").pixels, expected), kind


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(phantom(), compression="jpegxl"), "Compression JPEGXL"),
        (tiff(phantom().astype(np.float32), compression="lerc"), "Compression LERC"),
        (tiff(phantom().astype(np.float64)), "samples of type float64"),
        (tiff(phantom().astype(np.uint64)), "samples of type uint64"),
        (tiff(phantom().astype(np.complex64)), "samples of type complex64"),
        (tiff(np.dstack([phantom()] * 4), photometric="separated"), "PhotometricInterpretation SEPARATED"),
        (tiff(np.dstack([phantom()] * 5), photometric="minisblack", planarconfig="contig"), "5 samples a pixel"),
    ],
)
def test_valid_but_unsupported(data: bytes, reason: str) -> None:
    """What TIFF allows and is not read here is refused as such, by name, and not called damaged."""
    with pytest.raises(Refused, match=f"^not supported: the TIFF image has {reason}") as caught:
        read(data)
    assert "damaged" not in str(caught.value)


def jpeg_head(frame: int, bits: int = 8) -> bytes:
    """The beginning of a JPEG whose frame has this marker, after an APP0 segment and fill bytes."""
    return b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff" + bytes([0xFF, frame, 0, 11, bits, 0, 8, 0, 8, 1, 1, 0x11, 0])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (imagecodecs.jpegls_encode(phantom().astype(np.uint8)), "JPEG-LS"),
        (imagecodecs.ljpeg_encode(phantom()), "lossless"),
        (jpeg_head(0xC1, bits=12), "12 bits a sample"),
        (jpeg_head(0xC2, bits=12), "12 bits a sample"),
        # ITU-T T.81 table B.1: differential frames are hierarchical, unless they are lossless too.
        *((jpeg_head(frame), "lossless") for frame in (0xC3, 0xC7, 0xCB, 0xCF)),
        *((jpeg_head(frame), "hierarchical") for frame in (0xC5, 0xC6, 0xCD, 0xCE)),
        *((jpeg_head(frame), "coded arithmetically") for frame in (0xC9, 0xCA)),
        (jpeg_head(0xF7), "JPEG-LS"),
    ],
)
def test_jpeg_of_other_kinds_is_not_called_damaged(data: bytes, reason: str) -> None:
    """It is valid, and refused by what it is."""
    with pytest.raises(Refused, match=f"^not supported: the JPEG image (is|has) {reason}"):
        read(data)


@pytest.mark.parametrize(
    "data", [b"\xff\xd8\xff", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe0\xff\xff", jpeg_head(0xC0)[:14]]
)
def test_cut_heads_of_jpeg_are_damaged(data: bytes) -> None:
    """Nothing can be said of them."""
    with pytest.raises(InputError, match="image"):
        read(data)


def test_tiff_of_24_bits_is_not_supported() -> None:
    """The library would take its samples for others."""
    contents = directory(tiff(phantom().astype(np.uint32)), 258, 24)
    with pytest.raises(Refused, match="not supported: the TIFF image has samples of 24 bits"):
        read(contents)


def directory(data: bytes, tag: int, value: int) -> bytes:
    """Return a little-endian TIFF with the value of one tag of its directory changed."""
    (start,) = struct.unpack_from("<L", data, 4)
    (number,) = struct.unpack_from("<H", data, start)
    for entry in range(start + 2, start + 2 + 12 * number, 12):
        if struct.unpack_from("<H", data, entry)[0] == tag:
            return data[: entry + 8] + struct.pack("<L", value) + data[entry + 12 :]
    raise KeyError(tag)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "zstd"])
def test_short_strips_are_never_filled_up(compression: str | None) -> None:
    """A strip without bytes, outside of the file or with too few samples is a 400, not a part in black."""
    whole = tiff(phantom(), compression=compression, rowsperstrip=48)
    read(whole)
    for changed in (
        directory(whole, 279, 0),
        directory(whole, 273, 0),
        directory(whole, 273, 2**31),
        directory(whole, 257, 90),
        directory(directory(whole, 257, 90), 278, 90),
        # Uncompressed strips are where they are, and writers exist that state a wrong length.
        *([] if compression is None else [directory(whole, 279, 60)]),
    ):
        with pytest.raises(UnreadableInput):
            read(changed)


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("number", [1, 3])
def test_truncated_deep_png_is_never_rendered(cut: float, number: int) -> None:
    """A PNG of 16 bits without its end is a 400."""
    data = imagecodecs.png_encode(channels(phantom(), number).squeeze())
    with pytest.raises(UnreadableInput):
        read(data[: int(len(data) * cut)])


def test_deep_png_with_changed_pixels_is_refused() -> None:
    """A pixel chunk whose checksum does not fit is damage."""
    data = bytearray(imagecodecs.png_encode(phantom()))
    data[data.find(b"IDAT") + 200] ^= 0x40
    with pytest.raises(InputError):
        read(bytes(data))


def test_interlaced_deep_png() -> None:
    """An Adam7 PNG of 16 bits, as ImageMagick writes it, comes out as the plain one."""
    gray = phantom().astype(">u2")
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    lines = [row for top, left, down, across in passes for row in gray[top::down, left::across]]
    header = png_chunk(b"IHDR", struct.pack(">LLBBBBB", 40, 48, 16, 0, 0, 0, 1))
    body = png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines)))
    data = b"\x89PNG\r\n\x1a\n" + header + body + png_chunk(b"IEND", b"")
    np.testing.assert_allclose(read(data).pixels, by_percentiles(phantom()), atol=1e-6)


@pytest.mark.parametrize("size", [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7])
def test_pieces_are_the_whole(size: int) -> None:
    """Counting, looking up and scaling by pieces equals NumPy's of the whole array."""
    codes = np.random.default_rng(1).integers(0, 4096, size).astype(np.uint16)
    table = np.linspace(0, 1, 4096, dtype=np.float32)
    assert np.array_equal(count_levels(codes, 4096), np.bincount(codes, minlength=4096))
    assert np.array_equal(look_up(table, codes), table[codes])
    if size > 1000:
        floats = codes.astype(np.float32)
        np.testing.assert_allclose(scale_samples(floats, "voi", False)[0], by_percentiles(floats), atol=1e-6)


def test_percentiles_of_two_levels_are_the_levels() -> None:
    """Where percentiles 0.5 and 99.5 are equal, the extremes are taken."""
    samples = np.zeros((40, 40), dtype=np.float32)
    samples[7, 7] = 3
    assert sample_percentiles(samples) == (0, 3)


@needs_strangers
@pytest.mark.parametrize("name", ["png16_12bit_1hot.png", "rgb16_12bit.png", "la16_12bit.png", "t_i8.tif"])
def test_files_of_strangers(name: str) -> None:
    """The published samples come out as percentiles of what an independent decoder reads, within 0.02."""
    path = STRANGERS / name
    samples = tifffile.imread(path) if name.endswith("tif") else imagecodecs.png_decode(path.read_bytes())
    gray = samples[..., 0] if samples.ndim == 3 else samples
    assert np.abs(read(path.read_bytes()).pixels - by_percentiles(gray)).max() < 0.02
