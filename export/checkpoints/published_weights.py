"""Converts the weights of published checkpoints to our keys and shapes."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from export.checkpoints.bitsandbytes_weights import dequantize_weights
from export.checkpoints.checkpoint import read_checkpoint
from export.checkpoints.import_source import ImportSource
from export.checkpoints.lora import (
    AdapterSettings,
    adapted_layers,
    adapter_name,
    keep_adapters,
    merge_adapters,
    published_layer,
    select_adapter,
)
from export.checkpoints.record import ImportRecord
from export.checkpoints.settings import GGUF, JSON, SETTINGS, SettingsFile, model_type_of, read_settings
from export.checkpoints.wrappers import unwrap
from prelim.decoders.weights_file import LazyTensor, Weights, materialize
from prelim.errors import ArchiveError
from prelim.networks.architectures.architecture import PARTS, Published, Section
from prelim.networks.architectures.facts import Facts

EVERYWHERE_IGNORED = {
    r"^n_averaged$": "counter of an average of weights, which only training needs",
    r"^(\w+_)?(criterion|criteria|loss|losses|metrics?)(_\w+)?\.": "part of a loss or metric of the training",
    r"\.original_module\.": "weights from before fine-tuning; the checkpoint has the fine-tuned ones too",
}
"""Pattern of a published key that no system needs -> the reason."""

FINAL_NORM = "decoder.body.norm.weight"
DELTA = 0.05
"""Mean weight of the final norm, below which a Llama is the difference of two; trained ones are above 1."""


@dataclass(frozen=True)
class Gathered:
    """Everything that the sources of an import contain.

    tensors  : under published keys without wrappers
    settings : of all sources
    adapters : keys of the files that contain an adapter without its base model
    """

    tensors: dict[str, Tensor | LazyTensor] = field(default_factory=dict)
    settings: list[SettingsFile] = field(default_factory=list)
    adapters: set[str] = field(default_factory=set)

    @property
    def adapter_config(self) -> Mapping[str, Any]:
        """adapter_config.json; empty if there is none. Raises ArchiveError if there are several."""
        found = [file for file in self.settings if file.is_adapter]
        if any(file.contents != found[0].contents for file in found):
            raise ArchiveError(
                f"{found[0].name} and {found[-1].name} are two adapters; merge one into its base model first"
            )
        return found[0].contents if found else {}

    def add_weights(self, published: Published, label: str, found: Weights, record: ImportRecord) -> None:
        """Add weights, except those that an earlier source has."""
        if repeated := self._repeated(published, found):
            record.note(f"{label}: {len(repeated)} of them were taken from a file given earlier instead")
        # The last entry is used where two published keys map to one weight, so earlier sources go to the end.
        earlier = dict(self.tensors)
        self.tensors.clear()
        self.tensors.update({**{key: value for key, value in found.items() if key not in earlier}, **earlier})

    def add_adapter(self, published: Published, label: str, found: Weights, record: ImportRecord) -> None:
        """Add an adapter, whose weights replace those of the base model. Raises ArchiveError for a second one."""
        repeated = self._repeated(published, found)
        if adapted_layers(repeated):
            raise ArchiveError(f"{label} is a second adapter of the same layers; merge one into its base model first")
        if repeated:
            record.note(f"{label}: {len(repeated)} weights, trained with the adapter, replace those of the base model")
        for key, value in found.items():
            self.tensors.pop(key, None)
            self.tensors[key] = value
        self.adapters.update(found)

    def _repeated(self, published: Published, found: Weights) -> set[str]:
        return our_weights(published, found)[0].keys() & our_weights(published, self.tensors)[0].keys()


_NOT_DECODER = ("vision.", "connector.")


def our_weights(
    published: Published, tensors: Weights, config: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor | LazyTensor], dict[str, str]]:
    """Rename the checkpoint's keys to ours. Also returns the ignored published keys with the reasons.

    config : config.json of the checkpoint
    """
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    patterns = {**published.all_ignored(shapes, config or {}), **EVERYWHERE_IGNORED}
    ignored = {key: reason for key in tensors if (reason := published.why_ignored(key, patterns))}
    return {published.our_key(key): value for key, value in tensors.items() if key not in ignored}, ignored


def gather_weights(published: Published, sources: Sequence[ImportSource], record: ImportRecord) -> Gathered:
    """Read all tensors, and all settings, from the sources.

    For a weight that is in several sources the first one is used, but the weights of an adapter's file replace those of
    its base model.

    Raises ArchiveError if a file cannot be read, or if the values of an ignored tied key differ from its counterpart.
    """
    gathered = Gathered()
    for source in sources:
        settings = read_settings(source.path, source.label)
        stored = read_checkpoint(source.path, record.assume)
        found = dequantize_weights(stored)
        print(f"{source.label}: {len(stored)} tensors")
        if count := sum(value is not stored[key] for key, value in found.items()):
            record.note(f"{source.label}: {count} weights quantized by bitsandbytes were dequantized")
        if source.path.suffix == GGUF:
            record.note(f"{source.label}: weights quantized by llama.cpp were dequantized")
        found = dict(unwrap(published, source.label, found, record.assume))
        _check_values(published, source, found)
        found = share_tied(published, source, found, record)
        _check_unique(published, source.label, found)
        weights = our_weights(published, found)[0]
        if source.path.suffix == JSON and not all(file.is_known for file in settings):
            raise ArchiveError(f"{source.label} describes no network or adapter; allowed: {', '.join(SETTINGS)}")
        for file in settings:
            # The config.json of a folder with the whole system may describe it in words of its own.
            foreign = file.is_config and file.contents.get("model_type") not in published.model_types
            if file.is_config and published.base_types and model_type_of(file) in published.base_types:
                record.note(f"{file.name} is not read: config.json of the whole has the language model's settings")
            elif foreign and not published.whole_config and any(key.startswith(_NOT_DECODER) for key in weights):
                record.note(f"{file.name} describes the whole system, and is not read")
            else:
                gathered.settings.append(file)
        if adapted_layers(weights) and not any(f"{layer}.weight" in weights for layer in adapted_layers(weights)):
            gathered.add_adapter(published, source.label, found, record)
        else:
            gathered.add_weights(published, source.label, found, record)
    return gathered


def _check_values(published: Published, source: ImportSource, found: Weights) -> None:
    """Raise ArchiveError if a source has no tensors, or some of the system without values."""
    if not found and source.path.suffix != JSON:
        raise ArchiveError(f"{source.label} contains no tensors; save the weights again")
    # A .keras file has empty ones for layers without weights.
    empty = [key for key, value in found.items() if 0 in value.shape and published.our_key(key).startswith(PARTS)]
    if empty:
        raise ArchiveError(
            f"{source.label}: {len(empty)} of {len(found)} tensors are empty, such as {empty[0]}; DeepSpeed's ZeRO-3 "
            "saves these where a model is saved without gathering it: run its zero_to_fp32.py, or save with "
            "stage3_gather_16bit_weights_on_model_save"
        )


def _check_unique(published: Published, label: str, found: Weights) -> None:
    """Raise ArchiveError if two keys of a source are those of one weight, with different values."""
    _, ignored = our_weights(published, found)
    first: dict[tuple[str, str | None], str] = {}
    for key in found.keys() - ignored.keys():
        one = first.setdefault((published.our_key(key), adapter_name(key)), key)
        if one != key and not torch.equal(materialize(found[one]), materialize(found[key])):
            raise ArchiveError(
                f"{label}: {' and '.join(sorted([one, key]))} are the same weight of the system, with different "
                "values; save one of them alone"
            )


def share_tied(
    published: Published, source: ImportSource, found: Weights, record: ImportRecord
) -> dict[str, Tensor | LazyTensor]:
    """Check the values of tied keys; one that was saved under its other name only gets its own.

    Raises ArchiveError if two tied keys of the source differ.
    """
    shared = dict(found)
    weights = our_weights(published, found)[0]
    # Only within one source: another one may have the weights from before fine-tuning.
    for pattern, ours in published.tied.items():
        for key in [key for key in found if re.search(pattern, key)]:
            if ours not in weights:
                shared[published.published_key(ours)] = found[key]
                record.note(f"{source.label}: {key} is also used for {published.published_key(ours)}, its tied weight")
            elif not torch.equal(materialize(found[key]), materialize(weights[ours])):
                raise ArchiveError(
                    f"{source.label}: {key} is not equal to {ours}, but the model uses one tensor for both"
                )
    return shared


def convert_weights(
    published: Published, gathered: Gathered, facts: Facts, record: ImportRecord, *, keep_adapter: bool
) -> tuple[dict[str, Tensor | LazyTensor], Section]:
    """Convert the weights to our keys, and merge or keep their adapters.

    keep_adapter : keep low-rank adapters separate instead of merging them
    returns      : the weights, and additions to the section `decoder` of model.yaml

    Raises ArchiveError as `merge_adapters` and `keep_adapters` do, for the difference of two models, and for a system
    of a base model and an adapter without the adapter.
    """
    tensors = select_adapter(gathered.tensors, facts)
    weights, ignored = our_weights(published, tensors, facts.config)
    _check_delta(weights)
    layers = adapted_layers(weights)
    _check_adapter(published, layers, facts)
    settings = AdapterSettings(
        gathered.adapter_config,
        facts,
        published.lora_alpha,
        {layer: published_layer(key) for key in tensors for layer in adapted_layers([published.our_key(key)])},
    )
    added: Section = {}
    if keep_adapter:
        weights, kept = keep_adapters(weights, settings)
        added = {"adapter": kept}
    else:
        weights = merge_adapters(weights, settings)
    if layers:
        record.note(
            f"low-rank adapters are {'kept separate from' if keep_adapter else 'merged into'} {len(layers)} layers"
        )
    strange = sorted(key for key in weights if "lora_" in key and not (keep_adapter and adapted_layers([key])))
    if strange:
        raise ArchiveError(
            f"{published.published_key(strange[0])} is a part of an adapter that is not supported; call peft's "
            "merge_and_unload() and import the result"
        )
    record.ignore(ignored)
    return weights, added


def _check_adapter(published: Published, layers: Sequence[str], facts: Facts) -> None:
    """Raise ArchiveError if only the base model of a system is there: its weights are complete without the adapter."""
    if published.base_types and not layers and not facts.value("adapter.merged", False, stored=False):
        raise ArchiveError(
            "the adapter is missing, and without it the language model is only its base; give the folder with "
            "adapter_model.bin and adapter_config.json as well, or --set adapter.merged=true if the language model "
            "that is given has it merged"
        )


def _check_delta(weights: Weights) -> None:
    """Raise ArchiveError if a language model is the difference of two, as Vicuna was first published."""
    norm = weights.get(FINAL_NORM)
    # Gemma's norms multiply with 1 + weight.
    whole = any(key.endswith("pre_feedforward_layernorm.weight") for key in weights)
    if norm is not None and not whole and materialize(norm).float().abs().mean() < DELTA:
        raise ArchiveError(
            "the final norm of the language model is almost 0: these are delta weights, the difference of two models; "
            "add them to the base model first, for Vicuna with fastchat.model.apply_delta"
        )


def fit_shapes(
    published: Published, weights: Weights, shapes: Mapping[str, tuple[int, ...]], record: ImportRecord
) -> dict[str, Tensor | LazyTensor]:
    """Adapt the shapes of the weights to ours where that is unambiguous.

    Adds and removes dimensions of size 1, as in position tables of shape (1, n, width), and resizes the tables that
    the original resizes. Other mismatches are left for `check_fit` to report.
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
