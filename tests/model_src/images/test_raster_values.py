"""Rasters by hand: sizes in WebP headers, colors against chroma noise, alpha on black, scans of a JPEG."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from prelim.errors import UnreadableInput
from prelim.images.input_config import InputConfig
from prelim.images.raster import GRAY_MODES, MAX_JPEG_SCANS, _has_colors, _to_gray, read_raster, webp_size


def webp(chunk: bytes, head: bytes) -> bytes:
    """A WebP file that ends after ten bytes of its first chunk."""
    return b"RIFF\0\0\0\0WEBP" + chunk + b"\0\0\0\0" + head


@pytest.mark.parametrize(
    ("chunk", "head", "size"),
    [
        # RFC 9649 2.7: flags, 24 bits of the width less one, 24 bits of the height less one.
        (b"VP8X", bytes([255, 1, 2, 3, 4, 5, 6, 7, 8, 9]), (0x060504 + 1, 0x090807 + 1)),
        (b"VP8X", bytes(10), (1, 1)),
        # RFC 9649 2.6: 14 bits of the width less one, 14 bits of the height less one, 4 other bits.
        (b"VP8L", bytes([0x2F, 0xFF, 0x3F, 0, 0, 9, 9, 9, 9, 9]), (0x4000, 1)),
        (b"VP8L", bytes([0x2F, 0, 0xC0, 0xFF, 0xFF, 9, 9, 9, 9, 9]), (1, 0x4000)),
        (b"VP8L", bytes([0x2F, 5, 0xC0, 1, 0, 9, 9, 9, 9, 9]), (6, 8)),
        # RFC 6386 9.1: 14 bits of each after the start code, 2 of a scale.
        (b"VP8 ", bytes([1, 1, 1, 1, 1, 1, 0x34, 0xF2, 0x78, 0xF6]), (0x3234, 0x3678)),
    ],
)
def test_size_in_a_webp_header(chunk: bytes, head: bytes, size: tuple[int, int]) -> None:
    """Width and height of each of the three kinds; of a header that is cut, or of another kind, there are none."""
    assert webp_size(webp(chunk, head)) == size
    for wrong in (webp(chunk, head[:9]), webp(b"ALPH", head)):
        with pytest.raises(UnreadableInput, match="no readable header"):
            webp_size(wrong)


def test_lossless_webp_has_a_signature() -> None:
    """RFC 9649 3.4: the first byte is 0x2F."""
    with pytest.raises(UnreadableInput, match="no readable header"):
        webp_size(webp(b"VP8L", bytes([0x2E, 5, 0xC0, 1, 0, 9, 9, 9, 9, 9])))


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": False}])
def test_sizes_of_webp_are_those_of_pillow(options: dict[str, bool]) -> None:
    """Width before height, of files that Pillow writes; the extended kind too."""
    for mode in ("RGB", "RGBA"):
        file = BytesIO()
        Image.new(mode, (70, 45), (9, 9, 9, 9)[: len(mode)]).save(file, "WEBP", **options)
        assert webp_size(file.getvalue()) == (70, 45)


@pytest.mark.parametrize(
    ("apart", "colored", "found"), [(24, 100, False), (25, 100, False), (25, 101, True), (255, 0, False)]
)
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_more_than_one_percent_of_colors_is_not_noise(apart: int, colored: int, found: bool, channel: int) -> None:
    """Of 10,000 pixels, more than 100 whose channels are more than 24 levels apart."""
    pixels = np.full((100, 100, 3), 100, np.uint8)
    pixels.reshape(-1, 3)[:colored, channel] = 100 + min(apart, 155)

    assert _has_colors(Image.fromarray(pixels)) is found


@pytest.mark.parametrize("mode", GRAY_MODES)
def test_gray_modes_have_no_colors_in_rgb(mode: str) -> None:
    """So that nobody has to look at their pixels."""
    picture = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("L").convert("LA")
    red, green, blue = picture.convert(mode).convert("LA" if "A" in mode.upper() else mode).convert("RGB").split()

    assert red.tobytes() == green.tobytes() == blue.tobytes()
    assert not _has_colors(picture.convert(mode))


def test_colors_of_a_large_picture_are_looked_for_on_a_grid() -> None:
    """Every second pixel of a side of 2000; colors anywhere in it are found, those behind alpha are not."""
    pixels = np.full((40, 2000, 3), 100, np.uint8)
    pixels[:, 1800:, 2] = 200
    assert _has_colors(Image.fromarray(pixels))
    transparent = np.zeros((40, 40, 4), np.uint8)
    transparent[..., 0] = 255
    assert not _has_colors(Image.fromarray(transparent))


@pytest.mark.parametrize(
    ("size", "grid"),
    [((2000, 40), (1000, 20)), ((2999, 50), (1499, 25)), ((1999, 40), (1999, 40)), ((33, 3000), (11, 1000))],
)
def test_grid_on_which_colors_are_looked_for(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], grid: tuple[int, int]
) -> None:
    """At most a thousand, or some more, on the longer side."""
    resized: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def note(self: Image.Image, size: tuple[int, int], *arguments: object) -> Image.Image:
        resized.append(size)
        return resize(self, size, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", note)
    assert not _has_colors(Image.new("RGB", size))
    assert resized == [grid]


def test_gray_is_made_in_bands() -> None:
    """Every row once, in its place, of 256 rows and one more; alpha lies on black, and equal channels stay."""
    levels = np.arange(257 * 3, dtype=np.uint32).reshape(257, 3).astype(np.uint8)
    for image in (Image.fromarray(levels), Image.fromarray(np.repeat(levels[..., None], 3, axis=2))):
        np.testing.assert_array_equal(_to_gray(image), levels / np.float32(255))
    layers = np.stack([levels, np.full_like(levels, 51)], axis=-1)
    np.testing.assert_allclose(_to_gray(Image.fromarray(layers)), levels / 5 / 255, atol=0.6 / 255)
    one_bit = Image.fromarray(levels).convert("1", dither=Image.Dither.NONE)
    np.testing.assert_array_equal(_to_gray(one_bit), (levels > 127).astype(np.float32))


def test_scans_of_a_jpeg_have_a_limit() -> None:
    """A hundred scans are read, one more is refused before any is decoded; other files may hold these bytes."""
    file = BytesIO()
    Image.new("L", (40, 48), 90).save(file, "JPEG")
    scans = b"\xff\xda" * (MAX_JPEG_SCANS - 1)

    pixels, warnings, _ = read_raster(file.getvalue() + scans, "JPEG", InputConfig())
    assert (pixels.shape, warnings) == ((48, 40), ())
    with pytest.raises(UnreadableInput, match="more than 100 scans"):
        read_raster(file.getvalue() + scans + b"\xff\xda", "JPEG", InputConfig())
    png = BytesIO()
    Image.new("L", (40, 48), 90).save(png, "PNG")
    assert read_raster(png.getvalue() + b"\xff\xda" * 200, "PNG", InputConfig())[0].shape == (48, 40)
