"""How far apart may two perceptual hashes be? Pairs found in a data set against copies that were made of its images.

$ python -m training.datasets.checks.calibrate open_radiology ../shared/data/open_radiology

A pair across splits or patients is a false alarm where the data set is known to be clean; look at them before trusting
that. Prints one line for each hash and distance.
"""

import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from terminal.arguments import CommandLine, positive
from training.datasets import read_studies
from training.datasets.checks.duplicates import near_pairs
from training.datasets.study import DatasetError

Change = Callable[[Image.Image], Image.Image]

HASHES: dict[str, tuple[Callable[[Image.Image], imagehash.ImageHash], tuple[int, ...]]] = {
    "average, 64 bits": (imagehash.average_hash, (0, 2, 4)),
    "gradient, 64 bits": (imagehash.dhash, (0, 2, 4, 6)),
    "wavelet, 64 bits": (imagehash.whash, (0, 2, 4)),
    "DCT, 64 bits": (imagehash.phash, (2, 4, 6, 8)),
    "gradient, 256 bits": (lambda image: imagehash.dhash(image, 16), (16, 24, 32)),
    "DCT, 256 bits": (lambda image: imagehash.phash(image, 16), (16, 24, 32, 40, 48)),
}
"""Hash, and the distances that it is tried with."""


def _recompress(image: Image.Image, quality: int) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("L")


def _crop(image: Image.Image, fraction: float) -> Image.Image:
    x, y = round(image.width * fraction), round(image.height * fraction)
    return image.crop((x, y, image.width - x, image.height - y))


def _map_gray(image: Image.Image, change: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    return Image.fromarray((change(np.asarray(image) / 255).clip(0, 1) * 255).astype(np.uint8))


CHANGES: dict[str, Change] = {
    "JPEG 50": lambda image: _recompress(image, 50),
    "halved": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC),
    "stretched": lambda image: image.resize((224, 224), Image.Resampling.BILINEAR),
    "brighter": lambda image: _map_gray(image, lambda gray: gray * 1.2 + 0.06),
    "gamma 0.6": lambda image: _map_gray(image, lambda gray: gray**0.6),
    "equalized": ImageOps.equalize,
    "cropped 2 %": lambda image: _crop(image, 0.02),
}
"""What happens to an image between two data sets."""


def calibrate(paths: list[Path], splits: list[str | None], patients: list[str], copies: int) -> list[str]:
    """The lines of a Markdown table. `copies` of the images, drawn with a fixed seed, are changed in every way."""
    changed = set(np.random.default_rng(0).permutation(len(paths))[:copies].tolist())
    own: dict[str, list[np.ndarray]] = {name: [] for name in HASHES}
    made: dict[tuple[str, str], list[np.ndarray]] = {(name, change): [] for name in HASHES for change in CHANGES}
    for i, path in enumerate(tqdm(paths, unit="image")):
        with Image.open(path) as file:
            image = file.convert("L")
        variants = {change: make(image) for change, make in CHANGES.items()} if i in changed else {}
        for name, (hash_of, _) in HASHES.items():
            own[name].append(_words(hash_of(image)))
            for change, variant in variants.items():
                made[name, change].append(_words(hash_of(variant)))
    split, patient = np.array([name or "" for name in splits]), np.array(patients)
    lines = [f"| hash | distance | pairs across splits | across patients | {' | '.join(CHANGES)} |"]
    lines.append("|---" * (len(CHANGES) + 4) + "|")
    for name, (_, distances) in HASHES.items():
        bits, originals = np.stack(own[name]), np.stack([own[name][i] for i in sorted(changed)])
        pairs = near_pairs(bits, max(distances))
        for distance in distances:
            one, other = pairs[pairs[:, 2] <= distance, :2].T
            alarms = [int((of[one] != of[other]).sum()) for of in (split, patient)]
            found = [
                np.bitwise_count(originals ^ np.stack(made[name, change])).sum(axis=1) <= distance for change in CHANGES
            ]
            lines.append(
                f"| {name} | {distance} | {' | '.join([*map(str, alarms), *(f'{f.mean():.3f}' for f in found)])} |"
            )
    return lines


def _words(found: imagehash.ImageHash) -> np.ndarray:
    return np.packbits(found.hash.ravel()).view(np.uint64)


def main() -> None:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("format")
    parser.add_argument("path", type=Path)
    parser.add_argument("--images", type=Path, help="folder of the images")
    parser.add_argument("--copies", type=positive, default=1000)
    arguments = parser.parse_args()
    try:
        studies = read_studies(arguments.format, arguments.path, arguments.images)
    except DatasetError as error:
        sys.exit(str(error))
    images = {image: study for study in studies for image in study.images if image.is_file()}
    splits, patients = [s.split for s in images.values()], [s.unit for s in images.values()]
    print("\n".join(calibrate(list(images), splits, patients, arguments.copies)))


if __name__ == "__main__":
    main()
