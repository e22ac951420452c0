"""`precision: auto`: the fastest precision of this kind of processor that keeps what a model writes.

The order is fixed and no time is measured, so the same model and images give the same archive on the same kind of
processor. Weights of 8 bits are rounded by what the layers read when fp32 writes the reports of every other image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from prelim.archive.model_config import AUTO, ChosenPrecision
from prelim.decoders.precision import FASTEST_FIRST, Moments
from prelim.errors import ArchiveError, InputError
from prelim.kernels import family
from prelim.networks.agreement import LIMIT, Reading, RealModel, read, real_model, write
from prelim.networks.model_folder import Model
from prelim.networks.moments import input_moments
from prelim.networks.trained_decoder import serving_decoder

MOST_IMAGES = 100
"""More images of a folder are left out, evenly."""

_FEWEST_IMAGES = 2
"""One for rounding, one for measuring."""


@dataclass(frozen=True)
class Choice:
    """A precision with its figures, and by what weights of 8 bits are rounded."""

    chosen: ChosenPrecision
    moments: Moments


def choose_precision(model: Model, folder: Path | None) -> Choice:
    """The first precision that changes at most LIMIT of the tokens that fp32 writes for the images of a folder.

    Raises ArchiveError if there are fewer than two images, or one that cannot be read.
    """
    if folder is None:
        raise ArchiveError(f"precision is {AUTO}, which is chosen by reports: pass --images FOLDER with radiographs")
    files = sorted(path for path in folder.glob("*") if path.is_file())
    if len(files) < _FEWEST_IMAGES:
        raise ArchiveError(f"--images {folder} has {len(files)} files; it needs two radiographs or more, better 100")
    chosen = [files[i * len(files) // MOST_IMAGES] for i in range(MOST_IMAGES)] if len(files) > MOST_IMAGES else files
    try:
        return choose_by(real_model(model, [path.read_bytes() for path in chosen], f"{folder.name}"))
    except InputError as error:
        raise ArchiveError(f"--images {folder}: {error}") from error


@torch.inference_mode()
def choose_by(model: RealModel) -> Choice:
    """`choose_precision` by a model's prefixes: one half is for rounding, the other for measuring what it changes."""
    exact = serving_decoder(model.decoder)
    texts = write(exact, model, model.prefixes, beams=1)
    moments = input_moments(model.decoder, model.prefixes[::2], texts[::2])
    prefixes, texts = model.prefixes[1::2], texts[1::2]
    wanted = read(exact, model, prefixes, texts)
    changed: dict[str, float] = {}
    for precision in FASTEST_FIRST[family()]:
        decoder = serving_decoder(model.decoder, precision, moments=moments)
        changed[precision] = _share(wanted, read(decoder, model, prefixes, texts))
        if changed[precision] <= LIMIT:
            break
    else:
        precision = "fp32"
    return Choice(ChosenPrecision(precision, family(), len(texts), sum(map(len, texts)), changed), moments)


def _share(wanted: Sequence[Reading], found: Sequence[Reading]) -> float:
    """Share of tokens whose choice is another."""
    unlike = torch.cat([a.choices != b.choices for a, b in zip(wanted, found, strict=True)])
    return round(float(unlike.float().mean()), 6)


def describe(chosen: ChosenPrecision) -> str:
    """The choice in a sentence."""
    shares = ", ".join(f"{precision} {share:.2%}" for precision, share in chosen.changed.items())
    return (
        f"`{chosen.precision}` was chosen for processors {chosen.family}: tokens changed of {chosen.tokens} that fp32 "
        f"writes for {chosen.images} images: {shares}; allowed: {LIMIT:.0%}."
    )
