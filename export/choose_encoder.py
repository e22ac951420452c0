"""What runs vision.onnx and connector.onnx on a CPU: as model.yaml says, or in the fastest precision that keeps texts.

As with the decoder the order is fixed and no time is measured. Scales of 8 bits are set by every other image. The
encoder is settled before the connector, which is calibrated by the features that it will read.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.quantize_network import quantize_network
from export.reference import Reference
from prelim.archive.archive import CONNECTOR, VISION
from prelim.archive.encoder_config import AUTO, EXACT, FASTEST_FIRST, INT8, EncoderConfig
from prelim.archive.model_config import MeasuredPart, ModelConfig
from prelim.decoders.decoder import Decoder
from prelim.decoders.precision import Moments
from prelim.encoding.network_session import Session, open_connector, open_vision
from prelim.encoding.onnx_session import Array
from prelim.errors import ArchiveError
from prelim.networks.agreement import LIMIT, default_prefixes
from prelim.networks.model_folder import Model
from prelim.networks.trained_decoder import serving_decoder


def wanted_encoder(model: Model) -> EncoderConfig:
    """The encoder that a model folder asks for.

    Raises ArchiveError for `auto` with a gate or a calibration, which are of one precision, and for a connector that is
    not in fp32 with a calibration, which is of one in fp32.
    """
    config, connector = model.config, AUTO if model.confidence is None else "fp32"
    of_one = [name for name, part in (("gate.safetensors", model.gate), ("confidence.json", model.confidence)) if part]
    if config.encoder is None:
        if config.precision != AUTO:
            return EXACT
        # Who leaves the choice to packaging and says nothing of the encoder keeps what is fitted to its features.
        return EncoderConfig(precision="fp32" if of_one else AUTO, connector=connector)
    if config.encoder.precision == AUTO and of_one:
        raise ArchiveError(
            f"encoder.precision is {AUTO}, but {of_one[0]} is of one precision; name that, or remove the file"
        )
    if config.encoder.connector != "fp32" and model.confidence is not None:
        raise ArchiveError(
            f"encoder.connector is {config.encoder.connector}, but confidence.json is of a connector in fp32; name "
            "that, or remove the file"
        )
    return config.encoder


@dataclass(frozen=True)
class _Trial:
    """What a precision of one part changes; see MeasuredPart."""

    changed: float
    together: float
    features: float | None
    embeds: float


_Try = Callable[[EncoderConfig, Path], _Trial]
"""What an encoder changes, one of whose parts is in a file and in another precision."""


@torch.inference_mode()
def settle_encoder(
    model: Model, encoder: EncoderConfig, reference: Reference, moments: Moments | None, folder: Path
) -> tuple[EncoderConfig, MeasuredPart | None, MeasuredPart | None]:
    """Choose precisions where they are `auto`, and measure what they change; the networks get their 8 bits.

    encoder : not EXACT
    moments : by which weights of the decoder are rounded
    folder  : with vision.onnx and connector.onnx in fp32
    returns : the encoder, what its precision changes, and what that of its connector changes; None where nothing else
              than fp32 is tried

    Raises ArchiveError as `open_vision` does.
    """
    decoder = serving_decoder(model.network.decoder, model.config.precision, moments=moments)
    pixels = reference.pixel_values
    exact = encode(folder / VISION, EXACT, pixels[1::2])
    exact_embeds = connect(folder / CONNECTOR, EXACT, exact)

    def share(decoder: Decoder[Any], embeds: Array) -> float:
        return reference.changed(decoder, default_prefixes(model, torch.from_numpy(embeds)))

    def try_vision(tried: EncoderConfig, path: Path) -> _Trial:
        features = encode(path, tried, pixels[1::2])
        embeds = connect(folder / CONNECTOR, EXACT, features)
        alone, together = share(reference.exact, embeds), share(decoder, embeds)
        return _Trial(alone, together, _change(features, exact), _change(embeds, exact_embeds))

    orders = FASTEST_FIRST[reference.processor]
    settled, trials = _settle(encoder, "precision", folder / VISION, pixels[::2], try_vision, orders=orders)
    of_vision = _measured(reference, trials)
    if settled.is_exact("connector"):
        return settled, of_vision, None
    served = encode(folder / VISION, settled, pixels)

    def try_connector(tried: EncoderConfig, path: Path) -> _Trial:
        alone, embeds = (connect(path, tried, features) for features in (exact, served[1::2]))
        return _Trial(share(reference.exact, alone), share(decoder, embeds), None, _change(embeds, exact_embeds))

    settled, trials = _settle(settled, "connector", folder / CONNECTOR, served[::2], try_connector, orders=orders)
    return settled, of_vision, _measured(reference, trials)


def _settle(
    encoder: EncoderConfig,
    part: str,
    file: Path,
    inputs: Array,
    try_out: _Try,
    *,
    orders: Mapping[str, tuple[str, ...]],
) -> tuple[EncoderConfig, dict[str, _Trial]]:
    """Settle the precision of one part, and give the trials of those that were tried.

    part   : its name in EncoderConfig
    file   : in fp32; replaced where it has 8 bits
    inputs : by which scales of 8 bits are set
    orders : of each runtime, what `auto` tries
    """
    named, trials = encoder.precisions[part], {}
    auto, in_fp32 = named == AUTO, dataclasses.replace(encoder, **{part: "fp32"})
    order = orders[encoder.runtime] if auto else (named,)
    for tried in (dataclasses.replace(encoder, **{part: precision}) for precision in order):
        if tried.is_exact(part):
            continue
        with tempfile.TemporaryDirectory(prefix="prelim-") as temporary:
            path, precision = file, tried.precisions[part]
            if precision == INT8:
                path = Path(temporary) / file.name
                quantize_network(file, inputs, path, tried.runtime)
            trial = trials[precision] = try_out(tried, path)
            if not auto or max(trial.changed, trial.together) <= LIMIT:
                for written in Path(temporary).iterdir():
                    shutil.move(written, file.parent / written.name)
                return tried, trials
    return in_fp32, trials


def _change(found: Array, wanted: Array) -> float:
    """Largest change, relative to the largest value."""
    return round(float(np.abs(found - wanted).max() / np.abs(wanted).max()), 4)


def _measured(reference: Reference, trials: Mapping[str, _Trial]) -> MeasuredPart | None:
    if not trials:
        return None
    figures = {
        field.name: {
            precision: value for precision, trial in trials.items() if (value := getattr(trial, field.name)) is not None
        }
        for field in dataclasses.fields(_Trial)
    }
    return MeasuredPart(reference.processor, reference.images, reference.tokens, **figures)


def encode(path: Path, encoder: EncoderConfig, pixel_values: Array) -> Array:
    """image_features of images, as they are served."""
    return _run(open_vision(path, encoder, "cpu", torch.get_num_threads(), packed=True), pixel_values)


def connect(path: Path, encoder: EncoderConfig, image_features: Array) -> Array:
    """image_embeds of images, as they are served."""
    return _run(open_connector(path, encoder, "cpu", torch.get_num_threads(), packed=True), image_features)


def _run(session: Session, batch: Array) -> Array:
    return session.run(torch.from_numpy(np.ascontiguousarray(batch))).numpy()


def describe_encoder(config: ModelConfig) -> list[str]:
    """What runs encoder and connector of an archive, and what that changes, in sentences; empty if nothing else."""
    encoder = config.served_encoder
    parts = (
        ("vision encoder", encoder.precision, "the decoder", config.measured_encoder),
        ("connector", encoder.connector, "encoder and decoder", config.measured_connector),
    )
    return [
        f"On a CPU the {name} runs in {encoder.runtime} {precision}. {_describe(measured, others)}"
        for name, precision, others, measured in parts
        if measured is not None
    ]


def _describe(measured: MeasuredPart, others: str) -> str:
    tried = "; ".join(
        f"{precision} {share:.2%}, with {others} as served {measured.together[precision]:.2%}, largest change of "
        f"{_describe_change(measured, precision)}"
        for precision, share in measured.changed.items()
    )
    return (
        f"Measured on processors {measured.family}: tokens changed of {measured.tokens} that fp32 writes for "
        f"{measured.images} images: {tried}; allowed: {LIMIT:.0%} of the tokens."
    )


def _describe_change(measured: MeasuredPart, precision: str) -> str:
    """Largest changes in the order in which they come about."""
    found = (("image_features", measured.features), ("image_embeds", measured.embeds))
    return ", ".join(f"`{name}` {by[precision]:.2%} of the largest" for name, by in found if precision in by)
