"""Small files that ask for gigabytes, each with the exception it must get; run as a script, under a memory limit.

python -m tests.hostile_files LIMIT_IN_BYTES
"""

import resource
import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from pydicom.uid import JPEG2000Lossless, RLELossless

from prelim.errors import InputError
from prelim.images.radiograph import InputConfig, recognize, render
from tests.dicom_files import body_of, deflate, encapsulate, make_dicom, phantom

EMPTY_ITEM = b"\xfe\xff\x00\xe0\0\0\0\0"


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return one chunk of a PNG file."""
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))


def png(width: int, height: int, extra: bytes = b"", pixels: bytes = b"") -> bytes:
    """Return an 8-bit gray PNG with this header, whatever its pixels."""
    header = png_chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0))
    image = png_chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + header + extra + image + png_chunk(b"IEND", b"")


def jpeg(scans: int = 1, size: tuple[int, int] | None = None) -> bytes:
    """Return a progressive JPEG with its last scan repeated, or with another size in its header."""
    buffer = BytesIO()
    Image.fromarray(phantom(bits=8).astype(np.uint8)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data[data.rfind(b"\xff\xda") : -2]
    data = data[:-2] + last * (scans - 1) + data[-2:]
    if size is not None:
        frame = data.find(b"\xff\xc2") + 5
        data = data[:frame] + struct.pack(">HH", *size) + data[frame + 4 :]
    return data


def tiff(width: int, height: int) -> bytes:
    """Return a TIFF whose header claims this size."""
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (278, 4, height),
        (279, 4, 64),
    ]
    entries = b"".join(struct.pack("<HHLL", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<L", 72) + bytes(64) + struct.pack("<H", len(tags)) + entries + bytes(4)


def deep_png(width: int, height: int, pixels: bytes) -> bytes:
    """Return an RGBA PNG of 16 bits with this header, whatever its pixels."""
    header = png_chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 16, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(pixels, 9)) + png_chunk(b"IEND", b"")


def deep_tiff(samples: np.ndarray, *changes: tuple[int, int], **options: object) -> bytes:
    """Return the TIFF of samples, little-endian, with these values of tags of its directory changed."""
    buffer = BytesIO()
    tifffile.imwrite(buffer, samples, metadata=None, **options)
    data = buffer.getvalue()
    for tag, value in changes:
        (start,) = struct.unpack_from("<L", data, 4)
        (number,) = struct.unpack_from("<H", data, start)
        entries = range(start + 2, start + 2 + 12 * number, 12)
        (entry,) = (entry for entry in entries if struct.unpack_from("<H", data, entry)[0] == tag)
        data = data[: entry + 8] + struct.pack("<L", value) + data[entry + 12 :]
    return data


def endless_tiff() -> bytes:
    """Return a TIFF whose only page is followed by itself."""
    data = deep_tiff(phantom())
    (start,) = struct.unpack_from("<L", data, 4)
    (number,) = struct.unpack_from("<H", data, start)
    end = start + 2 + 12 * number
    return data[:end] + struct.pack("<L", start) + data[end + 4 :]


def long_tag(data: bytes, count: int) -> bytes:
    """Return a TIFF whose Software claims so many characters."""
    (start,) = struct.unpack_from("<L", data, 4)
    entry = data.find(struct.pack("<HH", 305, 2), start)
    return data[: entry + 4] + struct.pack("<L", count) + data[entry + 8 :]


def webp(width: int, height: int) -> bytes:
    """Return an extended WebP whose canvas has this size."""
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"VP8X" + struct.pack("<L", 10) + bytes(4) + canvas + b"VP8L" + struct.pack("<L", 8) + b"\x2f" + bytes(7)
    return b"RIFF" + struct.pack("<L", len(chunks) + 4) + b"WEBP" + chunks


def jpeg2000(width: int, height: int, tile: int) -> bytes:
    """Return a JPEG 2000 codestream of one empty tile that claims this size."""
    siz = struct.pack(">HLLLLLLLLHBBB", 0, width, height, 0, 0, tile, tile, 0, 0, 1, 7, 1, 1)
    cod = bytes([0, 0, 0, 1, 0, 5, 4, 4, 0, 0])
    qcd = bytes([0x40, *([0x40] * 16)])
    segments = [(b"\xff\x51", siz), (b"\xff\x52", cod), (b"\xff\x5c", qcd)]
    head = b"\xff\x4f" + b"".join(marker + struct.pack(">H", len(body) + 2) + body for marker, body in segments)
    return head + b"\xff\x90" + struct.pack(">HHLBB", 10, 0, 0, 0, 1) + b"\xff\x93\xff\xd9"


def sequences(depth: int) -> bytes:
    """Return undefined-length sequences, (0008,1140), each in an item of the one before."""
    return (b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * depth


def with_elements(elements: bytes) -> bytes:
    """Return the phantom's file with these elements in front of its own."""
    data = make_dicom()
    start = len(data) - len(body_of(data))
    return data[:start] + elements + data[start:]


def deflated_zeros() -> np.ndarray:
    """Return samples of 100 MB that deflate to 0.1 MB."""
    return np.zeros((5000, 10_000), dtype=np.uint16)


def bombs() -> dict[str, tuple[bytes, int | None]]:
    """Return name, file and the status it must get; None: rendered, because what is large in it is not looked at."""
    zeros = bytes(10**8)
    squeezed = zlib.compress(zeros, 9)
    rle = struct.pack("<16L", 2, 64, 64 + 800, *[0] * 13) + b"\x81\0" * 800
    full_rle = struct.pack("<16L", 2, 64, 64 + 2 * 10**6, *[0] * 13) + b"\x81\0" * 2 * 10**6
    claims = {"Rows": 6000, "Columns": 6000}
    table = b"\x28\x00\x10\x30SQ\0\0" + struct.pack("<L", 8 * 10**6 + 8)
    table += b"\xfe\xff\x00\xe0" + struct.pack("<L", 8 * 10**6) + b"\x08\x00\x05\x00CS\0\0" * 10**6
    return {
        "png_header": (png(20_000, 20_000), 413),
        "png_largest_header": (png(2**31 - 1, 2**31 - 1), 413),
        "png_pixels": (png(48, 48, pixels=zeros), 422),
        "png_profile": (png(48, 48, png_chunk(b"iCCP", b"x\0\0" + squeezed)), 400),
        "png_text": (png(48, 48, png_chunk(b"zTXt", b"x\0\0" + squeezed)), 400),
        "png_many_texts": (png(48, 48, png_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(10**6))) * 2000), 400),
        "jpeg_header": (jpeg(size=(65_000, 65_000)), 413),
        "jpeg_scans": (jpeg(scans=20_000), 400),
        "webp_header": (webp(2**24, 2**24), 413),
        "tiff_header": (tiff(20_000, 20_000), 413),
        "tiff_short": (tiff(6000, 6000), 400),
        "tiff_deep_short": (deep_tiff(phantom(), (256, 6000), (257, 6000), (278, 6000)), 400),
        "tiff_deep_header": (deep_tiff(phantom(), (256, 20_000), (257, 20_000)), 413),
        "tiff_deep_strip": (deep_tiff(deflated_zeros(), (256, 48), (257, 48), (278, 48), compression="zlib"), 400),
        "tiff_tiny_tiles": (deep_tiff(np.zeros((4000, 4000), np.uint16), tile=(16, 16)), 400),
        "tiff_long_tag": (long_tag(deep_tiff(phantom()), 2**32 - 1), None),
        "tiff_endless": (endless_tiff(), None),
        "png_deep_header": (deep_png(20_000, 20_000, b""), 413),
        "png_deep_pixels": (deep_png(48, 48, zeros), 422),
        "png_deep_short": (deep_png(6000, 6000, b"\0" * 48), 400),
        "rows_and_columns": (make_dicom(Rows=65_535, Columns=65_535), 413),
        "rows_without_pixels": (make_dicom(**claims), 400),
        "deflated": (deflate(zeros), 413),
        "deflated_pixels": (deflate(body_of(make_dicom()) + zeros), 413),
        "rle_header": (encapsulate(rle, RLELossless, Rows=30_000, Columns=30_000), 413),
        "rle_short": (encapsulate(rle, RLELossless, **claims), 400),
        "rle_long": (encapsulate(full_rle, RLELossless), 422),
        "jpeg2000_size": (encapsulate(jpeg2000(20_000, 20_000, 20_000), JPEG2000Lossless, bits=8), 400),
        "jpeg2000_honest_size": (
            encapsulate(jpeg2000(20_000, 20_000, 20_000), JPEG2000Lossless, bits=8, Rows=20_000, Columns=20_000),
            413,
        ),
        "jpeg2000_tiles": (
            encapsulate(jpeg2000(6000, 6000, 24), JPEG2000Lossless, bits=8, Rows=6000, Columns=6000),
            400,
        ),
        "nested": (with_elements(sequences(20_000)), 400),
        "nested_in_no_file": (make_dicom()[:132] + sequences(20_000), 400),
        "long_element": (with_elements(b"\x08\x00\x05\x00UT\0\0\xfe\xff\xff\xff"), 400),
        "many_elements": (with_elements(b"\x08\x00\x05\x00CS\0\0" * 10**6), 413),
        "many_meta_elements": (make_dicom()[:132] + b"\x02\x00\x10\x00UI\0\0" * 10**6, 413),
        "many_elements_in_a_table": (with_elements(table), 413),
        "elements_behind_the_pixels": (make_dicom() + b"\xfc\xff\xfc\xffCS\0\0" * 10**6, None),
        "many_fragments": (encapsulate(rle, RLELossless)[: -8 - 2 * 8 - len(rle)] + EMPTY_ITEM * 10**6, 413),
    }


def main() -> None:
    """Print a line for every file that got anything but its status."""
    files = bombs()
    # In this process, so that this limit holds and not that of `decoding_child`. Read once before, so that the limit is
    # on what the files ask for and not on what libraries load.
    render(make_dicom(), "DICOM", InputConfig())
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for name, (data, expected) in files.items():
        try:
            render(data, recognize(data), InputConfig())
            found, message = None, "rendered"
        except InputError as error:
            found, message = error.status, str(error)
        if found != expected:
            sys.stdout.write(f"{name}: {found} instead of {expected}: {message}\n")


if __name__ == "__main__":
    main()
