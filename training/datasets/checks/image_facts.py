"""Every image file read whole, once: is it intact, which image is it, how bright is it."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image
from tqdm import tqdm

from prelim.errors import InputError, NotAnImage, UnreadableInput
from prelim.images.radiograph import InputConfig, read_radiograph
from terminal.program import ignoring_interrupts
from training.datasets.pictures import take_frame

HASH_SIDE = 16
"""The perceptual hash has 16 x 16 bits: see duplicates.py."""

BINS = 64
"""Of the histogram of gray levels."""


@dataclass(frozen=True)
class ImageFacts:
    """What one image file is.

    state     : "intact"; "missing"; "corrupt", cannot be decoded; "refused", the server would not answer it
    reason    : why it is not intact
    digest    : SHA-256 of the file, empty where it is missing
    size      : rows and columns in pixels, and like all below None where the image is not intact
    mean, std : of gray levels in [0, 1]
    histogram : fractions of the pixels, shape (BINS,)
    bits      : perceptual hash, uint64, shape (HASH_SIDE ** 2 / 64,)
    warnings  : first words of what the reader says of it
    """

    path: Path
    state: str
    reason: str = ""
    digest: str = ""
    size: tuple[int, int] | None = None
    mean: float | None = None
    std: float | None = None
    histogram: np.ndarray | None = None
    bits: np.ndarray | None = None
    warnings: tuple[str, ...] = ()


def examine_images(paths: Sequence[Path], jobs: int, frame: int = 0) -> list[ImageFacts]:
    """The facts of every file, in order. `jobs` processes share the work; `frame` is that of Source."""
    examine = partial(examine_image, frame=frame)
    with ExitStack() as stack:
        found: Iterator[ImageFacts] = map(examine, paths)
        if jobs > 1:
            pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
            # After Ctrl-C, images that nobody has begun are left alone.
            stack.callback(pool.shutdown, cancel_futures=True)
            with ignoring_interrupts():
                found = pool.map(examine, paths, chunksize=8)
        return list(tqdm(found, total=len(paths), desc="images", unit="image"))


def examine_image(path: Path, frame: int = 0) -> ImageFacts:
    """Read one file as the server does, with its default limits."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ImageFacts(path, "missing", "there is no such file")
    except OSError as error:
        return ImageFacts(path, "corrupt", f"cannot be read: {error.strerror}")
    digest = hashlib.sha256(data).hexdigest()
    try:
        radiograph = read_radiograph(take_frame(data, frame) if frame else data, InputConfig())
    except InputError as error:
        state = "corrupt" if isinstance(error, (UnreadableInput, NotAnImage)) else "refused"
        return ImageFacts(path, state, str(error), digest)
    pixels = radiograph.pixels
    counts, _ = np.histogram(pixels, bins=BINS, range=(0, 1))
    return ImageFacts(
        path,
        "intact",
        digest=digest,
        size=(pixels.shape[0], pixels.shape[1]),
        mean=float(pixels.mean()),
        std=float(pixels.std()),
        histogram=(counts / counts.sum()).astype(np.float32),
        bits=perceptual_hash(Image.fromarray((pixels * 255).round().astype(np.uint8))),
        warnings=tuple(warning.partition(":")[0] for warning in radiograph.warnings),
    )


def perceptual_hash(image: Image.Image) -> np.ndarray:
    """The signs of the 16 x 16 lowest DCT coefficients about their median (pHash), of the image stretched to 64 x 64.

    image   : 8-bit gray
    returns : uint64, shape (4,)
    """
    bits = imagehash.phash(image, hash_size=HASH_SIDE).hash
    return np.packbits(bits.ravel()).view(np.uint64)
