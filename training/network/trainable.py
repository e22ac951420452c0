"""Trainable parameters: frozen parts, low-rank adapters, and the part of a network that checkpoints keep."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prelim.networks.architectures.architecture import Network
from prelim.networks.transformers_lm import TransformersLM
from training.settings import LoraSettings, SettingsError

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj")
"""Projections of attention, as the language models of `transformers` name them."""


def freeze(network: Network, parts: Sequence[str]) -> None:
    """Let parts of a network keep their weights. Raises SettingsError for an unknown part."""
    modules = dict(network.named_modules())
    parameters = dict(network.named_parameters())
    for part in parts:
        found: nn.Module | nn.Parameter | None = modules.get(part) if part else None
        found = parameters.get(part) if found is None else found
        if found is None:
            parent = modules.get(part.rpartition(".")[0], network)
            raise SettingsError(
                f"freeze has {part!r}, which the network lacks; at that place it has: "
                + ", ".join(name for name, _ in parent.named_children())
            )
        found.requires_grad_(False)


def train_mode(module: nn.Module) -> None:
    """Training mode, but not for what is frozen as a whole: it drops nothing, its batch norms keep their statistics."""
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        module.eval()
        return
    module.training = True
    for child in module.children():
        train_mode(child)


def add_adapters(decoder: nn.Module, settings: LoraSettings, compute_dtype: torch.dtype) -> None:
    """Freeze a decoder, in 4 bits if the settings say so, and give its linear layers adapters that are trained.

    Raises SettingsError for a decoder that takes no adapters, and for layers that do not exist.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if not isinstance(decoder, TransformersLM):
        raise SettingsError("lora.rank is set, but this decoder is small and is trained whole; set lora.rank=0")
    decoder.requires_grad_(False)
    linear = sorted({name.split(".")[-1] for name, m in decoder.body.named_modules() if isinstance(m, nn.Linear)})
    layers = list(settings.layers) or [name for name in ATTENTION if name in linear]
    if missing := sorted(set(layers) - set(linear)):
        raise SettingsError(f"lora.layers has {missing[0]!r}; linear layers of this decoder are: {', '.join(linear)}")
    if settings.quantize:
        _quantize(decoder.body, compute_dtype)
        decoder.float()  # embeddings, norms and scores, which may be stored in 16 bits
    config = LoraConfig(
        r=settings.rank, lora_alpha=cast("int", settings.alpha), lora_dropout=settings.dropout, target_modules=layers
    )
    inject_adapter_in_model(config, decoder.body)


def _quantize(body: nn.Module, compute_dtype: torch.dtype) -> None:
    """Linear layers in NF4. Source: Dettmers et al., "QLoRA", NeurIPS 2023, in the implementation of bitsandbytes."""
    from bitsandbytes.nn.modules import Linear4bit, Params4bit

    for parent in list(body.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                biased = layer.bias is not None
                new = Linear4bit(  # type: ignore[no-untyped-call]
                    layer.in_features, layer.out_features, biased, compute_dtype=compute_dtype, quant_type="nf4"
                )
                new.weight = Params4bit(layer.weight.detach().float(), requires_grad=False, quant_type="nf4")
                new.bias = layer.bias
                # For inference on some CPUs it would pack the weights otherwise, for multiples of 32 and 64 only, and
                # compute in bfloat16: validation would be of another network than training.
                new.support_avx512bf16_for_cpu = False
                setattr(parent, name, new.to("cpu"))  # quantizes


def plain_weights(network: Network, *, keep_adapters: bool) -> dict[str, Tensor]:
    """The weights of an adapted network under the names of the same network without adapters, to which they are added.

    keep_adapters : they stay separate from their layers, named as in prelim.networks.adapters
    """
    from peft.tuners.lora import LoraLayer

    weights = network.state_dict()
    layers = [(name, m) for name, m in network.named_modules() if isinstance(m, LoraLayer)]
    for name, layer in layers:
        for key in [key for key in weights if key.startswith(f"{name}.")]:
            del weights[key]
        base = cast("nn.Linear", layer.get_base_layer())
        weights[f"{name}.weight"] = _full(base)
        if base.bias is not None:
            weights[f"{name}.bias"] = base.bias.detach()
        down, up = (cast("Tensor", pair["default"].weight).detach() for pair in (layer.lora_A, layer.lora_B))
        scaled = up * layer.scaling["default"]
        if keep_adapters:
            weights |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": scaled}
        else:
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + scaled @ down
    adapted = {name for name, _ in layers}
    for name, module in network.named_modules():
        if hasattr(getattr(module, "weight", None), "quant_state") and name.removesuffix(".base_layer") not in adapted:
            for key in [key for key in weights if key.startswith(f"{name}.weight.")]:
                del weights[key]
            weights[f"{name}.weight"] = _full(cast("nn.Linear", module))
    return weights


def adapter_section(network: Network) -> dict[str, Any]:
    """`adapter` of the section `decoder` of model.yaml for adapters that are kept."""
    from peft.tuners.lora import LoraLayer

    layers = {name.split(".")[-1]: m for name, m in network.named_modules() if isinstance(m, LoraLayer)}
    return {"rank": next(iter(layers.values())).r["default"], "layers": sorted(layers)}


def _full(layer: nn.Linear) -> Tensor:
    """A layer's weight in full precision."""
    weight: Any = layer.weight
    if not hasattr(weight, "quant_state"):
        return cast("Tensor", weight.detach())
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, weight.quant_state).float()


def moving(module: nn.Module) -> dict[str, Tensor]:
    """What training changes: trained parameters, and the buffers that are stored; frozen weights are in their files."""
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    buffers = {name for name, _ in module.named_buffers()}
    return {name: value for name, value in module.state_dict().items() if name in trained | buffers}


def checkpoint_gradients(network: Network) -> None:
    """Let repeated blocks keep only their inputs, and compute them again on the way back.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016. Blocks with batch norms are left as they
    are, because these would count every batch twice.
    """
    for block in list(_blocks(network)):
        if not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in block.modules()):
            block.forward = partial(_recompute, block.forward)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Entries of the outermost lists of layers, all of one kind: single operations may change their input in place."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.Sequential) and len({type(layer) for layer in child}) == 1:
            yield from child
        else:
            yield from _blocks(child)


def _recompute(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def parameter_count(module: nn.Module) -> tuple[int, int]:
    """Numbers that are trained, and all of them; packed ones count as what they stand for."""
    trained = everything = 0
    for parameter in module.parameters():
        count = math.prod(getattr(getattr(parameter, "quant_state", None), "shape", None) or parameter.shape)
        everything += count
        trained += count * parameter.requires_grad
    return trained, everything
