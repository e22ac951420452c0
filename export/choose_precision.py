"""What precisions change of the reports of a model; `precision: auto`, the fastest that keeps what it writes.

The order is fixed and no time is measured, so the same model and images give the same archive on the same kind of
processor, and for GPUs on any. Weights of few bits are rounded by what the layers read when fp32 writes the reports of
every other image, those of a precision that is named too.
"""

from dataclasses import dataclass

import torch

from export.reference import Reference
from prelim.archive.model_config import ChosenPrecision
from prelim.decoders.precision import FASTEST_FIRST, Moments
from prelim.networks.agreement import LIMIT
from prelim.networks.trained_decoder import serving_decoder


@dataclass(frozen=True)
class Choice:
    """A precision with its figures, and by what weights of few bits are rounded."""

    chosen: ChosenPrecision
    moments: Moments


@torch.inference_mode()
def choose_by(reference: Reference, named: str | None = None) -> Choice:
    """The first precision of the decoder that changes at most LIMIT of the tokens that fp32 writes.

    named : is taken instead, and what it changes is measured
    """
    moments = reference.moments()
    changed: dict[str, float] = {}
    for precision in FASTEST_FIRST[reference.processor] if named is None else (named,):
        changed[precision] = reference.changed(serving_decoder(reference.model.decoder, precision, moments=moments))
        if changed[precision] <= LIMIT or named is not None:
            break
    else:
        precision = "fp32"
    return Choice(ChosenPrecision(precision, reference.processor, reference.images, reference.tokens, changed), moments)


def describe(chosen: ChosenPrecision) -> str:
    """The choice in a sentence."""
    shares = ", ".join(f"{precision} {share:.2%}" for precision, share in chosen.changed.items())
    kept = chosen.changed.get(chosen.precision, 0) <= LIMIT
    how, limit = ("chosen", "allowed") if kept else ("wanted", "allowed for a default")
    return (
        f"`{chosen.precision}` was {how} for processors {chosen.family}: tokens changed of {chosen.tokens} that fp32 "
        f"writes for {chosen.images} images: {shares}; {limit}: {LIMIT:.0%}."
    )
