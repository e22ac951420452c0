"""What runs vision.onnx on a CPU: as model.yaml says, or in the fastest precision that keeps what a model writes.

As with the decoder the order is fixed and no time is measured. Scales of 8 bits are set by every other image.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from export.quantize_vision import quantize_vision
from export.reference import Reference
from prelim.archive.archive import VISION
from prelim.archive.encoder_config import AUTO, EXACT, FASTEST_FIRST, EncoderConfig
from prelim.archive.model_config import MeasuredEncoder
from prelim.decoders.precision import Moments
from prelim.encoding.onnx_session import Array
from prelim.encoding.vision_session import open_vision
from prelim.errors import ArchiveError
from prelim.kernels import family
from prelim.networks.agreement import LIMIT, connect
from prelim.networks.model_folder import Model
from prelim.networks.trained_decoder import serving_decoder


def wanted_encoder(model: Model) -> EncoderConfig:
    """The encoder that a model folder asks for.

    Raises ArchiveError for `auto` with a gate or a calibration, which are of one precision.
    """
    config = model.config
    of_one = [name for name, part in (("gate.safetensors", model.gate), ("confidence.json", model.confidence)) if part]
    if config.encoder is None:
        # Who leaves the choice to packaging and says nothing of the encoder keeps what is fitted to its features.
        return EncoderConfig(precision=AUTO) if config.precision == AUTO and not of_one else EXACT
    if config.encoder.precision == AUTO and of_one:
        raise ArchiveError(
            f"encoder.precision is {AUTO}, but {of_one[0]} is of one precision; name that, or remove the file"
        )
    return config.encoder


@dataclass(frozen=True)
class _Trial:
    """What a precision changes: share of tokens, with the decoder in fp32 and in its own; relative, of features."""

    changed: float
    together: float
    features: float


@torch.inference_mode()
def settle_encoder(
    model: Model, encoder: EncoderConfig, reference: Reference, moments: Moments | None, folder: Path
) -> tuple[EncoderConfig, MeasuredEncoder | None]:
    """Choose a precision where it is `auto`, and measure what it changes; vision.onnx gets its 8 bits.

    encoder : not EXACT
    moments : by which weights of the decoder are rounded
    folder  : with vision.onnx in fp32
    returns : the encoder, and what it changes; None where nothing else than fp32 is tried

    Raises ArchiveError as `open_vision` does.
    """
    auto = encoder.precision == AUTO
    order = FASTEST_FIRST[family()][encoder.runtime] if auto else (encoder.precision,)
    decoder = serving_decoder(model.network.decoder, model.config.precision, moments=moments)
    image_features = encode(folder / VISION, EXACT, reference.pixel_values[1::2])
    trials: dict[str, _Trial] = {}
    settled = EncoderConfig(encoder.runtime)
    for precision in order:
        tried = EncoderConfig(encoder.runtime, precision)
        with tempfile.TemporaryDirectory(prefix="prelim-") as temporary:
            path = folder / VISION
            if tried.is_quantized:
                path = Path(temporary) / VISION
                quantize_vision(folder / VISION, reference.pixel_values[::2], path, tried.runtime)
            found = encode(path, tried, reference.pixel_values[1::2])
            prefixes = connect(model, torch.from_numpy(found))
            trial = trials[precision] = _Trial(
                reference.changed(reference.exact, prefixes),
                reference.changed(decoder, prefixes),
                round(float(np.abs(found - image_features).max() / np.abs(image_features).max()), 4),
            )
            if not auto or max(trial.changed, trial.together) <= LIMIT:
                settled = tried
                for file in Path(temporary).iterdir():
                    shutil.move(file, folder / file.name)
                break
    return settled, _measured(reference, trials) if trials else None


def _measured(reference: Reference, trials: Mapping[str, _Trial]) -> MeasuredEncoder:
    figures = {name: {p: getattr(trial, name) for p, trial in trials.items()} for name in _TRIED}
    return MeasuredEncoder(family(), reference.images, reference.tokens, **figures)


_TRIED = tuple(field.name for field in dataclasses.fields(_Trial))


def encode(path: Path, encoder: EncoderConfig, pixel_values: Array) -> Array:
    """image_features of images, one at a time, as they are served."""
    session = open_vision(path, encoder, "cpu", torch.get_num_threads(), packed=True)
    return np.concatenate([session.run(pixels[None]) for pixels in pixel_values])


def describe_encoder(encoder: EncoderConfig, measured: MeasuredEncoder) -> str:
    """What runs the encoder, and what that changes, in sentences."""
    tried = "; ".join(
        f"{precision} {share:.2%}, with the decoder in its precision {measured.together[precision]:.2%}, largest "
        f"change of `image_features` {measured.features[precision]:.2%} of the largest"
        for precision, share in measured.changed.items()
    )
    return (
        f"On a CPU the vision encoder runs in {encoder}. Measured on processors {measured.family}: tokens changed of "
        f"{measured.tokens} that fp32 writes for {measured.images} images: {tried}; allowed: {LIMIT:.0%} of the tokens."
    )
