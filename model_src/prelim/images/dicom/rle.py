"""RLE Lossless (PS3.5 annex G).

Written here because pylibjpeg-rle panics on damaged data, which no `except Exception` catches, and pydicom's own
unpacks whatever a segment holds, however much: here only what the image needs.
"""

from __future__ import annotations

from itertools import pairwise
from struct import unpack_from

import numpy as np

from prelim.errors import UnreadableInput
from prelim.images.dicom.codestream import PIXEL_DATA


def is_rle(stream: bytes, samples: int, bits_allocated: int) -> bool:
    """Whether a stream begins with the header of an RLE frame of such an image (PS3.5 G.5)."""
    segments = samples * bits_allocated // 8
    if len(stream) < 64:
        return False
    number, first = unpack_from("<2L", stream)
    return bool(number == segments and first == 64 and not any(stream[4 + 4 * segments : 64]))


def decode_rle(stream: bytes, rows: int, columns: int, samples: int, bits_allocated: int) -> np.ndarray:
    """(rows, columns, samples) uint8 or uint16.

    Raises UnreadableInput (400) if a segment is missing or short.
    """
    width = bits_allocated // 8
    segments = samples * width
    if len(stream) < 64 or unpack_from("<L", stream)[0] != segments:
        raise UnreadableInput(f"{PIXEL_DATA} has a damaged RLE header; expected {segments} segments; send it again")
    ends = pairwise([*unpack_from(f"<{segments}L", stream, 4), len(stream)])
    pixels: np.ndarray = np.zeros((rows * columns, samples), dtype=np.uint8 if width == 1 else np.uint16)
    for number, (start, end) in enumerate(ends):
        if not 64 <= start <= end <= len(stream):
            raise UnreadableInput(f"{PIXEL_DATA} has an RLE segment outside of its bytes: it is damaged; send it again")
        plane = np.frombuffer(_unpack_bits(stream[start:end], rows * columns), dtype=np.uint8)
        # PS3.5 G.2: sample after sample, and the most significant byte of each first.
        sample = pixels[:, number // width]
        pixels[:, number // width] = plane if width == 1 else sample << np.uint16(8) | plane
    return pixels.reshape(rows, columns, samples)


def _unpack_bits(segment: bytes, size: int) -> bytes:
    """The first `size` bytes of an RLE segment (PS3.5 G.3.2)."""
    unpacked, position = bytearray(), 0
    while len(unpacked) < size and position + 1 < len(segment):
        header = segment[position]
        if header < 128:
            unpacked += segment[position + 1 : position + 2 + header]
            position += 2 + header
        elif header > 128:
            unpacked += segment[position + 1 : position + 2] * (257 - header)
            position += 2
        else:
            position += 1
    if len(unpacked) < size:
        raise UnreadableInput(
            f"{PIXEL_DATA} has an RLE segment of {len(unpacked)} bytes; the header says {size}: it is truncated or "
            "damaged; send it again"
        )
    return bytes(unpacked[:size])
