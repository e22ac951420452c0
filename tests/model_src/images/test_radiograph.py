from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from prelim.errors import NotAnImage, Refused, TooLarge, UnreadableInput
from prelim.images.radiograph import InputConfig, Radiograph, read_radiograph
from tests.dicom_files import make_dicom, phantom


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return the file of an image."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gray_image() -> Image.Image:
    """Return the phantom in 8 bits."""
    return Image.fromarray(phantom(bits=8).astype(np.uint8))


def read(data: bytes, **options: object) -> Radiograph:
    """Read with the default configuration, or with these options."""
    return read_radiograph(data, InputConfig(**options))


def names(radiograph: Radiograph) -> list[str]:
    """Return the first words of the warnings."""
    return [warning.split(":")[0] for warning in radiograph.warnings]


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "lzw"})]
)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_lossless_files_keep_gray_exactly(kind: str, options: dict, mode: str) -> None:
    """A gray image comes out of every lossless kind and mode as value / 255, without a warning."""
    if (kind, mode) == ("WEBP", "P"):
        mode = "RGB"
    radiograph = read(save(gray_image().convert(mode), kind, **options))
    assert np.array_equal(radiograph.pixels, phantom(bits=8).astype(np.float32) / 255)
    assert radiograph.pixels.dtype == np.float32
    assert (radiograph.warnings, radiograph.spacing, radiograph.modality, radiograph.view) == ((), None, None, None)


def test_jpeg_and_cmyk() -> None:
    """JPEG of gray, color and CMYK samples comes out close to its original."""
    for mode in ("L", "RGB", "CMYK"):
        pixels = read(save(gray_image().convert(mode), "JPEG", quality=95)).pixels
        assert np.abs(pixels - phantom(bits=8) / 255).max() < 0.06, mode


def test_one_bit() -> None:
    """A 1-bit image has the levels 0 and 1."""
    assert set(np.unique(read(save(gray_image().convert("1"), "PNG")).pixels)) == {0.0, 1.0}


def test_alpha_lies_on_black() -> None:
    """Transparent pixels are black, half transparent ones half as bright."""
    image = gray_image().convert("RGBA")
    alpha = np.full((48, 40), 255, dtype=np.uint8)
    alpha[:10] = 0
    alpha[10:20] = 128
    image.putalpha(Image.fromarray(alpha))
    pixels, opaque = read(save(image, "PNG")).pixels, phantom(bits=8) / 255
    assert (pixels[:10] == 0).all()
    np.testing.assert_allclose(pixels[10:20], opaque[10:20] * 128 / 255, atol=1 / 255)
    np.testing.assert_allclose(pixels[20:], opaque[20:], atol=1e-6)


def test_sixteen_bits_over_the_whole_range() -> None:
    """A 16-bit image that uses the top bit is divided by 65535, in either byte order."""
    deep = phantom(bits=16)
    big_endian = Image.frombytes("I;16B", (40, 48), deep.astype(">u2").tobytes())
    for image, kind in ((Image.fromarray(deep), "PNG"), (Image.fromarray(deep), "TIFF"), (big_endian, "TIFF")):
        radiograph = read(save(image, kind))
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
    pixels = read(save(gray_image(), kind, exif=exif, **options)).pixels
    assert np.abs(pixels - np.rot90(phantom(bits=8), -1) / 255).max() < 0.06


def test_color_is_told() -> None:
    """A picture with colors becomes gray with a warning."""
    noise = np.random.default_rng(2).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    assert names(read(save(Image.fromarray(noise), "PNG"))) == ["colour"]


def test_multi_picture_jpeg_gives_its_first() -> None:
    """The previews and depth maps that cameras append to a JPEG are left out, which is a warning."""
    other = Image.fromarray(255 - phantom(bits=8).astype(np.uint8))
    radiograph = read(save(gray_image(), "MPO", save_all=True, append_images=[other], quality=95))
    assert np.abs(radiograph.pixels - phantom(bits=8) / 255).max() < 0.06
    assert names(radiograph) == ["multi_picture"]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(kind: str) -> None:
    """An animation or a document of several pages is refused by name."""
    other = Image.fromarray(255 - phantom(bits=8).astype(np.uint8))
    data = save(gray_image(), kind, save_all=True, append_images=[other])
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
    """An image of one gray level is refused by name, also when it is the window that leaves one."""
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
        (b"RIFF\x00\x01\x00\x00WAVEfmt " + bytes(200), "unknown"),
        (b"JUNK\x00\x01\x00\x00WEBPVP8 " + bytes(200), "unknown"),
    ],
)
def test_other_kinds_are_named(data: bytes, kind: str) -> None:
    """Data that is not an image is a 415 that says what it looks like and what is allowed."""
    with pytest.raises(NotAnImage, match=rf"{kind}.*PNG, JPEG, WebP, TIFF, DICOM") as caught:
        read(data)
    assert caught.value.status == 415


def test_text_is_what_is_printable() -> None:
    """In ASCII, with tabs and line ends."""
    for byte in range(256):
        kind = "text" if byte in b"\t\r\n" or (chr(byte).isprintable() and byte < 128) else "unknown"
        with pytest.raises(NotAnImage, match=f"looks like (an )?{kind}"):
            read(b"sixteen letters " + bytes([byte]) + b"more")


def test_size_limits() -> None:
    """No bytes are a 400; more bytes or pixels than configured are a 413."""
    with pytest.raises(UnreadableInput):
        read(b"")
    for data in (save(gray_image(), "PNG"), make_dicom()):
        with pytest.raises(TooLarge, match="max_bytes"):
            read(data, max_bytes=100)
        with pytest.raises(TooLarge, match=r"has 48 x 40 = 1920 pixels; allowed: 1919; .*max_pixels"):
            read(data, max_pixels=48 * 40 - 1)
        read(data, max_pixels=48 * 40)


def test_minmax_equalize_is_for_what_is_not_rendered_yet() -> None:
    """The recipe of the training JPEGs applies to 16-bit samples and leaves 8-bit files, its own products, alone."""
    eight_bit = read(save(gray_image(), "PNG"), render="minmax_equalize")
    assert np.array_equal(eight_bit.pixels, read(save(gray_image(), "PNG")).pixels)
    deep = read(save(Image.fromarray(phantom()), "PNG"), render="minmax_equalize")
    assert np.array_equal(deep.pixels, read(make_dicom(), render="minmax_equalize").pixels)
    assert deep.warnings == ()
