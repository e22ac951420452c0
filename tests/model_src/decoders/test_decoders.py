"""Decoders without compiled kernels: logits of `transformers` and torch, precisions, and files of weights."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from prelim.decoders import KINDS, build_decoder, empty_decoder
from prelim.decoders.causal_lm import CausalLMConfig, CausalLMDecoder
from prelim.decoders.cross_attention import CrossAttentionConfig, CrossAttentionDecoder
from prelim.decoders.decoder import IMAGE, PADDING
from prelim.decoders.precision import quantize, stored_weights
from prelim.decoders.quantized import Int8Embedding, Int8Linear, NF4Linear
from prelim.decoders.token_embedding import TokenEmbedding
from prelim.decoders.weights_file import (
    ALIGNMENT,
    LazyTensor,
    check_weights,
    load_weights,
    materialize,
    read_weights,
    write_weights,
)
from prelim.errors import ArchiveError
from prelim.networks.trained_decoder import for_serving
from prelim.networks.transformers_lm import TransformersLM


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal random numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SECTION: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 80,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "biogpt": {"model_type": "biogpt", **SECTION},
    "llama": {"model_type": "llama", **SECTION, "num_key_value_heads": 2, "tie_word_embeddings": False},
    "wide heads": {"model_type": "llama", **SECTION, "head_dim": 12, "tie_word_embeddings": True},
}


def published(name: str) -> TransformersLM:
    """A random model of `transformers`."""
    torch.manual_seed(0)
    lm = TransformersLM(MODELS[name])
    for parameter in lm.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=2.0 / parameter.shape[-1] ** 0.5)
    return lm.eval()


def unpacked(lm: Any, precision: str = "fp32") -> Any:
    """Its served form, as PyTorch's operations compute it."""
    _, served, weights = for_serving(lm, precision)
    served.load_state_dict({name: materialize(tensor) for name, tensor in weights.items()}, assign=True)
    return served.eval().requires_grad_(False)


@pytest.mark.parametrize("name", MODELS)
def test_causal_lm_is_that_of_transformers(name: str) -> None:
    """Logits after a prefix and after two more tokens, one of them in each of two rows, equal `transformers`'."""
    lm = published(name)
    theirs = AutoModelForCausalLM.from_config(lm.config).eval()
    theirs.base_model.load_state_dict(lm.body.state_dict())
    if lm.lm_head is not None:
        theirs.get_output_embeddings().load_state_dict(lm.lm_head.state_dict())
    decoder = unpacked(lm)
    image, prompt = random(1, 3, 32), torch.tensor([[5, IMAGE, 7, 8]])
    assert decoder.history((5, IMAGE, 7, 8)) == ()
    state = decoder.new_state(2)
    state.cache.reserve(2, 10)
    with torch.inference_mode():
        embeds = lm.embed(image, prompt)
        first = decoder.prefill(state, state.cache.prefix_places(slice(1, 2), 6), image, prompt)
        torch.testing.assert_close(first, theirs(inputs_embeds=embeds.clone()).logits[:, -1], atol=1e-4, rtol=1e-4)
        mask = torch.ones(1, 1, 2, 8, dtype=torch.bool)
        mask[0, 0, 0, 7] = mask[0, 0, 1, 6] = False  # the rows do not see each other
        places = state.cache.places(slice(1, 2), torch.tensor([[6, 7]]), 8)
        logits = decoder.step(state, places, torch.tensor([[9, 20]]), torch.full((1, 2), 6), mask)
        for row, token in enumerate((9, 20)):
            word = lm.embed(image[:, :0], torch.tensor([[IMAGE, token]]))
            expected = theirs(inputs_embeds=torch.cat([embeds, word], dim=1)).logits[0, -1]
            torch.testing.assert_close(logits[0, row], expected, atol=1e-4, rtol=1e-4)
    assert state.cache.layers[0][:, 0].abs().sum() == 0, "the other slot is untouched"
    state.move(1, 0, 8)
    assert torch.equal(state.cache.layers[1][:, 0, :, :8], state.cache.layers[1][:, 1, :, :8])
    state.clear(1, 8)
    assert state.cache.layers[1][:, 1].abs().sum() == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int8_dynamic", "int4_dynamic"])
@pytest.mark.parametrize("name", ["biogpt", "llama"])
def test_precisions_are_near_float32(name: str, precision: str) -> None:
    """Logits of a decoder in fewer bits are those of float32 up to the error of that many bits."""
    image, prompt = random(1, 3, 32), torch.tensor([[IMAGE, 7]])
    results = []
    for bits in ("fp32", precision):
        decoder = unpacked(published(name), bits)
        state = decoder.new_state(1)
        state.cache.reserve(1, 4)
        with torch.inference_mode():
            results.append(decoder.prefill(state, state.cache.prefix_places(slice(0, 1), 4), image, prompt).float())
    error = (results[0] - results[1]).norm() / results[0].norm()
    most = {"fp32": 0, "bf16": 0.04, "int8": 0.05, "int8_dynamic": 0.1, "int4_dynamic": 0.45}
    assert error <= most[precision]
    assert (error > 0) == (precision != "fp32")


@pytest.mark.parametrize(("precision", "kinds"), [
    ("fp32", (nn.Linear, TokenEmbedding, nn.Linear)),
    ("int8", (Int8Linear, TokenEmbedding, Int8Linear)),
    ("nf4", (NF4Linear, TokenEmbedding, nn.Linear)),
])  # fmt: skip
def test_which_layers_have_fewer_bits(precision: str, kinds: tuple[type, ...]) -> None:
    """Embeddings only where they also score tokens; the scores of tokens stay in 16 bits with nf4."""
    section = {"vocab_size": 64, "width": 64, "layers": 1, "heads": 2, "feedforward": 64, "max_positions": 8}
    decoder: Any = quantize(CausalLMDecoder(CausalLMConfig(**section)), precision)
    assert tuple(map(type, (decoder.layers[0].qkv, decoder.words, decoder.lm_head))) == kinds
    tied: Any = quantize(CausalLMDecoder(CausalLMConfig(**section, tied=True)), precision)
    assert type(tied.words) is (Int8Embedding if precision == "int8" else TokenEmbedding)
    assert tied.lm_head is None


def test_what_is_stored_in_which_type() -> None:
    """Matrices as their layers store them, integers and frequencies as they are, all else in the precision's type."""
    section = {"vocab_size": 64, "width": 64, "layers": 1, "heads": 2, "feedforward": 64, "max_positions": 8}
    empty = empty_decoder({"kind": "causal_lm", **section}, "int8")
    weights = dict(CausalLMDecoder(CausalLMConfig(**section)).named_parameters()) | {"count": torch.arange(3)}

    stored = stored_weights(empty, weights, "int8")

    assert stored["layers.0.qkv.weight"].dtype == torch.int8
    assert stored["layers.0.qkv.scale"].dtype == torch.bfloat16
    assert stored["norm.weight"].dtype == stored["words.weight"].dtype == torch.bfloat16
    assert materialize(stored["norm.weight"]).dtype == torch.bfloat16
    assert stored["inverse_frequencies"].dtype == torch.float32
    assert stored["count"] is weights["count"]
    assert stored_weights(empty_decoder({"kind": "causal_lm", **section}, "fp32"), weights, "fp32") == weights


def by_torch(config: CrossAttentionConfig, decoder: CrossAttentionDecoder, ids: Tensor, image: Tensor) -> Tensor:
    """Logits by torch.nn.TransformerDecoderLayer with the same weights."""
    x = decoder.token_embedding(ids) * config.embedding_scale + decoder.position_embedding[: ids.shape[1]]
    causal = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
    hidden_padding = torch.zeros(ids.shape, dtype=torch.float32).masked_fill(ids == config.pad_token_id, -torch.inf)
    for ours in decoder.layers:
        theirs = nn.TransformerDecoderLayer(
            config.width, config.heads, config.feedforward, batch_first=True, layer_norm_eps=config.norm_eps
        ).eval()
        names = {"self_attn": ours.self_attention, "multihead_attn": ours.cross_attention}
        for name, attention in names.items():
            layer = getattr(theirs, name)
            layer.in_proj_weight, layer.in_proj_bias = attention.in_proj.weight, attention.in_proj.bias
            layer.out_proj = attention.out_proj
        for name in ("linear1", "linear2", "norm1", "norm2", "norm3"):
            setattr(theirs, name, getattr(ours, name))
        x = theirs(x, image, tgt_mask=causal, tgt_key_padding_mask=hidden_padding)
    return decoder.logits(x)


def test_cross_attention_decoder_is_that_of_torch() -> None:
    """Teacher forcing, prefill and a step give the logits of torch.nn.TransformerDecoder; padding is hidden."""
    torch.manual_seed(0)
    config = CrossAttentionConfig(30, 32, 2, 4, 48, 16, embedding_scale=2.0, norm_eps=1e-3)
    decoder = CrossAttentionDecoder(config).eval()
    for parameter in decoder.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    ids, image = torch.tensor([[2, 7, 0, 9, 4]]), random(1, 3, 32)
    with torch.no_grad():
        expected = by_torch(config, decoder, ids, image)
        forced = decoder.teacher_forcing(image, ids[:, :1], ids[:, 1:])
        torch.testing.assert_close(forced, expected[:, : forced.shape[1]], atol=1e-5, rtol=1e-5)
        state = decoder.new_state(2)
        state.cache.reserve(2, 5)
        assert decoder.history((2, 7)) == (2, 7)
        first = decoder.prefill(state, state.cache.prefix_places(slice(1, 2), 2), image, ids[:, :2])
        torch.testing.assert_close(first, expected[:, 1], atol=1e-5, rtol=1e-5)
        hidden = [True, True, False, True, True]
        for position in range(2, 5):
            places = state.cache.places(slice(1, 2), torch.tensor([[position]]), position + 1)
            mask = torch.tensor(hidden[: position + 1])[None, None, None]
            here = torch.tensor([[position]])
            logits = decoder.step(state, places, ids[:, position : position + 1], here, mask)
            if hidden[position]:  # torch's layer gives NaN or ours the mean for padding itself
                torch.testing.assert_close(logits[:, 0], expected[:, position], atol=1e-5, rtol=1e-5)
    state.move(1, 0, 5)
    for key, value in state.images:
        assert torch.equal(key[0], key[1])
        assert torch.equal(value[0], value[1])
    state.clear(1, 5)
    for key, value in state.images:
        assert key[1].abs().sum() == value[1].abs().sum() == 0
        assert key[0].abs().sum() > 0


def test_padding_is_what_the_loss_ignores() -> None:
    """PyTorch's cross-entropy leaves it out without being told."""
    assert nn.CrossEntropyLoss().ignore_index == PADDING


def test_defaults_of_dimensions() -> None:
    """What a model.yaml leaves out."""
    section = {"vocab_size": 1, "width": 2, "layers": 3, "heads": 4, "feedforward": 5, "max_positions": 6}
    assert asdict(CrossAttentionConfig(**section)) == section | {
        "dropout": 0.1, "pad_token_id": 0, "hidden_dropout": None, "head_width": None, "norm_eps": 1e-5,
        "embedding_scale": 1.0, "blank_padding": False, "feedforward_relu": False, "head_hidden": None,
        "head_norm": False, "activation": "relu", "pre_norm": False, "embedding_norm": False, "tied": False,
        "image_width": None, "hide_padding": True,
    }  # fmt: skip
    assert asdict(CausalLMConfig(**section)) == section | {
        "kv_heads": None, "head_width": None, "norm": "layer_norm", "norm_eps": 1e-5, "activation": "gelu",
        "gated": False, "embedding_scale": 1.0, "position_offset": None, "rotary_scale": 1.0, "attention_bias": False,
        "out_bias": False, "feedforward_bias": False, "head_bias": False, "tied": False, "parallel": False,
        "post_norms": False, "query_key_norms": False, "window": None, "window_layers": (), "window_rotary": False,
        "mutual_images": False, "image_token_id": None, "adapters": {}, "rotary_sections": (),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [({"kind": "x"}, "kind is 'x'; known: cross_attention, causal_lm"), ({"norm": "x"}, "norm is 'x'"),
     ({"activation": "relu"}, "activation is 'relu'"),
     ({"kind": "cross_attention", "activation": "silu"}, "activation is 'silu'; known: relu, gelu, gelu_tanh"),
     ({"kind": "cross_attention", "head_norm": True}, "head_norm needs head_hidden"),
     ({"kind": "cross_attention", "tied": True, "head_hidden": 4}, "head_hidden is 4; with tied embeddings")],
)  # fmt: skip
def test_unknown_kinds_are_named(change: dict[str, str], message: str) -> None:
    """With those that are known."""
    section = {
        "kind": "causal_lm",
        "vocab_size": 8,
        "width": 8,
        "layers": 1,
        "heads": 2,
        "feedforward": 8,
        "max_positions": 4,
    }
    assert isinstance(build_decoder(section), CausalLMDecoder)
    assert all(parameter.is_meta for parameter in empty_decoder(section, "fp32").parameters())
    assert KINDS == ("cross_attention", "causal_lm")
    with pytest.raises(ValueError, match=message):
        build_decoder(section | change)


WEIGHTS: dict[str, Tensor] = {
    "a": torch.arange(32, dtype=torch.float32).reshape(2, 16),
    "b": torch.arange(7, dtype=torch.int8),
    "c": random(64).bfloat16(),
    "d": torch.tensor(True),
    "e": torch.arange(16, dtype=torch.float64)[::2],
}


def test_file_of_weights(tmp_path: Path) -> None:
    """Equal tensors come back, memory-mapped and aligned; those that fill cache lines come first."""
    path = tmp_path / "w.safetensors"

    write_weights(path, WEIGHTS)

    found = read_weights(path)
    assert found.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    assert (length + 8) % ALIGNMENT == 0 == found["e"].data_ptr() % 8
    assert path.stat().st_size == 8 + length + sum(tensor.nbytes for tensor in WEIGHTS.values())
    with pytest.raises(ArchiveError, match="cannot be read"):
        read_weights(tmp_path / "none")
    wrong = LazyTensor((3,), torch.float32, lambda: torch.zeros(2))
    with pytest.raises(ArchiveError, match="x was materialized as"):
        write_weights(path, {"x": wrong})
    with pytest.raises(ArchiveError, match="x was materialized as"):
        write_weights(path, {"x": LazyTensor((2,), torch.float32, lambda: torch.zeros(2, dtype=torch.int32))})


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    """Missing, unknown and mis-shaped ones, all in one message; the module keeps what it has."""
    module = nn.Linear(2, 3)

    with pytest.raises(ArchiveError) as raised:
        load_weights(module, {"weight": torch.zeros(3, 3), "extra": torch.zeros(1)}, tmp_path)

    assert str(raised.value).endswith(
        "does not fit model.yaml: bias is missing; extra is unknown; weight has shape (3, 3), expected (3, 2)"
    )
    weights = {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
    check_weights(module, weights, tmp_path)
    load_weights(module, weights, tmp_path)
    assert module.weight.data_ptr() == weights["weight"].data_ptr()


def test_rotary_positions_by_hand() -> None:
    """A vector keeps its length, and its product with another depends on their distance alone (Su et al., 2021)."""
    decoder = CausalLMDecoder(CausalLMConfig(8, 8, 1, 2, 8, 16, rotary_scale=0.5))
    decoder.inverse_frequencies.data = torch.tensor([1.0, 0.1])
    cosine, sine = decoder._rotation(decoder.inverse_frequencies, torch.tensor([[3]]), torch.float32)

    angles = [3.0, 0.3, 3.0, 0.3]
    assert cosine.flatten().tolist() == pytest.approx([0.5 * math.cos(a) for a in angles])
    assert sine.flatten().tolist() == pytest.approx([0.5 * math.sin(a) for a in angles])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"parallel": True, "post_norms": True}, "no layer has both"),
        ({"window": 4}, "window is 4 with 0 window_layers"),
        ({"window_layers": [0]}, "window is None with 1 window_layers"),
        ({"window": 0, "window_layers": [0]}, "window is 0"),
        ({"activation": "relu"}, "activation is 'relu'; known: gelu, silu, gelu_tanh"),
    ],
)
def test_parts_that_contradict_each_other(parts: dict[str, Any], message: str) -> None:
    """They are refused where the dimensions are read."""
    section = {"vocab_size": 1, "width": 2, "layers": 3, "heads": 4, "feedforward": 5, "max_positions": 6}

    with pytest.raises(ValueError, match=message):
        CausalLMConfig(**section, **parts)
