"""Low-rank adapters: merge them into their layers, or keep them separate.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022: W + (alpha / r) B A.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prelim.decoders.weights_file import LazyTensor, materialize
from prelim.errors import ArchiveError

Weights = Mapping[str, Tensor | LazyTensor]

_ADAPTER = re.compile(r"\.lora_(A|B)\.weight$")
_UNKNOWN = ("use_dora", "alpha_pattern", "rank_pattern", "modules_to_save")
"""Settings of `peft` that change what an adapter computes; no published system uses them."""


def adapted_layers(weights: Iterable[str]) -> list[str]:
    """The names of the layers that have an adapter, complete or not."""
    return sorted({_ADAPTER.sub("", name) for name in weights if _ADAPTER.search(name)})


@dataclass(frozen=True)
class Adapter:
    """One layer's adapter.

    base : Tensor, shape (outputs, inputs)
    down : Tensor, shape (rank, inputs)
    up   : Tensor, shape (outputs, rank)
    """

    base: Tensor | LazyTensor
    down: Tensor
    up: Tensor
    scaling: float

    def merge(self) -> Tensor:
        """The adapted weight, computed in float32 and cast to the layer's dtype."""
        weight = materialize(self.base)
        return (weight.float() + self.scaling * (self.up.float() @ self.down.float())).to(weight.dtype)

    def scale_up(self) -> Tensor:
        """`up` multiplied by the scaling."""
        return (self.up.float() * self.scaling).to(self.up.dtype)


def merge_adapters(
    weights: Weights, settings: Mapping[str, Any], alpha: float | None
) -> dict[str, Tensor | LazyTensor]:
    """Merge all adapters into their layers, lazily.

    weights  : under our keys: `<layer>.weight`, `<layer>.lora_A.weight` and `<layer>.lora_B.weight`
    settings : adapter_config.json of `peft`; empty if there is none
    alpha    : of the published adapter, used if the settings have none

    Raises ArchiveError for an incomplete adapter, one without its layer, or an unsupported kind.
    """
    merged = {name: tensor for name, tensor in weights.items() if not _ADAPTER.search(name)}
    for layer, adapter in _adapters(weights, settings, alpha).items():
        base = adapter.base
        merged[f"{layer}.weight"] = LazyTensor(tuple(base.shape), base.dtype, adapter.merge)
    return merged


def keep_adapters(
    weights: Weights, settings: Mapping[str, Any], alpha: float | None
) -> tuple[dict[str, Tensor | LazyTensor], dict[str, Any]]:
    """Keep the adapters separate, with their scaling multiplied into lora_B.

    returns : the weights, and `adapter` for the section `decoder` of model.yaml

    Raises ArchiveError as `merge_adapters` does, if adapters differ in rank, or if there are none.
    """
    kept, adapters = dict(weights), _adapters(weights, settings, alpha)
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


def _adapters(weights: Weights, settings: Mapping[str, Any], alpha: float | None) -> dict[str, Adapter]:
    layers = adapted_layers(weights)
    for setting in _UNKNOWN:
        if layers and settings.get(setting):
            raise ArchiveError(f"adapter_config.json has {setting} = {settings[setting]!r}, which is not supported")
    adapters = {}
    for layer in layers:
        parts = [weights.get(f"{layer}.{part}") for part in ("weight", "lora_A.weight", "lora_B.weight")]
        base, down, up = parts
        if base is None or not isinstance(down, Tensor) or not isinstance(up, Tensor):
            raise ArchiveError(f"{layer} needs weight, lora_A.weight and lora_B.weight; give the base model as well")
        rank = down.shape[0]
        if (up.shape[0], down.shape[1]) != tuple(base.shape) or up.shape[1] != rank:
            raise ArchiveError(
                f"{layer}: lora_B {tuple(up.shape)} times lora_A {tuple(down.shape)} does not fit {tuple(base.shape)}"
            )
        scaled = settings.get("lora_alpha", alpha)
        if scaled is None:
            raise ArchiveError(f"{layer} has an adapter of unknown alpha; give the folder with adapter_config.json")
        adapters[layer] = Adapter(base, down, up, scaled / (math.sqrt(rank) if settings.get("use_rslora") else rank))
    return adapters
