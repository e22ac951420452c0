"""What codestreams say of themselves, byte by byte as ISO/IEC 10918-1, 14495-1 and 15444-1 lay it out."""

import dataclasses
import struct

import numpy as np
import pytest
from pydicom.encaps import encapsulate as encapsulate_frames
from pydicom.pixels.encoders import RLELosslessEncoder

from prelim.errors import Refused, UnreadableInput
from prelim.images.dicom.codestream import (
    END,
    LOSSY_SYNTAXES,
    SYNTAX_FAMILY,
    Codestream,
    Family,
    check_codestream,
    join_fragments,
    read_codestream,
)
from prelim.images.dicom.rle import decode_rle, is_rle
from prelim.images.jpeg_end import read_segments


def segment(marker: int, body: bytes) -> bytes:
    """A marker segment of JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg(
    frame: int = 0xC0, *, precision: int = 8, components: int = 1, scan: bytes = b"\0\x3f\0", end: bytes = END
) -> bytes:
    """A JPEG of 48 x 40 pixels with one scan whose coded data are "data"."""
    body = struct.pack(">BHHB", precision, 48, 40, components) + b"\1\x11\0" * components
    return (
        b"\xff\xd8"
        + segment(0xE0, b"JFIF\0")
        + segment(0xC4, b"\0" * 17)
        + b"\xff\xff"  # fill bytes before a marker
        + segment(frame, body)
        + segment(0xDA, b"\1\1\0" + scan)
        + b"data"
        + end
    )


def siz(
    size: tuple[int, int] = (40, 48),
    offset: tuple[int, int] = (0, 0),
    tile: tuple[int, int] = (40, 48),
    tile_offset: tuple[int, int] = (0, 0),
    depth: int = 11,
) -> bytes:
    """SOC and SIZ of a JPEG 2000 codestream; sizes are (width, height)."""
    return b"\xff\x4f\xff\x51" + struct.pack(">HH8LHBBB", 41, 0, *size, *offset, *tile, *tile_offset, 1, depth, 1, 1)


def cod(transformation: int) -> bytes:
    """The COD segment; its last byte is the transformation."""
    return b"\xff\x52" + struct.pack(">HBBHBBBBBB", 12, 0, 0, 1, 0, 5, 4, 4, 0, transformation)


def tile_part(number: int = 0, length: int | None = None, data: bytes = b"coded") -> bytes:
    """One tile-part: SOT, SOD and data."""
    body = b"\xff\x93" + data
    return b"\xff\x90" + struct.pack(">HHLBB", 10, number, 12 + len(body) if length is None else length, 0, 1) + body


def read(stream: bytes) -> Codestream:
    """The headers of a stream that is one."""
    found = read_codestream(stream)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("frame", "syntaxes", "reversible"),
    [(0xC0, "50 51", False), (0xC1, "51", False), (0xC2, "53 55", False), (0xC3, "57 70", True), (0xF7, "80 81", True)],
)
def test_jpeg(frame: int, syntaxes: str, reversible: bool) -> None:
    """Size, precision and components are those of the frame header, which also tells the process."""
    scan = b"\0\0\0" if frame in (0xC3, 0xF7) else b"\0\x3f\0"
    stream = jpeg(frame, precision=12, components=3, scan=scan)

    found = read(stream + b"\0\0")

    assert found == Codestream(
        family=Family.JPEG_LS if frame == 0xF7 else Family.JPEG,
        data=stream,
        complete=True,
        rows=48,
        columns=40,
        components=3,
        precision=12,
        signed=False,
        reversible=reversible,
        syntaxes=tuple(f"1.2.840.10008.1.2.4.{number}" for number in syntaxes.split()),
    )


@pytest.mark.parametrize(
    ("frame", "scan", "reversible"),
    [
        (0xC3, b"\1\0\0", True),  # predictor 1
        (0xC3, b"\1\0\1", False),  # point transform 1
        (0xC3, b"\1\0\x10", True),  # the upper half of the byte is another parameter
        (0xF7, b"\0\0\0", True),
        (0xF7, b"\2\0\0", False),  # NEAR 2
    ],
)
def test_losses_are_told(frame: int, scan: bytes, reversible: bool) -> None:
    """Lossless JPEG with a point transform and JPEG-LS with NEAR above 0 lose bits."""
    assert read(jpeg(frame, scan=scan)).reversible == reversible


def test_segments_begin_and_end_where_their_markers_say() -> None:
    """ITU-T T.81 B.1.1: fill bytes before a marker, markers without a length, lengths that are too short, a cut end."""
    parts = [b"\xff\xe0\0\4ab", b"\xff\xff", b"\xff\xe1\0\3c", b"\xff\x01", b"\xff\xe2\0\0", b"\xff\xd0\xff\xd7"]
    parts += [b"\xff\xe3\0\1", b"\xff\xe4\0\2"]
    found = list(read_segments(b"\xff\xd8" + b"".join(parts)))
    assert [(marker, end - start) for marker, start, end in found] == [
        (0xE0, 2), (0xE1, 1), (0xE2, 0), (0xE3, 0), (0xE4, 0),
    ]  # fmt: skip
    assert [start for _, start, _ in found] == [6, 14, 21, 29, 33]
    assert list(read_segments(b"\xff\xd8\xff\xe0\0")) == []
    assert list(read_segments(b"\xff\xd8\xff\xe0\0\x09a")) == [(0xE0, 6, 13)]
    assert list(read_segments(b"\xff\xd8a" + parts[0])) == []


def test_segments_that_are_no_frame_headers() -> None:
    """Reserved markers, and those among C0 to CF that define tables, are passed over."""
    for marker in (0xBF, 0xC4, 0xC8, 0xCC, 0xDB, 0xFE):
        stream = b"\xff\xd8" + segment(marker, b"\x0c" * 9) + jpeg()[2:]
        assert read(stream) == dataclasses.replace(read(jpeg()), data=stream)


def test_jpeg_without_its_end() -> None:
    """The data then are all there is."""
    found = read(jpeg(end=b""))

    assert not found.complete
    assert found.data == jpeg(end=b"")


@pytest.mark.parametrize(("size", "whole"), [(5, False), (6, True), (7, True)])
def test_frame_header_that_is_short(size: int, whole: bool) -> None:
    """Six bytes say all that is read of it; without them there is no frame, also where more bytes of them follow."""
    body, scan = (b"\x08\0\x30\0\x28\1\1"[:size], segment(0xDA, b"\1\1\0\0\x3f\0"))
    start = b"\xff\xd8" + segment(0xC0, body)
    if whole:
        # A stream may end where the data of its scan would begin.
        assert read(start + scan).data == start + scan
        assert (read(start + scan).rows, read(start + scan).components) == (48, 1)
        stream = start + scan[:-1]
    else:
        stream = start + scan
    for damaged in (stream, start, start[:-1]):
        with pytest.raises(UnreadableInput, match="no codestream"):
            read_codestream(damaged)


@pytest.mark.parametrize("marker", [0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF])
def test_hierarchical_and_arithmetic_jpeg_are_refused(marker: int) -> None:
    """Valid, and read by no decoder here."""
    with pytest.raises(Refused, match=f"FF{marker:02X}"):
        read_codestream(jpeg(marker))


@pytest.mark.parametrize(
    "stream",
    [
        b"\xff\xd8",
        b"\xff\xd8\xff\xc0\0",
        jpeg().replace(b"\xff\xda", b"\xff\xdb"),
        jpeg()[: jpeg().find(b"\xff\xda") + 5],
        b"\xff\xd8" + segment(0xDA, b"\1\1\0\0\x3f\0") + b"data" + END,
        b"\xff\xd8" + segment(0xC0, b"\x08\0\x30\0\x28")[:9] + segment(0xDA, b"\1\1\0\0\x3f\0"),
        b"\xff\xd8" + b"\0" * 50,
    ],
)
def test_damaged_jpeg(stream: bytes) -> None:
    """A stream without a frame header or a scan is damaged."""
    with pytest.raises(UnreadableInput, match="no codestream"):
        read_codestream(stream)


def test_jpeg_2000() -> None:
    """Size is the reference grid's less the offset; a depth of 11 is 12 bits, its highest bit the sign."""
    stream = siz((45, 50), (5, 2), (45, 50)) + cod(1) + tile_part() + END

    found = read(stream + b"\0\0\0")

    assert found == Codestream(
        Family.JPEG_2000, stream, True, 48, 40, 1, 12, False, True, (
            *(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203)),
        ),
    )  # fmt: skip
    signed = read(siz(depth=0x8B) + cod(0) + tile_part() + END)
    assert (signed.precision, signed.signed, signed.reversible) == (12, True, False)
    assert (read(siz(depth=0x7F)).precision, read(siz(depth=0x7F)).signed) == (128, False)
    assert not read(siz() + tile_part() + END).reversible


def test_jp2_boxes_are_opened() -> None:
    """Files exist with the boxes of a JP2 file around the codestream; other bytes before it are none."""
    stream = siz() + cod(1) + tile_part() + END
    boxes = b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 100

    assert read(boxes + stream).data == stream
    assert read_codestream(b"\0\0\0\x0cJUNK\r\n\x87\n" + b"\0" * 100 + stream) is None
    assert read_codestream(b"anything") is None


@pytest.mark.parametrize(
    "damage", [{"size": (0, 48)}, {"offset": (40, 0)}, {"offset": (0, 48)}, {"tile": (0, 8)}, {"tile": (8, 0)}]
)
def test_empty_jpeg_2000(damage: dict) -> None:
    """A codestream without pixels or with tiles of no size is damaged."""
    with pytest.raises(UnreadableInput, match="empty codestream"):
        read_codestream(siz(**damage))


def test_short_jpeg_2000() -> None:
    """SIZ of one component ends at byte 43."""
    assert read(siz()[:43]).precision == 12
    with pytest.raises(UnreadableInput, match="no codestream"):
        read_codestream(siz()[:42])


def test_tiles_have_a_limit() -> None:
    """ISO/IEC 15444-1 A.4.2 numbers tiles with 16 bits: 65,535 are read, one more is not."""
    assert read(siz((65535, 40), tile=(1, 40))).columns == 65535
    assert read(siz((255, 257), tile=(1, 1))).rows == 257
    for size in ((65536, 40), (65535, 41)):
        with pytest.raises(UnreadableInput, match="more than 65535 tiles"):
            read_codestream(siz(size, tile=(1, 40)))


@pytest.mark.parametrize(
    ("tiles", "after", "complete"),
    [
        (tile_part(), END, True),
        (tile_part(), END + b"\0\0\0", True),
        (tile_part(), b"", True),
        (tile_part(), b"\0\0", True),
        (tile_part(), b"junk", False),
        (tile_part(data=b""), b"", True),  # 14 bytes, the shortest
        (tile_part(length=0), END, True),
        (tile_part(length=0), b"", False),
        (tile_part(length=13), END, True),  # a length that is wrong, and an end nevertheless
        (tile_part(length=13), b"", False),
        (tile_part(length=9999), END, True),
        (tile_part(length=9999), b"", False),
        (b"", END, True),
        (b"", b"", False),
    ],
)
def test_where_jpeg_2000_ends(tiles: bytes, after: bytes, complete: bool) -> None:
    """After its tile-parts, with or without the marker; coded data are cut nowhere."""
    head = siz() + cod(1)

    found = read(head + tiles + after)

    assert found.complete == complete
    assert found.data == (head + tiles + END if complete else head + tiles + after)


def test_all_tiles_must_be_there() -> None:
    """Of two tiles, the second one's part must have come before a missing end marker is forgiven."""
    head = siz(tile=(20, 48)) + cod(1)

    assert not read(head + tile_part(0)).complete
    assert not read(head + tile_part(0) + tile_part(0)).complete
    assert read(head + tile_part(0) + tile_part(1)).complete
    shifted = siz((50, 48), (10, 0), (20, 48), (10, 0)) + cod(1)  # tiles begin at 10: two of them
    assert read(shifted + tile_part(0) + tile_part(1)).complete
    assert not read(shifted + tile_part(0)).complete


def test_fragments() -> None:
    """The first item is the offset table, unless it begins with a codestream; anything else ends the frame."""
    frames = [b"\xff\xd8\xff\xe0one.", b"two."]

    def items(*bodies: bytes) -> bytes:
        return b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(body)) + body for body in bodies)

    assert join_fragments(items(b"", *frames)) == b"".join(frames)
    assert join_fragments(items(b"\0\0\0\0", *frames)) == b"".join(frames)
    assert join_fragments(items(*frames)) == b"".join(frames)
    assert join_fragments(items(b"\xff\x4f\xff\x51abcd")) == b"\xff\x4f\xff\x51abcd"
    assert join_fragments(items(b"", *frames) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)) == b"".join(frames)
    assert join_fragments(items(b"", *frames)[:-1]) == frames[0]
    for cut in range(1, 8):
        assert join_fragments(items(b"", *frames) + items(b"")[:cut]) == b"".join(frames)
    assert join_fragments(b"") == b""
    assert join_fragments(encapsulate_frames([b"abcd"], has_bot=True)) == b"abcd"


def test_a_codestream_must_fit_its_header() -> None:
    """Rows, columns and components are equal; samples have at most the bits that are allocated."""
    stream = read(jpeg(precision=12, components=1))

    check_codestream(stream, 48, 40, 1, 12)
    for rows, columns in ((47, 40), (48, 41)):
        with pytest.raises(UnreadableInput, match="codestream_size"):
            check_codestream(stream, rows, columns, 1, 16)
    for samples, bits in ((3, 16), (1, 11)):
        with pytest.raises(UnreadableInput, match="components of 12 bits"):
            check_codestream(stream, 48, 40, samples, bits)


def test_families_and_losses_of_transfer_syntaxes() -> None:
    """PS3.5 A.4 and PS3.6 table A-1."""
    names = {uid.removeprefix("1.2.840.10008.1.2.4."): family for uid, family in SYNTAX_FAMILY.items()}

    assert {name for name, family in names.items() if family is Family.JPEG} == {"50", "51", "53", "55", "57", "70"}
    assert {name for name, family in names.items() if family is Family.JPEG_LS} == {"80", "81"}
    assert {name for name, family in names.items() if family is Family.JPEG_2000} == {"90", "91", "201", "202", "203"}
    assert {uid.rpartition(".")[2] for uid in LOSSY_SYNTAXES} == {"50", "51", "53", "55", "81", "91", "203"}


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("samples", [1, 3])
def test_rle_is_that_of_pydicom(kind: str, samples: int) -> None:
    """What pydicom encodes is decoded to the same samples: runs, literals, and both bytes of each sample."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, np.iinfo(kind).max, (9, 7, samples), dtype=kind, endpoint=True)
    pixels[3:6] = pixels[3, 0]
    stream = RLELosslessEncoder.encode(
        pixels.squeeze(),
        encoding_plugin="pydicom",
        rows=9,
        columns=7,
        samples_per_pixel=samples,
        number_of_frames=1,
        bits_allocated=8 * pixels.itemsize,
        bits_stored=8 * pixels.itemsize,
        pixel_representation=0,
        planar_configuration=0,
        photometric_interpretation="RGB" if samples == 3 else "MONOCHROME2",
    )

    decoded = decode_rle(stream, 9, 7, samples, pixels.itemsize * 8)

    assert decoded.dtype == pixels.dtype
    assert np.array_equal(decoded, pixels)


def rle(*segments: bytes) -> bytes:
    """An RLE frame of these segments (PS3.5 G.5)."""
    offsets = [64 + sum(map(len, segments[:number])) for number in range(len(segments))]
    return struct.pack("<16L", len(segments), *offsets, *[0] * (15 - len(segments))) + b"".join(segments)


def test_rle_by_hand() -> None:
    """PS3.5 G.3.2: n below 128 copies n + 1 bytes, above it repeats one 257 - n times, and 128 does nothing."""
    assert decode_rle(rle(b"\x02abc\x80\xfez"), 2, 3, 1, 8).ravel().tobytes() == b"abczzz"
    assert decode_rle(rle(b"\xffa\x00b"), 1, 3, 1, 8).ravel().tobytes() == b"aab"
    assert decode_rle(rle(b"\x81x"), 1, 128, 1, 8).ravel().tobytes() == b"x" * 128
    assert decode_rle(rle(b"\x7f" + bytes(range(128))), 1, 128, 1, 8).ravel().tobytes() == bytes(range(128))
    assert decode_rle(rle(b"\x01\x12\x34", b"\x01\x56\x78"), 1, 2, 1, 16).ravel().tolist() == [0x1256, 0x3478]
    # More than is needed is cut off.
    assert decode_rle(rle(b"\x05abcdef"), 1, 2, 1, 8).ravel().tobytes() == b"ab"


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"\1\0\0\0" + b"\0" * 59, "RLE header"),
        (rle(b"\0a", b"\0b"), "RLE header"),
        (rle(b"\1ab")[:4] + struct.pack("<L", 63) + rle(b"\1ab")[8:], "outside of its bytes"),
        (rle(b"\1ab")[:4] + struct.pack("<L", 68) + rle(b"\1ab")[8:], "outside of its bytes"),
        (rle(b"\1a"), "RLE segment of 1 bytes"),
        (rle(b"\0"), "RLE segment of 0 bytes"),
    ],
)
def test_damaged_rle(stream: bytes, message: str) -> None:
    """A wrong number of segments, one outside of the data, and one that is too short are damage."""
    with pytest.raises(UnreadableInput, match=message):
        decode_rle(stream, 1, 2, 1, 8)


@pytest.mark.parametrize(("samples", "bits", "segments"), [(1, 8, 1), (1, 16, 2), (3, 8, 3), (3, 16, 6)])
def test_what_looks_like_rle(samples: int, bits: int, segments: int) -> None:
    """PS3.5 G.5: as many segments as the image needs, the first right after 64 bytes, and no offset of another."""
    stream = rle(*[b"\0a"] * segments)
    assert is_rle(stream, samples, bits)
    assert is_rle(stream[:64], samples, bits)
    assert not is_rle(stream[:63], samples, bits)
    assert not is_rle(stream, samples + 1, bits)
    for place in (0, 4, 4 + 4 * segments, 63):
        assert not is_rle(stream[:place] + bytes([stream[place] ^ 1]) + stream[place + 1 :], samples, bits), place
