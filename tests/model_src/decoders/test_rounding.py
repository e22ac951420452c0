"""Weights rounded by what a layer reads."""

from typing import Any

import pytest
import torch
from torch import nn

from prelim.decoders.four_bits import Int4DynamicLinear
from prelim.decoders.quantized import Int8DynamicLinear, Int8Linear
from prelim.decoders.rounding import round_by_moments, spreading_factor
from prelim.decoders.weights_file import materialize
from prelim.networks.moments import input_moments
from prelim.networks.trained_decoder import serving_decoder
from tests.benchmarks.agreement.test_agreement import cross_attention, language_model, tiny


def correlated(rows: int, inputs: int) -> torch.Tensor:
    """Rows whose numbers follow from a few others, one of them large."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 6, generator=draw) @ torch.randn(6, inputs, generator=draw)
    x[:, 5] *= 30
    return x + 0.1 * torch.randn(rows, inputs, generator=draw)


@pytest.mark.parametrize("kind", [Int8Linear, Int8DynamicLinear, Int4DynamicLinear])
@pytest.mark.parametrize("inputs", [64, 100, 192])
def test_what_a_layer_gives_changes_less(kind: type[Int8Linear], inputs: int) -> None:
    """Where inputs are correlated, errors make up for each other, also on rows that were not seen before."""
    weight = torch.randn(40, inputs, generator=torch.Generator().manual_seed(1))
    x = correlated(600, inputs)
    seen, unseen = x[:400], x[400:]

    def error(**known: Any) -> float:
        layer: Any = kind(inputs, 40, bias=False)
        stored = kind.stored(weight, **known)
        layer.load_state_dict({name: materialize(tensor) for name, tensor in stored.items()}, assign=True)
        return float((layer(unseen) - unseen @ weight.T).norm())

    assert error(moments=seen.T @ seen) < 0.5 * error()


def test_inputs_that_were_never_seen_are_rounded_to_the_nearest() -> None:
    """Nothing tells how their errors could be made up for."""
    weight = torch.randn(3, 70, generator=torch.Generator().manual_seed(0)) * 50
    integers = round_by_moments(weight, torch.ones_like(weight), spreading_factor(torch.zeros(70, 70)))
    assert torch.equal(integers, weight.round().clamp(-127, 127).to(torch.int8))


@pytest.mark.parametrize("build", [language_model, cross_attention])
def test_moments_are_of_what_layers_read(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every layer that is called as a whole; none where they would not fit into memory."""
    model = tiny(build(), prefixes=2)
    moments = input_moments(model.decoder, model.prefixes, [(5, 6, 7), (8, 9)])
    served: Any = serving_decoder(model.decoder, packed=False)

    assert {f"layers.{i}.{name}" for i in range(2) for name in _LAYERS[build]} <= moments.keys()
    for name, found in moments.items():
        layer: nn.Module = served.get_submodule(name)
        assert found.shape == (layer.weight.shape[1],) * 2
        assert torch.linalg.eigvalsh(found)[0] > -1e-3 * found.diagonal().max()
    monkeypatch.setattr("prelim.networks.moments.MOST_BYTES", 1000)
    assert input_moments(model.decoder, model.prefixes, [(5,), (6,)]) == {}


_LAYERS: Any = {language_model: ("qkv", "out", "up", "down"), cross_attention: ("linear1", "linear2")}
