"""Low-rank adapters: merge them into their layers, or keep them separate.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022: W + (alpha / r) B A; Liu et al.,
"DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024: every row of that, scaled to a learned length.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prelim.decoders.weights_file import LazyTensor, Weights, materialize
from prelim.errors import ArchiveError
from prelim.networks.architectures.facts import Facts

_ADAPTER = re.compile(r"\.lora_((A|B)\.weight|magnitude_vector)$")
_SOME_LAYERS = ("layers_to_transform", "layers_pattern", "exclude_modules")
_MERGE = "call peft's merge_and_unload() and import the result"

_UNCHANGED_BASE = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Allowed `init_lora_weights`: the others, like PiSSA and OLoRA, subtract the first adapter from the base weights, and
the published base does not have that."""

_KNOWN = {
    *(
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "eva_config",
        "exclude_modules",
    ),
    *("inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout"),
    *("lora_ga_config", "megatron_core", "modules_to_save", "peft_version", "qalora_group_size", "r", "rank_pattern"),
    *("revision", "runtime_config", "target_modules", "task_type", "use_dora", "use_rslora", "ensure_weight_tying"),
    *("init_lora_weights", "peft_type", "enable_lora", "merge_weights"),
}
"""Settings of `peft` that are read here, or do not change what a trained adapter computes."""


def adapted_layers(weights: Iterable[str]) -> list[str]:
    """The names of the layers that have an adapter, complete or not."""
    return sorted({_ADAPTER.sub("", name) for name in weights if _ADAPTER.search(name)})


_NAME = re.compile(r"\.(?:lora_[A-Za-z_]+|modules_to_save)\.(?!(?:weight|bias)$)(?P<name>[^.]+)(?=\.|$)")
_PART = re.compile(r"\.lora_\w+(\.|$)")


def adapter_name(key: str) -> str | None:
    """The name of the adapter that a published key belongs to; "" if it has none, None if it is not an adapter's."""
    if match := _NAME.search(key):
        return match["name"]
    return "" if _PART.search(key) else None


def published_layer(key: str) -> str:
    """The layer of a published key of an adapter, as `peft` names it."""
    return _PART.split(re.sub(r"^.*base_model\.model\.", "", key))[0]


def select_adapter(tensors: Weights, facts: Facts) -> Weights:
    """The weights without those of other adapters, if there are several: a state_dict does not say the active one.

    tensors : under published keys

    Raises ArchiveError if there are several and the option `adapter.name` does not name one of them.
    """
    names = sorted({name for key in tensors if (name := adapter_name(key)) is not None})
    if len(names) < 2 and "adapter.name" not in facts.options:
        return tensors
    listed = ", ".join(map(repr, names)) or "none"
    if "adapter.name" not in facts.options:
        raise ArchiveError(
            f"the checkpoint has {len(names)} adapters, {listed}, and does not say which one is active; choose it with "
            "--set adapter.name=NAME"
        )
    chosen = facts.value("adapter.name", "default")
    if chosen not in names:
        raise ArchiveError(f"--set adapter.name: the checkpoint has no adapter {chosen!r}; its adapters: {listed}")
    return {key: value for key, value in tensors.items() if adapter_name(key) in (None, chosen)}


@dataclass(frozen=True)
class Adapter:
    """One layer's adapter.

    base   : Tensor, shape (outputs, inputs)
    down   : Tensor, shape (rank, inputs)
    up     : Tensor, shape (outputs, rank)
    length : Tensor, shape (outputs,), of each row of the adapted weight (DoRA); None leaves the lengths as they are
    """

    base: Tensor | LazyTensor
    down: Tensor
    up: Tensor
    scaling: float
    length: Tensor | None = None

    def merge(self) -> Tensor:
        """The adapted weight, computed in float32 and cast to the layer's dtype."""
        weight = materialize(self.base)
        adapted = weight.float() + self.scaling * (self.up.float() @ self.down.float())
        if self.length is not None:
            adapted *= (self.length.float() / torch.linalg.norm(adapted, dim=1))[:, None]
        return adapted.to(weight.dtype)

    def scale_up(self) -> Tensor:
        """`up` multiplied by the scaling."""
        return (self.up.float() * self.scaling).to(self.up.dtype)


@dataclass(frozen=True)
class AdapterSettings:
    """What the scaling of adapters depends on.

    config    : adapter_config.json of `peft`; empty if there is none
    facts     : has the alpha if the config has none
    published : alpha of the published adapter; None if there is none
    names     : our name of a layer -> the published one, which patterns match
    """

    config: Mapping[str, Any]
    facts: Facts
    published: float | None = None
    names: Mapping[str, str] | None = None

    def scaling(self, layer: str, rank: int) -> float:
        """Factor of one layer's adapter. Raises ArchiveError if alpha is unknown."""
        alpha = self._of_layer(layer, "alpha_pattern", "lora_alpha")
        if alpha is None and self.published is None and "adapter.lora_alpha" not in self.facts.options:
            raise ArchiveError(
                f"{self.name(layer)} has an adapter of unknown alpha; give the folder with adapter_config.json, or "
                "--set adapter.lora_alpha=VALUE"
            )
        alpha = self.facts.value("adapter.lora_alpha", self.published, stored=alpha)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise ArchiveError(f"adapter.lora_alpha is {alpha!r}; it must be a number")
        stabilized = self.facts.value("adapter.use_rslora", False, stored=self._stored("use_rslora", False))
        return alpha / (math.sqrt(rank) if stabilized else rank)

    def name(self, layer: str) -> str:
        """The published name of a layer."""
        return (self.names or {}).get(layer, layer)

    def rank(self, layer: str) -> Any:
        """The rank of one layer's adapter; None if adapter_config.json does not give it."""
        return self._of_layer(layer, "rank_pattern", "r")

    def _of_layer(self, layer: str, patterns: str, general: str) -> Any:
        found: Any = self.config.get(patterns) or {}
        name = self.name(layer)
        if not isinstance(found, Mapping):
            raise ArchiveError(f"adapter_config.json has {patterns} = {found!r}; it must map patterns to numbers")
        try:
            return next((found[p] for p in found if re.match(rf"(.*\.)?({p})$", name)), self.config.get(general))
        except re.error as error:
            raise ArchiveError(
                f"adapter_config.json has a pattern in {patterns} that is not a regular expression: {error}"
            ) from error

    def _stored(self, name: str, default: Any) -> Any:
        """A value of adapter_config.json, which omits defaults of its time; None if there is no such file."""
        if not self.config:
            return None
        return default if self.config.get(name) is None else self.config[name]

    def check(self) -> None:
        """Raise ArchiveError for an adapter that does not compute what is computed here."""
        config = self.config
        kind = config.get("peft_type", "LORA")
        if kind != "LORA":
            raise ArchiveError(f"adapter_config.json has peft_type = {kind!r}; only LORA can be imported; {_MERGE}")
        init = self.facts.value("adapter.init_lora_weights", True, stored=self._stored("init_lora_weights", True))
        if init not in _UNCHANGED_BASE:
            raise ArchiveError(
                f"adapter_config.json has init_lora_weights = {init!r}, which also changed the base weights; {_MERGE}, "
                "or save the adapter with path_initial_model_for_weight_conversion"
            )
        unknown = sorted(name for name, value in config.items() if name not in _KNOWN and value)
        if unknown:
            raise ArchiveError(
                f"adapter_config.json has {unknown[0]} = {config[unknown[0]]!r}, which is not supported; {_MERGE}"
            )


def merge_adapters(weights: Weights, settings: AdapterSettings) -> dict[str, Tensor | LazyTensor]:
    """Merge all adapters into their layers, lazily.

    weights : under our keys: `<layer>.weight`, `<layer>.lora_A.weight` and `<layer>.lora_B.weight`

    Raises ArchiveError for an incomplete adapter, one without its layer, or an unsupported kind.
    """
    merged = {name: tensor for name, tensor in weights.items() if not _ADAPTER.search(name)}
    for layer, adapter in _adapters(weights, settings).items():
        base = adapter.base
        merged[f"{layer}.weight"] = LazyTensor(tuple(base.shape), base.dtype, adapter.merge)
    return merged


def keep_adapters(weights: Weights, settings: AdapterSettings) -> tuple[dict[str, Tensor | LazyTensor], dict[str, Any]]:
    """Keep the adapters separate, with their scaling multiplied into lora_B.

    returns : the weights, and `adapter` for the section `decoder` of model.yaml

    Raises ArchiveError as `merge_adapters` does, if adapters differ in rank, or if there are none.
    """
    kept, adapters = dict(weights), _adapters(weights, settings)
    if any(adapter.length is not None for adapter in adapters.values()):
        raise ArchiveError("DoRA adapters cannot be kept, only merged; import without --keep-adapter")
    ranks = sorted({len(adapter.down) for adapter in adapters.values()})
    if len(ranks) != 1:
        raise ArchiveError(
            f"adapters of ranks {ranks} cannot be kept, only those of a single rank; import without --keep-adapter"
        )
    for layer, adapter in adapters.items():
        up = adapter.up
        kept[f"{layer}.lora_B.weight"] = LazyTensor(tuple(up.shape), up.dtype, adapter.scale_up)
    names = sorted({layer.split(".")[-1] for layer in adapters})
    return kept, {"rank": ranks[0], "layers": names}


def _adapters(weights: Weights, settings: AdapterSettings) -> dict[str, Adapter]:
    layers = adapted_layers(weights)
    if layers or settings.config:
        settings.check()
    if settings.config and not layers:
        raise ArchiveError(
            "adapter_config.json describes an adapter, but no file has its weights (lora_A and lora_B); give them as "
            "well, or remove it if they are merged"
        )
    _check_all_layers(layers, weights, settings)
    adapters = {}
    for layer in layers:
        parts = [weights.get(f"{layer}.{part}") for part in ("weight", "lora_A.weight", "lora_B.weight")]
        base, down, up = parts
        name = settings.name(layer)
        if base is None or not isinstance(down, Tensor) or not isinstance(up, Tensor):
            raise ArchiveError(f"{name} needs weight, lora_A.weight and lora_B.weight; give the base model as well")
        rank = down.shape[0]
        if (up.shape[0], down.shape[1]) != tuple(base.shape) or up.shape[1] != rank:
            raise ArchiveError(
                f"{name}: lora_B {tuple(up.shape)} times lora_A {tuple(down.shape)} does not fit {tuple(base.shape)}"
            )
        if settings.rank(layer) not in (None, rank):
            raise ArchiveError(
                f"{name} has an adapter of rank {rank}, but adapter_config.json gives it {settings.rank(layer)!r} (r "
                "or rank_pattern): they are from different models"
            )
        length = weights.get(f"{layer}.lora_magnitude_vector")
        if (length is not None) != bool(settings.config.get("use_dora")) or isinstance(length, LazyTensor):
            raise ArchiveError(
                f"{name} has {'a' if length is not None else 'no'} lora_magnitude_vector, but "
                f"adapter_config.json has use_dora = {settings.config.get('use_dora')!r}; give both from one model"
            )
        if not all(part is None or part.is_meta or part.isfinite().all() for part in (down, up, length)):
            raise ArchiveError(f"{name} has an adapter with NaN or infinite values: its training diverged")
        adapters[layer] = Adapter(base, down, up, settings.scaling(layer, rank), length)
    return adapters


def _check_all_layers(layers: Sequence[str], weights: Weights, settings: AdapterSettings) -> None:
    """Raise ArchiveError if a layer has no adapter although adapter_config.json names its kind for all of them."""
    config = settings.config
    if not isinstance(config.get("target_modules"), list) or any(config.get(name) is not None for name in _SOME_LAYERS):
        return
    kinds = {re.sub(r"\d+", "#", layer): layer for layer in layers}
    whole = {key.removesuffix(".weight") for key in weights if key.endswith(".weight") and "lora_" not in key}
    for layer in sorted(whole - set(layers)):
        other = kinds.get(re.sub(r"\d+", "#", layer))
        if other is not None:
            raise ArchiveError(
                f"{settings.name(other)} has an adapter and {layer} has none, although target_modules in "
                "adapter_config.json names both: a part of the adapter is missing"
            )
