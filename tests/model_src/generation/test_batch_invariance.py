"""A request's sequences, log-probabilities and logits are the same, bit for bit, alone and among others."""

import random
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
import torch

from benchmarks.models.real_models import SMOLLM2, load_model
from prelim.decoders.decoder import IMAGE
from prelim.decoders.packed import STEP_ROWS, pack
from prelim.decoders.precision import PRECISIONS, stored_weights
from prelim.decoders.weights_file import materialize
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.options import MAX_BEAMS
from prelim.kernels import unavailable
from prelim.kernels.instructions import available
from prelim.networks.agreement import Prefix, RealModel
from prelim.networks.trained_decoder import empty_decoder, serving_decoder
from tests.batches import OPTIONS, alone, decode, draw_options

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))

EOS, WIDTH, TOKENS = 2, 128, 7
SIZES = {"vocab_size": 200, "width": WIDTH, "layers": 2, "heads": 4, "feedforward": 192, "max_positions": 64}
CAUSAL = {"kind": "causal_lm", **SIZES, "tied": True}
KINDS: dict[str, dict[str, Any]] = {
    "biogpt": {**CAUSAL, "position_offset": 2, "attention_bias": True, "out_bias": True, "feedforward_bias": True},
    "llama": {**CAUSAL, "kv_heads": 2, "norm": "rms_norm", "activation": "silu", "gated": True},
    "gemma3": {
        **CAUSAL,
        "kv_heads": 2,
        "norm": "rms_norm",
        "activation": "gelu_tanh",
        "gated": True,
        "post_norms": True,
        "query_key_norms": True,
        "window": 6,
        "window_layers": [0],
        "window_rotary": True,
        "mutual_images": True,
    },
    "phi": {**CAUSAL, "parallel": True, "attention_bias": True, "tied": False, "head_bias": True},
    "adapters": {**CAUSAL, "norm": "rms_norm", "adapters": {"qkv": 5, "down": 8}},
    "odd": {**CAUSAL, "width": 80, "feedforward": 112},
    "cross_attention": {"kind": "cross_attention", **SIZES},
    "keras": {"kind": "cross_attention", **SIZES, "blank_padding": True, "head_hidden": 72},
}


def random_decoder(kind: str, precision: str, *, shared: bool) -> Any:
    """A served decoder of random weights."""
    torch.manual_seed(0)
    section = KINDS[kind]
    empty = empty_decoder(section, "fp32")
    weights = {name: torch.randn(p.shape) * 0.15 for name, p in empty.named_parameters()}
    served: Any = empty_decoder(section, precision)
    stored = stored_weights(served, weights, precision)
    served.load_state_dict({name: materialize(tensor) for name, tensor in stored.items()}, assign=True)
    return pack(served.eval().requires_grad_(False), shared=shared)


@pytest.mark.parametrize("shared", [False, True], ids=["packed", "shared"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_neighbor_changes_a_bit(kind: str, precision: str, shared: bool) -> None:
    """For every shape of decoder, in every precision, with packed and with shared weights."""
    decoder = random_decoder(kind, precision, shared=shared)
    ids = (1,) if KINDS[kind]["kind"] == "cross_attention" else (1, IMAGE, 5)
    torch.manual_seed(1)
    embeds = torch.randn(2 * len(OPTIONS), TOKENS, KINDS[kind]["width"])
    requests = {f"{i}": DecodeRequest(one, ids, OPTIONS[i % len(OPTIONS)]) for i, one in enumerate(embeds)}

    assert decode(decoder, requests, 6, EOS) == alone(decoder, requests, EOS)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["biogpt", "llama", "keras"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [one.name for one in available()[1:]])
def test_no_neighbor_changes_a_bit_on_other_processors(
    on_processor: Callable[[str], None], name: str, precision: str, kind: str
) -> None:
    """As above, with the instructions of processors that have less; products alone are a cheaper sample of it."""
    on_processor(name)
    test_no_neighbor_changes_a_bit(kind, precision, shared=False)


def run_random(kind: str, precision: str, count: int) -> None:
    """Decode random requests alone, and in batches of random sizes and order, among others that are canceled."""
    decoder = random_decoder(kind, precision, shared=False)
    draw = random.Random(f"{kind} {precision}")
    torch.manual_seed(2)
    ids = [(1,), (1, 4, 6)] if KINDS[kind]["kind"] == "cross_attention" else [(1, IMAGE, 5), (3, IMAGE)]
    requests = {
        f"{i}": DecodeRequest(torch.randn(TOKENS, WIDTH), draw.choice(ids), draw_options(draw)) for i in range(count)
    }
    by_themselves = alone(decoder, requests, EOS)
    for _ in range(2):
        order = {key: requests[key] for key in draw.sample(list(requests), count)}
        leaving = {f"leaves {key}": DecodeRequest(r.image_embeds, r.prompt_ids, r.options) for key, r in order.items()}
        kept = draw.sample(list(leaving), count // 8)
        mixed = list((order | {key: leaving[key] for key in kept}).items())
        draw.shuffle(mixed)
        together = decode(decoder, dict(mixed), draw.randint(2, 9), EOS, draw=draw, leaving=kept)
        assert {key: together[key] for key in requests} == by_themselves


@pytest.mark.parametrize(
    ("kind", "precision"),
    [*product(("biogpt", "cross_attention"), ("fp32", "bf16", "int8_dynamic")), ("biogpt", "int4_dynamic")],
)
def test_random_requests(kind: str, precision: str) -> None:
    """A sample of the thousand requests below."""
    run_random(kind, precision, 24)


@pytest.mark.exhaustive
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8_dynamic", "int4_dynamic"])
@pytest.mark.parametrize("kind", ["biogpt", "llama", "cross_attention", "keras"])
def test_a_thousand_random_requests(kind: str, precision: str) -> None:
    """Beams, sampling, penalties, lengths and stop texts; all bits, in any batch and order of entry."""
    run_random(kind, precision, 1000)


def test_a_step_has_no_more_rows_than_layers_take_one_by_one() -> None:
    """More queries than the largest request has rows are a prefix, which is read alone."""
    assert STEP_ROWS == MAX_BEAMS


@pytest.fixture(scope="module")
def speaking(smollm2_read_once: None) -> RealModel:
    """SmolLM2 and twenty prompts."""
    try:
        return load_model(SMOLLM2, 1, 20, 24)
    except FileNotFoundError as error:
        pytest.skip(str(error))


def check(model: RealModel, prefixes: Sequence[Prefix], precision: str, *, shared: bool) -> None:
    """Prefixes alone and together."""
    decoder = serving_decoder(model.decoder, precision, packed=not shared)
    requests = {
        f"{i}": DecodeRequest(prefix.image_embeds, prefix.prompt_ids, OPTIONS[i % len(OPTIONS)])
        for i, prefix in enumerate(prefixes)
    }
    assert decode(decoder, requests, 8, model.eos_token_id) == alone(decoder, requests, model.eos_token_id)


SOONEST = ("bf16", "int8", "int8_dynamic")
"""Precisions in which a last bit changes a word soonest."""


@pytest.mark.parametrize("precision", SOONEST)
def test_a_language_model_writes_the_same(speaking: RealModel, precision: str) -> None:
    """SmolLM2, five prompts in an in-flight batch."""
    check(speaking, speaking.prefixes[::4], precision, shared=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "shared"),
    [*((name, False) for name in PRECISIONS if name not in SOONEST), *((name, True) for name in PRECISIONS)],
)
def test_a_language_model_writes_the_same_in_other_precisions(
    speaking: RealModel, precision: str, shared: bool
) -> None:
    """In those left, and with shared weights: three prompts."""
    check(speaking, speaking.prefixes[::7], precision, shared=shared)


@pytest.mark.exhaustive
@pytest.mark.parametrize("shared", [False, True], ids=["packed", "shared"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_twenty_prompts_in_every_precision(speaking: RealModel, precision: str, shared: bool) -> None:
    """The whole of what the two above sample."""
    check(speaking, speaking.prefixes, precision, shared=shared)
