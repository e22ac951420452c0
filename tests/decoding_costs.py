"""What every decoding path costs at the pixel limit: CPU time and memory of this process and all below it.

    python -m tests.decoding_costs             # a Markdown table, as in docs/decisions/0016, in about three minutes
    python -m tests.decoding_costs --only tiff # the paths whose names begin so

CPU seconds are those of `read_radiograph`, children included. Memory is the highest sum of proportional set sizes over
that before the file was read, plus the memory files that hand over file and pixels. Both are measured in runs of their
own, since looking at memory costs CPU time.
"""

import os
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO

import imagecodecs
import numpy as np
import psutil
import tifffile
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from benchmarks.memory.process_memory import PeakMemory, memory_of_tree
from prelim.errors import InputError
from prelim.images.radiograph import InputConfig, read_radiograph
from terminal.arguments import CommandLine
from tests.dicom_files import body_of, compress, compress_by_gdcm, deflate, encapsulate, lut_item, make_dicom

LIMIT = InputConfig().max_pixels
SIDE = int(LIMIT**0.5)
MEGABYTE = 2**20


@dataclass(frozen=True)
class Cost:
    """Of one file. cpu_s : seconds; memory : bytes over the start; outcome : "rendered", or status and first words."""

    cpu_s: float
    memory: int
    outcome: str


def noisy(side: int, bits: int = 12) -> np.ndarray:
    """Return (side, side) uint16: soft shapes with the noise of a detector, which no codec compresses away."""
    y, x = np.ogrid[0:side, 0:side]
    shapes = 0.5 + 0.4 * np.sin(x * 9 / side, dtype=np.float32) * np.cos(y * 12 / side, dtype=np.float32)
    shapes += np.random.default_rng(5).normal(0, 0.003, (side, side)).astype(np.float32)
    return (shapes.clip(0, 1) * (2**bits - 1)).astype(np.uint16)


def pillow(pixels: np.ndarray, kind: str, mode: str | None = None, **options: object) -> bytes:
    """Return the file that Pillow writes."""
    buffer, image = BytesIO(), Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(samples: np.ndarray, **options: object) -> bytes:
    """Return the file that tifffile writes."""
    buffer = BytesIO()
    tifffile.imwrite(buffer, samples, metadata=None, **options)
    return buffer.getvalue()


def repeated_scans(data: bytes, scans: int) -> bytes:
    """Return a progressive JPEG with its last scan so many times."""
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + last * (scans - 1) + data[-2:]


def text_chunks(png: bytes, number: int) -> bytes:
    """Return a PNG with texts of a megabyte each, compressed, after its header."""
    body = b"zTXtx\0\0" + zlib.compress(bytes(10**6), 9)
    chunk = struct.pack(">L", len(body) - 4) + body + struct.pack(">L", zlib.crc32(body))
    return png[:33] + chunk * number + png[33:]


def rasters(side: int) -> dict[str, Callable[[], bytes]]:
    """Return PNG, JPEG, WebP and TIFF files of side x side pixels, by name."""
    deep = noisy(side)
    eight = (deep >> 4).astype(np.uint8)
    color = np.dstack([eight, eight, eight])
    floats = deep.astype(np.float32) + np.float32(0.25)
    ramp = np.arange(side * side, dtype=np.float32).reshape(side, side)
    rgba = np.dstack([deep, deep, deep, np.full_like(deep, 65535)])
    plain = pillow(np.full_like(eight, 80), "JPEG", progressive=True, quality=90)
    strips = {"compression": "zlib", "rowsperstrip": 1}
    return {
        "png 8-bit": lambda: pillow(eight, "PNG", compress_level=1),
        "png 8-bit RGB": lambda: pillow(color, "PNG", compress_level=1),
        "png 8-bit RGBA": lambda: pillow(eight, "PNG", "RGBA", compress_level=1),
        "png palette": lambda: pillow(eight, "PNG", "P", compress_level=1),
        "png with 30 texts of 1 MB": lambda: text_chunks(pillow(eight, "PNG", compress_level=1), 30),
        "png 16-bit": lambda: imagecodecs.png_encode(deep, level=1),
        "png 16-bit RGBA of one color": lambda: imagecodecs.png_encode(rgba // 4096 * 4096, level=1),
        "jpeg baseline RGB": lambda: pillow(color, "JPEG", quality=95),
        "jpeg CMYK": lambda: pillow(eight, "JPEG", "CMYK", quality=90),
        "jpeg progressive RGB": lambda: pillow(color, "JPEG", quality=95, progressive=True),
        "jpeg progressive, 99 scans": lambda: repeated_scans(plain, 90),
        "webp": lambda: pillow(color, "WEBP", quality=90, method=0),
        "webp lossless": lambda: pillow(color, "WEBP", lossless=True, quality=0, method=0),
        "webp lossless with alpha": lambda: pillow(eight, "WEBP", "RGBA", lossless=True, quality=0, method=0),
        "tiff 8-bit LZW": lambda: tiff(eight, compression="lzw"),
        "tiff 8-bit JPEG": lambda: pillow(eight, "TIFF", compression="jpeg"),
        "tiff 1-bit group 4": lambda: pillow(eight, "TIFF", "1", compression="group4"),
        "tiff signed 8-bit": lambda: tiff(eight.view(np.int8)),
        "tiff 16-bit LZW": lambda: tiff(deep >> 2, compression="lzw"),
        "tiff 16-bit big-endian, Deflate": lambda: tiff(deep, compression="zlib", byteorder=">", predictor=True),
        "tiff 16-bit, a strip for a row": lambda: tiff(deep, **strips),
        "tiff 16-bit, tiles of 32 x 32": lambda: tiff(deep, compression="zlib", tile=(32, 32)),
        "tiff 16-bit, tiles of 16 x 16": lambda: tiff(deep >> 4, tile=(16, 16), compression="zlib"),
        "tiff 16-bit RGB, Deflate": lambda: tiff(np.dstack([deep] * 3) // 256 * 256, photometric="rgb", **strips),
        "tiff 32-bit, Deflate": lambda: tiff(deep.astype(np.int32), compression="zlib"),
        "tiff float, Deflate": lambda: tiff(floats, compression="zlib", rowsperstrip=16),
        "tiff float ramp, Deflate with predictor": lambda: tiff(ramp, compression="zlib", predictor=True),
        "tiff float64": lambda: tiff(ramp[: side // 4].astype(np.float64), compression="zlib"),
    }


def dicoms(side: int) -> dict[str, Callable[[], bytes]]:
    """Return DICOM files of side x side pixels, by name; the native ones of as many rows as `max_bytes` allows."""
    deep = noisy(side)
    eight = (deep >> 4).astype(np.uint8)
    native = deep[: min(side, (InputConfig().max_bytes - MEGABYTE) // (2 * side))]
    white = np.random.default_rng(6).integers(0, 256, native.shape, dtype=np.uint16) * 257
    tables = [lut_item(0, np.arange(4096), 12)]
    no_window = ("WindowCenter", "WindowWidth")
    return {
        "dicom native 16-bit": lambda: make_dicom(native),
        "dicom native 16-bit, no window": lambda: make_dicom(native, bits=16, drop=no_window),
        "dicom native, Modality and VOI LUT": lambda: make_dicom(
            native, ModalityLUTSequence=tables, VOILUTSequence=tables
        ),
        "dicom deflated": lambda: deflate(body_of(make_dicom(native))),
        "dicom RLE": lambda: compress(deep, RLELossless),
        "dicom RLE of noise": lambda: compress(white, RLELossless, bits=16),
        "dicom JPEG": lambda: encapsulate(
            pillow(eight, "JPEG", quality=95), "1.2.840.10008.1.2.4.50", eight.shape, bits=8
        ),
        "dicom JPEG Lossless": lambda: compress_by_gdcm(native, "1.2.840.10008.1.2.4.70"),
        "dicom JPEG-LS": lambda: compress(deep, JPEGLSLossless),
        "dicom JPEG 2000": lambda: compress(deep, JPEG2000Lossless),
        "dicom JPEG 2000, 10 megapixels": lambda: compress(deep[: side // 2, : side // 2], JPEG2000Lossless),
        "dicom JPEG 2000 of white noise, half the rows": lambda: compress(
            white[: side // 2], JPEG2000Lossless, bits=16
        ),
        "dicom truncated to half": lambda: make_dicom(native)[: native.nbytes // 2],
    }


def children_cpu_s() -> float:
    """Return the CPU seconds of all processes below this one, those that have ended included."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(time.user + time.system + time.children_user + time.children_system for time in times)


def read(data: bytes, config: InputConfig) -> str:
    """Return the outcome of reading a file."""
    try:
        read_radiograph(data, config)
    except InputError as error:
        return f"{error.status}: {str(error)[:60]}"
    return "rendered"


def measure(data: bytes, config: InputConfig) -> Cost:
    """Read a file twice, for its CPU time and for its memory."""
    before = children_cpu_s() + time.process_time()
    outcome = read(data, config)
    cpu_s = children_cpu_s() + time.process_time() - before
    start = memory_of_tree(os.getpid()).pss
    with PeakMemory(os.getpid(), interval=0.005) as memory:
        read(data, config)
    return Cost(cpu_s, memory.peak.pss - start + len(data), outcome)


def costs(files: dict[str, Callable[[], bytes]], config: InputConfig) -> Iterator[tuple[str, int, Cost]]:
    """Yield name, bytes and cost of every file."""
    # The decoding process is started by the first file and not part of its cost.
    read(pillow(np.arange(4096, dtype=np.uint16).reshape(64, 64), "PNG"), config)
    for name, make in files.items():
        data = make()
        yield name, len(data), measure(data, config)


def main() -> None:
    """Print the table."""
    parser = CommandLine("CPU time and memory of every decoding path.")
    parser.add_argument("--side", type=int, default=SIDE, help="of the square images, in pixels")
    parser.add_argument("--only", default="", help="how the names of the paths begin")
    parser.add_argument("--render", default="voi", help="input.render of model.yaml")
    options = parser.parse_args()
    config = InputConfig(render=options.render)
    sys.stdout.write("| file | MB | CPU s | memory MB | outcome |\n|---|---:|---:|---:|---|\n")
    for make in (rasters, dicoms):
        files = {name: file for name, file in make(options.side).items() if name.startswith(options.only)}
        for name, size, cost in costs(files, config):
            figures = f"{size / MEGABYTE:.1f} | {cost.cpu_s:.2f} | {cost.memory / MEGABYTE:.0f}"
            sys.stdout.write(f"| {name} | {figures} | {cost.outcome} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
