"""Converts the weights of published checkpoints to our keys and shapes."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from export.checkpoints.bitsandbytes_weights import dequantize_weights
from export.checkpoints.checkpoint import GGUF, JSON, read_checkpoint, read_settings
from export.checkpoints.lora import adapted_layers, keep_adapters, merge_adapters
from export.checkpoints.source import Source
from prelim.decoders.weights_file import LazyTensor, materialize
from prelim.errors import ArchiveError
from prelim.networks.architectures.architecture import Published, Section

Weights = Mapping[str, Tensor | LazyTensor]
Settings = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ImportRecord:
    """A log of an import, printed and also written to the model card.

    ignored : published key -> the reason why it is ignored
    notes   : other changes to the weights
    """

    ignored: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def ignore(self, keys: Mapping[str, str]) -> None:
        """Add ignored keys."""
        self.ignored.update(keys)
        for key, reason in keys.items():
            print(f"ignored {key}: {reason}")

    def note(self, text: str) -> None:
        """Add a note."""
        self.notes.append(text)
        print(text)


def our_weights(published: Published, tensors: Weights) -> tuple[dict[str, Tensor | LazyTensor], dict[str, str]]:
    """Rename the checkpoint's keys to ours. Also returns the ignored published keys with the reasons."""
    ignored = {key: reason for key in tensors if (reason := published.why_ignored(key))}
    return {published.our_key(key): value for key, value in tensors.items() if key not in ignored}, ignored


def gather_weights(
    published: Published, sources: Sequence[Source], record: ImportRecord
) -> tuple[dict[str, Tensor | LazyTensor], list[dict[str, Any]]]:
    """Read all tensors under their published keys, and all settings, from the sources.

    For a weight that is in several sources the first one is used.

    Raises ArchiveError if a file cannot be read, or if the values of an ignored tied key differ from its counterpart.
    """
    tensors: dict[str, Tensor | LazyTensor] = {}
    settings: list[dict[str, Any]] = []
    for source in sources:
        path = source.path
        settings += read_settings(path)
        stored = {} if path.suffix == JSON else read_checkpoint(path)
        found = dequantize_weights(stored)
        print(f"{source.label}: {len(stored)} tensors")
        if count := sum(value is not stored[key] for key, value in found.items()):
            record.note(f"{source.label}: {count} weights quantized by bitsandbytes were dequantized")
        if path.suffix == GGUF:
            record.note(f"{source.label}: weights quantized by llama.cpp were dequantized")
        weights = our_weights(published, found)[0]
        _check_tied(published, source, found, weights)
        repeated = weights.keys() & our_weights(published, tensors)[0].keys()
        if repeated:
            record.note(f"{source.label}: {len(repeated)} of them were taken from a file given earlier instead")
        # The last entry is used where two published keys map to one weight, so earlier sources go to the end.
        tensors = {**{key: value for key, value in found.items() if key not in tensors}, **tensors}
    return tensors, settings


def _check_tied(published: Published, source: Source, found: Weights, weights: Weights) -> None:
    # Only within one source: another one may have the weights from before fine-tuning.
    for pattern, ours in published.tied.items():
        for key in found:
            repeats = re.search(pattern, key) is not None and ours in weights
            if repeats and not torch.equal(materialize(found[key]), materialize(weights[ours])):
                raise ArchiveError(
                    f"{source.label}: {key} is not equal to {ours}, but the model uses one tensor for both"
                )


def convert_weights(
    published: Published, tensors: Weights, settings: Settings, record: ImportRecord, *, keep_adapter: bool
) -> tuple[dict[str, Tensor | LazyTensor], Section]:
    """Convert the weights to our keys, and merge or keep their adapters.

    keep_adapter : keep low-rank adapters separate instead of merging them
    returns      : the weights, and additions to the section `decoder` of model.yaml

    Raises ArchiveError as `merge_adapters` and `keep_adapters` do.
    """
    weights, ignored = our_weights(published, tensors)
    adapter = next((contents for contents in settings if "lora_alpha" in contents), {})
    layers = adapted_layers(weights)
    added: Section = {}
    if keep_adapter:
        weights, kept = keep_adapters(weights, adapter, published.lora_alpha)
        added = {"adapter": kept}
    else:
        weights = merge_adapters(weights, adapter, published.lora_alpha)
    if layers:
        record.note(
            f"low-rank adapters are {'kept separate from' if keep_adapter else 'merged into'} {len(layers)} layers"
        )
    record.ignore(ignored)
    return weights, added


def decoder_section(published: Published, section: Section, settings: Settings) -> Section:
    """Section `decoder` updated from a config.json of the same model type; null means the default."""
    for contents in settings:
        if contents.get("model_type") == section.get("model_type") is not None:
            found = {name: contents[name] for name in published.decoder_config if contents.get(name) is not None}
            section = {**section, **found}
    return section


def special_tokens(published: Published, decoder: Section, settings: Settings) -> dict[str, Section]:
    """Sections `tokenizer` and `prompt` for a decoder whose vocabulary is not the published one.

    decoder : section of model.yaml
    returns : the published sections with the special tokens of its config.json; empty if the vocabulary is the
              published one, or there is no config.json

    Raises ArchiveError if its config.json has no end-of-text token.
    """
    found = [contents for contents in settings if contents.get("model_type") == decoder.get("model_type") is not None]
    if published.vocabulary in (None, decoder.get("vocab_size")) or not found:
        return {}
    # A value missing in config.json is the model type's default, which the published model uses too.
    own = {**published.defaults["tokenizer"], "pad_token_id": None, **found[-1]}
    start, end, padding = (own[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id"))
    if not isinstance(end, int):
        raise ArchiveError(
            f"eos_token_id is {end!r} in the decoder's config.json; it must be one id, that of the end-of-text "
            f"token, because the published ids are not valid for a vocabulary of {decoder['vocab_size']}"
        )
    tokens = {
        "bos_token_id": end if start is None else start,
        "eos_token_id": end,
        "pad_token_id": end if padding is None else padding,
    }
    prompt = dict(published.defaults["prompt"])
    if "bos_token_id" in prompt:
        prompt["bos_token_id"] = start
    if "start_ids" in prompt:
        prompt["start_ids"] = [] if start is None else [start]
    return {"tokenizer": tokens, "prompt": prompt}


def fit_shapes(
    published: Published, weights: Weights, shapes: Mapping[str, tuple[int, ...]], record: ImportRecord
) -> dict[str, Tensor | LazyTensor]:
    """Adapt the shapes of the weights to ours where that is unambiguous.

    Adds and removes dimensions of size 1, as in position tables of shape (1, n, width), and resizes the tables that
    the original resizes. Other mismatches are left for `check_weights` to report.
    """
    fitted = dict(weights)
    for key, tensor in weights.items():
        shape = tuple(shapes.get(key, tensor.shape))
        if tuple(tensor.shape) == shape:
            continue
        if tuple(side for side in tensor.shape if side != 1) == tuple(side for side in shape if side != 1):
            fitted[key] = LazyTensor(shape, tensor.dtype, partial(_fit, tensor, torch.reshape, shape))
            continue
        resize = next((resize for pattern, resize in published.resized.items() if re.search(pattern, key)), None)
        if resize is not None and len(tensor.shape) == len(shape):
            record.note(f"resized {key} from {tuple(tensor.shape)} to {shape}")
            fitted[key] = LazyTensor(shape, tensor.dtype, partial(_fit, tensor, resize, shape))
    return fitted


def _fit(
    tensor: Tensor | LazyTensor, convert: Callable[[Tensor, tuple[int, ...]], Tensor], shape: tuple[int, ...]
) -> Tensor:
    return convert(materialize(tensor), shape)
