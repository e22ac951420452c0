"""The weights of published checkpoints under our keys and in our shapes."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from export.checkpoints.bitsandbytes_weights import dequantised
from export.checkpoints.checkpoint import GGUF, JSON, read_checkpoint, read_settings
from export.checkpoints.lora import adapted_layers, keep_adapters, merge_adapters
from export.checkpoints.source import Source
from prelim.decoders.weights_file import LazyTensor, made
from prelim.errors import ArchiveError
from prelim.networks.architectures.architecture import Published, Section

Weights = Mapping[str, Tensor | LazyTensor]
Settings = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ImportRecord:
    """What an import did, for its model card; it is printed as well.

    ignored : published key -> the reason why it is not needed
    notes   : what else happened to the weights on their way
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
    """The checkpoint under our keys, and the published keys that are ignored with the reason."""
    ignored = {key: reason for key in tensors if (reason := published.why_ignored(key))}
    return {published.our_key(key): value for key, value in tensors.items() if key not in ignored}, ignored


def gathered(
    published: Published, sources: Sequence[Source], record: ImportRecord
) -> tuple[dict[str, Tensor | LazyTensor], list[dict[str, Any]]]:
    """All tensors of the sources under their published keys, and what the config files among them say.

    Of weights that are in several of them the first counts.

    Raises ArchiveError for what cannot be read, or where a key that is left out for repeating another has other values.
    """
    tensors: dict[str, Tensor | LazyTensor] = {}
    settings: list[dict[str, Any]] = []
    for source in sources:
        path = source.path
        settings += read_settings(path)
        stored = {} if path.suffix == JSON else read_checkpoint(path)
        found = dequantised(stored)
        print(f"{source.label}: {len(stored)} tensors")
        if count := sum(value is not stored[key] for key, value in found.items()):
            record.note(f"{source.label}: {count} of its weights were quantised by bitsandbytes, and are dequantised")
        if path.suffix == GGUF:
            record.note(f"{source.label}: weights that llama.cpp has quantised are dequantised")
        weights = our_weights(published, found)[0]
        _check_tied(published, source, found, weights)
        repeated = weights.keys() & our_weights(published, tensors)[0].keys()
        if repeated:
            record.note(f"{source.label}: {len(repeated)} of them are in a file named before it, which counts")
        # What stands later counts, also where two names mean one weight.
        tensors = {**{key: value for key, value in found.items() if key not in tensors}, **tensors}
    return tensors, settings


def _check_tied(published: Published, source: Source, found: Weights, weights: Weights) -> None:
    # Only within one source: what is trained may lie beside what it began with.
    for pattern, ours in published.tied.items():
        for key in found:
            repeats = re.search(pattern, key) is not None and ours in weights
            if repeats and not torch.equal(made(found[key]), made(weights[ours])):
                raise ArchiveError(f"{source.label}: {key} is not equal to {ours}, but the model uses one for both")


def translated(
    published: Published, tensors: Weights, settings: Settings, record: ImportRecord, *, keep_adapter: bool
) -> tuple[dict[str, Tensor | LazyTensor], Section]:
    """The weights under our keys.

    keep_adapter : low-rank adapters stay beside their layers instead of being merged
    returns      : the weights, and what is to be added to the section `decoder` of model.yaml

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
        record.note(f"low-rank adapters are {'kept beside' if keep_adapter else 'merged into'} {len(layers)} layers")
    record.ignore(ignored)
    return weights, added


def decoder_section(published: Published, section: Section, settings: Settings) -> Section:
    """Section `decoder` with the values of a config.json of the same model type; null there means the default."""
    for contents in settings:
        if contents.get("model_type") == section.get("model_type") is not None:
            found = {name: contents[name] for name in published.decoder_config if contents.get(name) is not None}
            section = {**section, **found}
    return section


def special_tokens(published: Published, decoder: Section, settings: Settings) -> dict[str, Section]:
    """Sections `tokenizer` and `prompt` of a decoder that has other words than the published one.

    decoder : section of model.yaml
    returns : the published ones with the special tokens of its config.json; none where the words are the published
              ones, or nothing is known of others

    Raises ArchiveError when its config.json does not tell what ends a text.
    """
    found = [contents for contents in settings if contents.get("model_type") == decoder.get("model_type") is not None]
    if published.vocabulary in (None, decoder.get("vocab_size")) or not found:
        return {}
    # What is left out of a config.json is the model type's default, and so that of the published model.
    own = {**published.defaults["tokenizer"], "pad_token_id": None, **found[-1]}
    start, end, padding = (own[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id"))
    if not isinstance(end, int):
        raise ArchiveError(
            f"eos_token_id is {end!r} in the decoder's config.json; it must be one id, that of the token that ends an "
            f"answer, since of {decoder['vocab_size']} words the published ids do not hold"
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


def shaped(
    published: Published, weights: Weights, shapes: Mapping[str, tuple[int, ...]], record: ImportRecord
) -> dict[str, Tensor | LazyTensor]:
    """The weights in our shapes, where that is no question of their values.

    Dimensions of size 1 that ours have not go, as in position tables of shape (1, n, width), and tables that the
    original resizes are resized as well. What does not fit even so is left for `check_weights` to list.
    """
    fitted = dict(weights)
    for key, tensor in weights.items():
        shape = tuple(shapes.get(key, tensor.shape))
        if tuple(tensor.shape) == shape:
            continue
        if tuple(side for side in tensor.shape if side != 1) == tuple(side for side in shape if side != 1):
            fitted[key] = LazyTensor(shape, tensor.dtype, partial(_fitted, tensor, torch.reshape, shape))
            continue
        resize = next((resize for pattern, resize in published.resized.items() if re.search(pattern, key)), None)
        if resize is not None and len(tensor.shape) == len(shape):
            record.note(f"resized {key} from {tuple(tensor.shape)} to {shape}")
            fitted[key] = LazyTensor(shape, tensor.dtype, partial(_fitted, tensor, resize, shape))
    return fitted


def _fitted(
    tensor: Tensor | LazyTensor, fit: Callable[[Tensor, tuple[int, ...]], Tensor], shape: tuple[int, ...]
) -> Tensor:
    return fit(made(tensor), shape)
