"""The weights of published checkpoints under our keys and in our shapes."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from export.checkpoint import read_checkpoint, read_settings
from export.lora import adapted_layers, merge_adapters
from export.quantised import dequantised
from export.source import Source
from model_src.architectures.architecture import Published, Section
from model_src.errors import ArchiveError
from model_src.weights_file import LazyTensor

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
    """
    tensors: dict[str, Tensor | LazyTensor] = {}
    settings: list[dict[str, Any]] = []
    for source in sources:
        path = source.path
        settings += read_settings(path) if path.is_dir() or path.suffix == ".json" else []
        stored = {} if path.suffix == ".json" else read_checkpoint(path)
        found = dequantised(stored)
        print(f"{source.label}: {len(stored)} tensors")
        if lazy := sum(isinstance(value, LazyTensor) for value in found.values()):
            record.note(f"{source.label}: {lazy} of its weights were quantised by bitsandbytes, and are dequantised")
        repeated = our_weights(published, found)[0].keys() & our_weights(published, tensors)[0].keys()
        if repeated:
            record.note(f"{source.label}: {len(repeated)} of them are in a file named before it, which counts")
        # What stands later counts, also where two names mean one weight.
        tensors = {**{key: value for key, value in found.items() if key not in tensors}, **tensors}
    return tensors, settings


def translated(
    published: Published, tensors: Weights, settings: Settings, record: ImportRecord
) -> dict[str, Tensor | LazyTensor]:
    """The weights under our keys, adapters merged.

    Raises ArchiveError where a key that is left out for repeating another holds other values, or as `merge_adapters`.
    """
    weights, ignored = our_weights(published, tensors)
    for pattern, ours in published.tied.items():
        for key in tensors:
            repeats = re.search(pattern, key) is not None and ours in weights
            if repeats and not torch.equal(_made(tensors[key]), _made(weights[ours])):
                raise ArchiveError(f"{key} is not equal to {ours}, but the model uses one for both")
    adapter = next((contents for contents in settings if "lora_alpha" in contents), {})
    merged = merge_adapters(weights, adapter, published.lora_alpha)
    if layers := adapted_layers(weights):
        record.note(f"low-rank adapters are merged into {len(layers)} layers")
    record.ignore(ignored)
    return merged


def decoder_section(published: Published, section: Section, settings: Settings) -> Section:
    """Section `decoder` with the values of a config.json of the same model type; null there means the default."""
    for contents in settings:
        if contents.get("model_type") == section.get("model_type") is not None:
            found = {name: contents[name] for name in published.decoder_config if contents.get(name) is not None}
            section = {**section, **found}
    return section


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


def _made(tensor: Tensor | LazyTensor) -> Tensor:
    return tensor.make() if isinstance(tensor, LazyTensor) else tensor


def _fitted(
    tensor: Tensor | LazyTensor, fit: Callable[[Tensor, tuple[int, ...]], Tensor], shape: tuple[int, ...]
) -> Tensor:
    return fit(_made(tensor), shape)
