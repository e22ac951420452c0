"""The compiled step of cross-attention decoders computes what their layers compute, each slot by itself."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from prelim.decoders import empty_decoder
from prelim.decoders.cross_attention import CrossAttentionConfig, CrossAttentionDecoder
from prelim.decoders.packed import pack
from prelim.decoders.precision import stored_weights
from prelim.decoders.weights_file import materialize
from prelim.kernels import GROUP, fits, unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))

PLAIN = {"vocab_size": 150, "width": 64, "layers": 2, "heads": 4, "feedforward": 128, "max_positions": 32}
KERAS = {"blank_padding": True, "feedforward_relu": True, "head_hidden": 192, "head_width": 32, "embedding_scale": 8.0}
BERT = {"activation": "gelu", "head_hidden": 64, "head_norm": True, "embedding_norm": True, "tied": True}
GPT2 = {"activation": "gelu_tanh", "pre_norm": True, "tied": True, "hide_padding": False}
ODD = {"width": 60, "layers": 3, "heads": 3, "feedforward": 50, "head_hidden": 37, "pre_norm": True}
DIMENSIONS: dict[str, dict[str, Any]] = {
    "torch": {},
    "keras": KERAS,
    "bert": BERT,
    "gpt2": GPT2,
    "no width a multiple of 8": ODD,
    "one width that cannot be packed": {"feedforward": 72, "head_hidden": 64, "norm_eps": 1e-2},
    "one layer and head": {"layers": 1, "heads": 1, "head_hidden": 128, "head_norm": True, "feedforward_relu": True},
}


def decoder(kind: str, precision: str = "fp32") -> CrossAttentionDecoder:
    """A decoder of random weights; its step is compiled by `pack`."""
    section = {"kind": "cross_attention", **PLAIN, **DIMENSIONS[kind]}
    config = CrossAttentionConfig(**{name: value for name, value in section.items() if name != "kind"})
    generator = torch.Generator().manual_seed(0)
    named = CrossAttentionDecoder(config).named_parameters()
    weights = {name: torch.randn(p.shape, generator=generator) * 0.2 for name, p in named}
    served: Any = empty_decoder(section, precision)
    stored = stored_weights(served, weights, precision)
    served.load_state_dict({name: materialize(tensor) for name, tensor in stored.items()}, assign=True)
    return served.eval().requires_grad_(False)


class Batch:
    """Requests after a few steps, the same for every decoder of these dimensions.

    length : columns of the cache that are in use
    """

    length = 9

    def __init__(self, config: CrossAttentionConfig, slots: int, rows: int, tokens: int, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        head_width = config.head_width or config.width // config.heads
        shape = (slots, config.layers, 2, config.heads, self.length, head_width)
        self.history = torch.randn(shape, generator=draw)
        self.images = torch.randn(slots, tokens, config.width, generator=draw)
        self.token_ids = torch.randint(0, config.vocab_size, (slots, rows), generator=draw)
        # Padding that the model has written itself.
        self.token_ids[0, -1] = config.pad_token_id
        self.positions = torch.randint(0, config.max_positions, (slots, 1), generator=draw).expand(-1, rows)
        order = [torch.randperm(self.length, generator=draw)[:rows] for _ in range(slots)]
        self.columns = torch.stack(order)
        self.mask = torch.rand(slots, 1, rows, self.length, generator=draw) < 0.6
        self.mask.scatter_(3, self.columns[:, None, :, None], True)

    def step(self, network: CrossAttentionDecoder, chosen: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Logits of these requests in the first slots, shape (slots, rows, vocab_size), and the cache, of all slots."""
        state = network.new_state(len(chosen) + 1)
        state.cache.reserve(len(chosen) + 1, self.length + 3)
        for layer, cache in enumerate(state.cache.layers):
            cache[:, : len(chosen), :, : self.length] = self.history[list(chosen), layer].transpose(0, 1)
        with torch.inference_mode():
            for slot, request in enumerate(chosen):
                image = self.images[request : request + 1].to(network.position_embedding.dtype)
                state.store_image(slice(slot, slot + 1), network.image_key_values(image))
            picked = (t[list(chosen)] for t in (self.columns, self.token_ids, self.positions, self.mask))
            columns, token_ids, positions, mask = picked
            places = state.cache.places(slice(0, len(chosen)), columns, self.length)
            return network.step(state, places, token_ids, positions, mask), state.cache.layers


def check(kind: str, precision: str, shape: tuple[int, int, int], tolerance: float, *, shared: bool = False) -> None:
    """Layers and compiled step agree in logits and in all that is in the cache."""
    layered, compiled = decoder(kind, precision), decoder(kind, precision)
    pack(compiled, shared=shared)
    assert compiled.compiled is not None
    assert compiled.not_compiled is None
    batch = Batch(layered.config, *shape)
    everybody = range(shape[0])
    (wanted, wanted_cache), (got, got_cache) = (batch.step(network, everybody) for network in (layered, compiled))
    assert (got.float() - wanted.float()).norm() / wanted.float().norm() < tolerance
    for a, b in zip(wanted_cache, got_cache, strict=True):
        assert a.dtype == b.dtype
        assert (a.float() - b.float()).norm() / a.float().norm() < tolerance
        assert not b[:, -1].any(), "the slot that takes no part is as it was"


@pytest.mark.parametrize("shape", [(1, 1, 7), (1, 3, 1), (2, 5, 20), (8, 2, 7)], ids=str)
@pytest.mark.parametrize("kind", DIMENSIONS)
def test_compiled_step_equals_layers(kind: str, shape: tuple[int, int, int]) -> None:
    """For every option of the decoder, slots, rows of each and tokens of an image."""
    check(kind, "fp32", shape, 2e-6)


@pytest.mark.parametrize("shared", [False, True], ids=["packed", "shared"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int8_dynamic", "nf4"])
def test_precisions(precision: str, shared: bool) -> None:
    """Layers of bfloat16 round all that flows between them, the compiled step only what it multiplies."""
    if precision == "int8_dynamic" and not fits(torch.zeros(1, GROUP, dtype=torch.int8)):
        pytest.skip("this processor does not multiply integers")
    check("keras", precision, (2, 3, 7), 2e-6 if precision.startswith("fp32") else 2e-2, shared=shared)


@pytest.mark.parametrize("kind", ["torch", "keras", "no width a multiple of 8"])
def test_slots_are_independent(kind: str) -> None:
    """A request's logits are the same, bit for bit, alone and with others, whichever slots they are in."""
    network = decoder(kind)
    pack(network)
    batch = Batch(network.config, 5, 3, 7)
    together, _ = batch.step(network, [4, 2, 0, 3, 1])
    for slot, request in enumerate([4, 2, 0, 3, 1]):
        assert torch.equal(batch.step(network, [request])[0][0], together[slot])


def test_a_step_on_several_threads(same_on_all_threads: Callable[[Callable[[int], Tensor]], None]) -> None:
    """Each phase begins when all threads have ended the one before."""
    network = decoder("keras")
    pack(network)

    def compute(seed: int) -> Tensor:
        logits, cache = Batch(network.config, 2, 3, 7, seed).step(network, [0, 1])
        return torch.cat([tensor.flatten() for tensor in (logits, *cache)])

    same_on_all_threads(compute)


def test_what_is_not_finite_reaches_the_logits_of_its_request() -> None:
    """NaN in one image makes the scores of that request NaN, and no others."""
    network = decoder("torch")
    pack(network)
    batch = Batch(network.config, 2, 2, 7)
    wanted, _ = batch.step(network, [0, 1])
    batch.images[1, 3, 5] = torch.nan
    got, _ = batch.step(network, [0, 1])
    assert torch.equal(got[0], wanted[0])
    assert got[1].isnan().all()


@pytest.mark.parametrize("given", ["token_ids", "positions"])
@pytest.mark.parametrize("beyond", [-1, 10**9])
def test_what_no_table_has_makes_its_row_nan(given: str, beyond: int) -> None:
    """A word or a position beyond the tables is never read, and the other request is as it was."""
    network = decoder("torch")
    pack(network)
    batch = Batch(network.config, 2, 2, 7)
    wanted, _ = batch.step(network, [0, 1])
    numbers = getattr(batch, given).clone()
    numbers[1] = beyond
    setattr(batch, given, numbers)
    got, _ = batch.step(network, [0, 1])
    assert torch.equal(got[0], wanted[0])
    assert got[1].isnan().all()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4"])
@pytest.mark.parametrize("kind", ["torch", "keras"])
def test_embeddings_have_the_bits_of_those_of_other_steps(kind: str, precision: str) -> None:
    """What the first layer stores of each row is a product of its embedding alone, in the step and in the layers."""
    network = decoder(kind, precision)
    pack(network)
    batch = Batch(network.config, 2, 3, 7)
    _, (of_step, *_) = batch.step(network, [0, 1])
    network.compiled = None
    _, (of_layers, *_) = batch.step(network, [0, 1])
    assert torch.equal(of_step, of_layers)


def test_integers_of_odd_widths() -> None:
    """Their last groups are filled with zeros."""
    if not fits(torch.zeros(1, GROUP, dtype=torch.int8)):
        pytest.skip("this processor does not multiply integers")
    check("no width a multiple of 8", "int8_dynamic", (2, 3, 7), 2e-2)
