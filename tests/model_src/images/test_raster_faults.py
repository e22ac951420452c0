"""Raster files with faults that are not faults of the picture, and those that are."""

import struct
import zlib
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from prelim.errors import NotAnImage, Refused, UnreadableInput
from prelim.images.radiograph import InputConfig, Radiograph, read_radiograph
from tests.dicom_files import encapsulate, phantom
from tests.hostile_files import png_chunk

EIGHT = phantom(bits=8).astype(np.uint8)
SIXTEEN = phantom(bits=16)
# Big endian, one directory with one entry: Orientation, a SHORT, 6.
EXIF = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"


def read(data: bytes) -> Radiograph:
    """Read with the default configuration."""
    return read_radiograph(data, InputConfig())


def png(samples: np.ndarray, depth: int, *chunks: bytes) -> bytes:
    """Return a gray PNG file of 1 to 16 bits with these chunks before its data; samples (rows, columns)."""
    if depth == 16:
        lines = samples.astype(">u2").view(np.uint8).reshape(len(samples), -1)
    else:
        bits = samples[..., None] >> np.arange(depth - 1, -1, -1) & 1
        lines = np.packbits(bits.reshape(len(samples), -1).astype(np.uint8), axis=1)
    header = struct.pack(">LLBBBBB", samples.shape[1], samples.shape[0], depth, 0, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    parts = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", body), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("excess", [0, 1])
def test_a_transparent_level_is_black(depth: int, excess: int) -> None:
    """The chunk tRNS names a level of the file, of which only the bits of a sample count, whatever the depth."""
    samples = SIXTEEN >> 16 - depth
    level = int(np.sort(samples, axis=None)[samples.size // 2]) if depth > 1 else 1
    if depth == 1:
        # White is transparent: the rest must have two levels.
        level = 0
    stored = (level + (excess << depth)) % 2**16
    shown = np.where(samples == level, 0, samples) / (2**depth - 1)

    pixels = read(png(samples, depth, png_chunk(b"tRNS", struct.pack(">H", stored)))).pixels

    assert np.abs(pixels - shown).max() < 0.01


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"abcdefgh",
        EXIF[:14],
        EXIF.replace(b"\x01\x12\0\3", b"\x01\x12\0\2"),
        EXIF.replace(b"\0\6\0\0", b"\0\x63\0\0"),
        # Orientation is upright, and another entry points out of the block.
        b"MM\0*\0\0\0\x08\0\2\x01\x0f\0\2\0\0\0\x40\x7f\0\0\0\x01\x12\0\3\0\0\0\1\0\1\0\0\0\0\0\0",
    ],
)
def test_exif_that_cannot_be_read(depth: int, exif: bytes) -> None:
    """What a camera wrote about the picture does not cost the picture."""
    samples = EIGHT if depth == 8 else SIXTEEN
    damaged = png(samples, depth, png_chunk(b"eXIf", exif))
    assert np.array_equal(read(damaged).pixels, read(png(samples, depth)).pixels)


@pytest.mark.parametrize("depth", [2, 8, 16])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_exif_turns_a_png(depth: int, prefix: bytes) -> None:
    """Orientation 6 is a quarter turn, also where the block begins as in a JPEG file."""
    samples = SIXTEEN >> 16 - depth
    turned = read(png(samples, depth, png_chunk(b"eXIf", prefix + EXIF))).pixels
    assert np.array_equal(turned, np.rot90(read(png(samples, depth)).pixels, -1))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("kind", [b"tEXt", b"pHYs", b"eXIf", b"iCCP", b"quIR"])
def test_a_damaged_ancillary_chunk(depth: int, kind: bytes) -> None:
    """A wrong checksum in a chunk that no picture needs changes nothing."""
    samples = EIGHT if depth == 8 else SIXTEEN
    chunk = png_chunk(kind, EXIF)
    damaged = png(samples, depth, chunk[:-4] + bytes(byte ^ 0x55 for byte in chunk[-4:]))
    assert np.array_equal(read(damaged).pixels, read(png(samples, depth)).pixels)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("kind", [b"tRNS", b"PLTE", b"quIR".upper()])
def test_a_damaged_chunk_of_the_picture(depth: int, kind: bytes) -> None:
    """A wrong checksum in a chunk that decides the picture is damage."""
    chunk = png_chunk(kind, b"\0\0\0")
    with pytest.raises(UnreadableInput):
        read(png(EIGHT if depth == 8 else SIXTEEN, depth, chunk[:-1] + bytes([chunk[-1] ^ 1])))


def jpeg(**options: object) -> bytes:
    """Return a JPEG file of the phantom with noise, so that all of its parts have data."""
    noise = np.random.default_rng(0).integers(0, 8, EIGHT.shape)
    buffer = BytesIO()
    Image.fromarray((EIGHT + noise).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_a_cut_jpeg(options: dict, end: bytes) -> None:
    """A JPEG file whose data end before its picture is refused, also with an end marker put to it."""
    whole = jpeg(**options)
    for share in (0.5, 0.7, 0.9):
        with pytest.raises(UnreadableInput, match="truncated"):
            read(whole[: int(len(whole) * share)].rstrip(b"\xff") + end)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("tail", [b"", b"\0" * 30])
def test_a_whole_jpeg_without_end_marker(options: dict, tail: bytes) -> None:
    """If only the end marker is missing, the picture is shown, with a warning."""
    whole = jpeg(**options)
    radiograph = read(whole[:-2] + tail)
    assert np.array_equal(radiograph.pixels, read(whole).pixels)
    assert [warning.split(":")[0] for warning in radiograph.warnings] == ["no_end_marker"]
    assert read(whole + b"\0" * 500).warnings == ()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_an_orientation_that_is_text(kind: type) -> None:
    """A TIFF file whose Orientation is not a number is shown as it is stored."""
    samples, buffer = EIGHT.astype(kind) * (257 if kind is np.uint16 else 1), BytesIO()
    tifffile.imwrite(buffer, samples, metadata=None, extratags=[(274, 2, 0, b"six", True)])
    assert np.abs(read(buffer.getvalue()).pixels - EIGHT / 255).max() < 1e-6


def test_a_gray_tiff_with_associated_alpha() -> None:
    """Samples that alpha was applied to are shown on black, which is as they are."""
    alpha = np.full_like(EIGHT, 255)
    alpha[:8] = 128
    applied, buffer = np.minimum(EIGHT, alpha), BytesIO()
    tifffile.imwrite(
        buffer, np.dstack([applied, alpha]), metadata=None, photometric="minisblack", extrasamples=["assocalpha"]
    )
    assert np.abs(read(buffer.getvalue()).pixels - applied / 255).max() < 1e-6


@pytest.mark.parametrize("data", [imagecodecs.jpegxl_encode(EIGHT), b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0" * 99])
def test_jpeg_xl_is_named(data: bytes) -> None:
    """JPEG XL, bare or in its boxes, is not read, and the message says what it is."""
    with pytest.raises(NotAnImage, match="JPEG XL"):
        read(data)


def cut_at_restart(whole: bytes, share: float) -> bytes:
    """Return a JPEG file that ends right before one of its restart markers, with an end marker."""
    places = [i for i in range(len(whole) - 1) if whole[i] == 0xFF and 0xD0 <= whole[i + 1] <= 0xD7]
    return whole[: places[int(len(places) * share)]] + b"\xff\xd9"


def cut_at_scan(whole: bytes, number: int) -> bytes:
    """Return a progressive JPEG file without its scans from `number` on, with an end marker."""
    place = 0
    for _ in range(number + 1):
        place = whole.index(b"\xff\xda", place + 2)
    return whole[: whole.rindex(b"\xff\xc4", 0, place)] + b"\xff\xd9"


RESTARTS, ROWS, PROGRESSIVE = (
    jpeg(restart_marker_blocks=1),
    jpeg(restart_marker_rows=1),
    jpeg(progressive=True),
)
INCOMPLETE = {
    **{f"restart {share}": cut_at_restart(RESTARTS, share) for share in (0.3, 0.9)},
    **{f"scan {number}": cut_at_scan(PROGRESSIVE, number) for number in (1, 3, 5)},
    "middle lost": ROWS[: len(ROWS) // 2] + ROWS[len(ROWS) // 2 + 200 :],
}


@pytest.mark.parametrize("name", INCOMPLETE)
@pytest.mark.parametrize("container", ["JPEG", "TIFF", "DICOM"])
def test_a_jpeg_that_lacks_a_part(name: str, container: str) -> None:
    """Missing scans, restarts and packets are refused, whatever the JPEG is wrapped in."""
    data = INCOMPLETE[name]
    if container == "TIFF":
        data = wrap_in_tiff(data)
    elif container == "DICOM":
        syntax = "1.2.840.10008.1.2.4.55" if "scan" in name else "1.2.840.10008.1.2.4.50"
        data = encapsulate(data, syntax, EIGHT.shape, bits=8)
    with pytest.raises(UnreadableInput, match="lacks a part of its picture"):
        read(data)


def wrap_in_tiff(stream: bytes) -> bytes:
    """Return a TIFF file with one strip, a JPEG file (Adobe's TIFF Technical Note 2)."""
    rows, columns = EIGHT.shape
    values = {256: columns, 257: rows, 258: 8, 259: 7, 262: 1, 273: 8 + 2 + 12 * 9 + 4, 277: 1, 278: rows}
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in {**values, 279: len(stream)}.items())
    return b"II*\0" + struct.pack("<LH", 8, 9) + entries + bytes(4) + stream


def test_a_whole_jpeg_in_a_tiff() -> None:
    """It is the picture of the JPEG file."""
    assert np.array_equal(read(wrap_in_tiff(jpeg())).pixels, read(jpeg()).pixels)


def test_padding_before_the_end_marker() -> None:
    """Zeros there are no damage, other bytes are."""
    whole = jpeg()
    assert np.array_equal(read(whole[:-2] + bytes(20) + whole[-2:]).pixels, read(whole).pixels)
    with pytest.raises(UnreadableInput, match="lacks a part"):
        read(whole[:-2] + b"\x95\x2a" * 20 + whole[-2:])


def test_a_stack_behind_one_page_is_refused() -> None:
    """ImageJ and tifffile can write further slices without a page for each."""
    for options in ({"imagej": True}, {}):
        buffer = BytesIO()
        tifffile.imwrite(buffer, np.stack([SIXTEEN, SIXTEEN[::-1]]), truncate=True, **options)
        with pytest.raises(Refused, match="multi_frame"):
            read(buffer.getvalue())


def test_a_preview_page_is_not_a_second_picture() -> None:
    """A page of NewSubfileType 1 is a reduced version of the first."""
    buffer = BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(EIGHT, metadata=None)
        file.write(EIGHT[::4, ::4], subfiletype=1, metadata=None)
    assert np.abs(read(buffer.getvalue()).pixels - EIGHT / 255).max() < 0.01


@pytest.mark.parametrize("options", [{"bigtiff": True, "byteorder": ">"}, {"compression": "packbits", "predictor": 2}])
def test_tiff_of_8_bits_that_pillow_does_not_read(options: dict) -> None:
    """Pillow refuses the one and shows noise of the other."""
    buffer = BytesIO()
    tifffile.imwrite(buffer, EIGHT, metadata=None, **options)
    assert np.abs(read(buffer.getvalue()).pixels - EIGHT / 255).max() < 0.01
