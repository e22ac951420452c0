"""Compiled kernels compute what PyTorch's operations compute, for every shape of decoder that is served."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from prelim.decoders import empty_decoder
from prelim.decoders.attention import Attending
from prelim.decoders.causal_lm import CausalLMConfig, CausalLMDecoder
from prelim.decoders.kv_cache import KVCache
from prelim.decoders.packed import pack
from prelim.decoders.precision import stored_weights
from prelim.decoders.weights_file import materialize
from prelim.kernels import FOUR_BITS, GROUP, instructions, rotated, unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"nothing can be compiled here: {unavailable()}")

BIOGPT = {"width": 128, "heads": 4, "feedforward": 192, "position_offset": 2, "attention_bias": True, "out_bias": True}
BIOGPT |= {"feedforward_bias": True, "tied": True}
LLAMA = {"width": 192, "heads": 6, "kv_heads": 2, "head_width": 32, "feedforward": 128, "norm": "rms_norm"}
LLAMA |= {"activation": "silu", "gated": True}
QWEN2 = {**LLAMA, "attention_bias": True}
# Its heads together are wider than its layers.
WIDE = BIOGPT | {"width": 64, "heads": 4, "head_width": 32, "feedforward": 64, "layers": 3}
QWEN3 = LLAMA | {"query_key_norms": True, "window": 4, "window_layers": [0, 1]}
PHI = BIOGPT | {"position_offset": None, "parallel": True, "activation": "gelu_tanh", "tied": False, "head_bias": True}
PHI |= {"query_key_norms": True, "kv_heads": 2}
GEMMA3 = LLAMA | {"activation": "gelu_tanh", "query_key_norms": True, "post_norms": True, "embedding_scale": 3.0}
GEMMA3 |= {"tied": True, "layers": 3, "window": 4, "window_layers": [0, 2], "window_rotary": True}
DECODERS = {"biogpt": BIOGPT, "llama": LLAMA, "qwen2": QWEN2, "wide heads": WIDE}
DECODERS |= {"qwen3": QWEN3, "phi": PHI, "gemma3": GEMMA3}


def decoder(dimensions: dict[str, Any], precision: str = "int8_dynamic") -> CausalLMDecoder:
    """A decoder of random weights; its step is compiled by `pack`."""
    torch.manual_seed(0)
    section = {"kind": "causal_lm", "vocab_size": 150, "layers": 2, "max_positions": 64, **dimensions}
    config = CausalLMConfig(**{name: value for name, value in section.items() if name != "kind"})
    weights = {name: torch.randn(p.shape) * 0.2 for name, p in CausalLMDecoder(config).named_parameters()}
    served: Any = empty_decoder(section, precision)
    stored = stored_weights(served, weights, precision)
    served.load_state_dict({name: materialize(tensor) for name, tensor in stored.items()}, assign=True)
    return served.eval().requires_grad_(False)


def scales(weight: Tensor) -> Tensor:
    """Random scales of the weights' groups."""
    return torch.rand(len(weight), weight.shape[1] // GROUP).bfloat16()


def random_rows(rows: int, inputs: int) -> Tensor:
    """Rows of very different sizes, one of them zero."""
    x = torch.randn(rows, inputs) * torch.logspace(-3, 3, rows)[:, None]
    x[-1] = 0
    return x


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 64), (64, 128), (150, 192), (257, 64)])
def test_product_is_that_of_the_rounded_numbers(rows: int, outputs: int, inputs: int, bits: int) -> None:
    """Rotated rows, as integers, times integers, times the scales of both groups, plus the bias."""
    from prelim.kernels.product import packed_product

    torch.manual_seed(rows)
    weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    stored = weight
    if bits == 4:
        stored = torch.randint(0, 256, (outputs, inputs // 2), dtype=torch.uint8)
        halves = torch.stack([stored >> 4, stored & 15], dim=2).flatten(1).long()
        weight = torch.tensor(FOUR_BITS, dtype=torch.int8)[halves]
    scale, bias, x = scales(weight), torch.randn(outputs), random_rows(rows, inputs)
    restored = weight.double() * scale.double().repeat_interleave(GROUP, dim=1)
    turned = rotated(x).double()
    groups = turned.view(rows, -1, GROUP)
    unit = groups.abs().amax(-1, keepdim=True) / 127
    rounded = torch.where(unit > 0, (groups / unit).round() * unit, 0).view(rows, inputs)
    wanted = rounded @ restored.T + bias
    y = packed_product(stored, scale, bias)(x)
    size = (turned.abs() @ restored.abs().T).amax(-1, keepdim=True) + 1
    # A number half-way between two integers may be rounded to either: one unit of one input.
    assert ((y - wanted).abs() / size).max() < 1e-2 / inputs**0.5
    assert torch.equal(y[-1], bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 13])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 64), (150, 192), (257, 64)])
def test_product_is_that_of_matrices(dtype: torch.dtype, rows: int, outputs: int, inputs: int) -> None:
    """For weights that are not integers: the matrix product and the bias, summed in float32."""
    from prelim.kernels.product import packed_product

    torch.manual_seed(rows)
    weight, bias, x = torch.randn(outputs, inputs).to(dtype), torch.randn(outputs), torch.randn(rows, inputs).to(dtype)
    wanted = x.double() @ weight.double().T + bias
    got = packed_product(weight, None, bias)(x)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), wanted, atol=1e-4, rtol=1e-6 if dtype == torch.float32 else 2**-8)


def test_rows_are_independent() -> None:
    """A row's product is the same, bit for bit, whatever other rows are multiplied with it."""
    from prelim.kernels.product import packed_product

    torch.manual_seed(1)
    weight = torch.randint(-127, 128, (200, 256), dtype=torch.int8)
    product = packed_product(weight, scales(weight), None)
    x = random_rows(9, 256)
    together = product(x)
    for row in range(9):
        assert torch.equal(product(x[row : row + 1])[0], together[row])


def test_a_large_input_coarsens_its_group_alone() -> None:
    """An outlier leaves the precision of all other groups as it is."""
    from prelim.kernels.product import packed_product

    torch.manual_seed(2)
    weight, x = torch.randint(-127, 128, (64, 256), dtype=torch.int8), torch.randn(1, 256)
    product = packed_product(weight, torch.ones_like(scales(weight)), None)
    loud = x.clone()
    loud[0, 0] = 1000
    difference = (product(loud) - product(x))[0] - rotated(loud - x) @ weight.float().T
    assert (
        difference.abs().max() < 64 * 127 * 1000 / 127
    )  # of the first group: half a unit of 1000 / 127 for each input


@pytest.mark.parametrize("dimensions", DECODERS.values(), ids=DECODERS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8_dynamic"])
@pytest.mark.parametrize(("slots", "rows"), [(1, 1), (2, 3), (3, 5)])
def test_compiled_step_equals_layers(dimensions: dict[str, Any], precision: str, slots: int, rows: int) -> None:
    """For every shape of decoder, slots and rows of each."""
    check(dimensions, precision, slots, rows)


def check(dimensions: dict[str, Any], precision: str, slots: int, rows: int) -> None:
    """The compiled step gives the logits of the layers called one by one, and writes the same keys and values."""
    layered, compiled = decoder(dimensions, precision), decoder(dimensions, precision)
    tolerance = {"fp32": 2e-6, "bf16": 2e-2, "int8_dynamic": 5e-3, "int4_dynamic": 5e-3}[precision]
    pack(compiled)
    assert compiled.compiled is not None
    if precision.endswith("dynamic"):
        # Only products of packed layers round what they read.
        pack(layered)
        layered.compiled, layered.step_attending = None, Attending
    torch.manual_seed(3)
    c = layered.config
    length, columns = 9, 16
    history = torch.randn(c.layers, 2, slots + 1, c.kv_heads or c.heads, columns, c.head_width or c.width // c.heads)
    history = history.to(layered.norm.weight.dtype)
    token_ids = torch.randint(0, c.vocab_size, (slots, rows))
    columns_of = torch.stack([torch.randperm(length)[:rows] for _ in range(slots)])
    positions, earlier = torch.full((slots, rows), 20), torch.randint(14, 20, (slots + 1, columns))
    mask = torch.rand(slots, 1, rows, length) < 0.6
    mask.scatter_(3, columns_of[:, None, :, None], True)
    results = []
    for network in (layered, compiled):
        state = network.new_state(slots + 1)
        state.cache.layers = [layer.clone() for layer in history]
        state.positions = earlier.clone()
        with torch.inference_mode():
            logits = network.step(
                state, state.cache.places(slice(0, slots), columns_of, length), token_ids, positions, mask
            )
        results.append((logits, state.cache))
    (wanted, wanted_cache), (got, got_cache) = results
    # What differs in the last bits may be rounded to a neighboring integer: a 127th of a group's largest value. Layers
    # of bfloat16 round all that flows between them, the compiled step only what it multiplies.
    assert (got - wanted).norm() / wanted.norm() < tolerance
    for a, b in zip(wanted_cache.layers, got_cache.layers, strict=True):
        assert (a - b).norm() / a.norm() < tolerance
        assert torch.equal(a[:, slots], b[:, slots]), "the slot that takes no part is as it was"
    if precision != "bf16":
        first = wanted_cache.layers[0], got_cache.layers[0]
        assert torch.allclose(*first, atol=1e-5), "the first layer reads the same numbers"


@pytest.mark.parametrize("dimensions", [LLAMA, BIOGPT], ids=["llama", "biogpt"])
def test_compiled_step_with_four_bits(dimensions: dict[str, Any]) -> None:
    """The step differs from that of eight in its products alone, so a sample does."""
    check(dimensions, "int4_dynamic", 2, 3)


@pytest.mark.parametrize("dimensions", DECODERS.values(), ids=DECODERS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8_dynamic"])
def test_slots_are_independent_in_the_compiled_step(dimensions: dict[str, Any], precision: str) -> None:
    """A slot's logits are the same, bit for bit, alone and with others."""
    network = decoder(dimensions, precision)
    pack(network)
    torch.manual_seed(4)
    c = network.config
    history = torch.randn(c.layers, 2, 4, c.kv_heads or c.heads, 8, c.head_width or c.width // c.heads)
    history = history.to(network.norm.weight.dtype)
    token_ids, positions = torch.randint(0, c.vocab_size, (4, 3)), torch.full((4, 3), 7)
    written = torch.arange(5, 8).expand(4, 3)
    mask = torch.ones(4, 1, 3, 8, dtype=torch.bool)

    def logits(chosen: list[int]) -> Tensor:
        state = network.new_state(len(chosen))
        state.cache.layers = [layer[:, chosen].clone() for layer in history]
        places = state.cache.places(slice(0, len(chosen)), written[chosen], 8)
        with torch.inference_mode():
            return network.step(state, places, token_ids[chosen], positions[chosen], mask[chosen])

    together = logits([0, 1, 2, 3])
    for slot in range(4):
        assert torch.equal(logits([slot])[0], together[slot])


@pytest.mark.parametrize("dimensions", [LLAMA, PHI, GEMMA3], ids=["llama", "phi", "gemma3"])
@pytest.mark.parametrize("precision", ["fp32", "int8_dynamic"])
def test_a_step_on_several_threads(same_on_all_threads: Any, precision: str, dimensions: dict[str, Any]) -> None:
    """Each phase begins when all threads have ended the one before."""
    network = decoder(dimensions, precision)
    pack(network)
    columns, mask = torch.arange(5, 8).expand(2, 3), torch.ones(2, 1, 3, 8, dtype=torch.bool)

    def compute(seed: int) -> Tensor:
        torch.manual_seed(seed)
        state = network.new_state(2)
        state.cache.reserve(2, 8)
        for layer in state.cache.layers:
            layer.normal_()
        places = state.cache.places(slice(0, 2), columns, 8)
        with torch.inference_mode():
            logits = network.step(state, places, torch.randint(150, (2, 3)), torch.full((2, 3), 7), mask)
        return torch.cat([tensor.flatten() for tensor in (logits, *state.cache.layers)])

    same_on_all_threads(compute)


@pytest.mark.parametrize("precision", ["int8_dynamic", "int4_dynamic"])
@pytest.mark.parametrize("compiled", [False, True])
def test_other_processors(monkeypatch: pytest.MonkeyPatch, precision: str, compiled: bool) -> None:
    """PyTorch's operations without AVX2, and rows that are not rounded where no instruction multiplies integers."""
    here = decoder(BIOGPT, precision)
    pack(here)
    if compiled:
        chosen = instructions.chosen()
        assert chosen is not None
        poorer = dataclasses.replace(chosen, name="poorer", integers=None)
        monkeypatch.setattr("prelim.kernels.instructions.chosen", lambda: poorer)
    else:
        monkeypatch.setattr("prelim.decoders.packed.unavailable", lambda: "no AVX2")
    elsewhere = decoder(BIOGPT, precision)
    pack(elsewhere)
    assert (elsewhere.compiled is not None) == compiled
    x = torch.randn(1, 4, 128)
    cache = KVCache(layers=2, heads=4, head_width=32, dtype=torch.float32, device=torch.device("cpu"))
    cache.reserve(1, 4)
    results = []
    for network in (here, elsewhere):
        places = cache.prefix_places(slice(0, 1), 4)
        with torch.inference_mode():
            results.append(network._score(network._hidden(x, places.columns, places, [Attending(causal=True)])))
    assert (results[0] - results[1]).norm() / results[0].norm() < 0.05
    if compiled:
        check(LLAMA, precision, 2, 3)
