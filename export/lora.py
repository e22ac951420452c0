"""Low-rank adapters, merged into the layers that they adapt.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022: W + (alpha / r) B A.
"""

import math
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from model_src.errors import ArchiveError
from model_src.weights_file import LazyTensor

_ADAPTER = re.compile(r"\.lora_(A|B)\.weight$")
_NOT_MERGED = ("use_dora", "alpha_pattern", "rank_pattern", "modules_to_save")
"""Settings of `peft` that change what an adapter computes; no published system uses them."""


def adapted_layers(weights: Iterable[str]) -> list[str]:
    """The names of the layers that have an adapter, or a part of one."""
    return sorted({_ADAPTER.sub("", name) for name in weights if _ADAPTER.search(name)})


def merge_adapters(
    weights: Mapping[str, Tensor | LazyTensor], settings: Mapping[str, Any], alpha: float | None
) -> dict[str, Tensor | LazyTensor]:
    """The weights without adapters: an adapted layer is computed in float32 when it is written, and keeps its dtype.

    weights  : under our keys, `<layer>.weight` with `<layer>.lora_A.weight` and `<layer>.lora_B.weight` beside it
    settings : adapter_config.json of `peft`; empty where there is none
    alpha    : of the published adapter, where the settings do not tell

    Raises ArchiveError for half an adapter, one without its layer, or one that cannot be merged.
    """
    layers = adapted_layers(weights)
    merged = {name: tensor for name, tensor in weights.items() if not _ADAPTER.search(name)}
    for setting in _NOT_MERGED:
        if layers and settings.get(setting):
            raise ArchiveError(f"adapter_config.json has {setting} = {settings[setting]!r}, which cannot be merged")
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
        scaling = scaled / (math.sqrt(rank) if settings.get("use_rslora") else rank)
        merged[f"{layer}.weight"] = LazyTensor(tuple(base.shape), base.dtype, partial(_merged, base, down, up, scaling))
    return merged


def _merged(base: Tensor | LazyTensor, down: Tensor, up: Tensor, scaling: float) -> Tensor:
    weight = base.make() if isinstance(base, LazyTensor) else base
    return (weight.float() + scaling * (up.float() @ down.float())).to(base.dtype)
