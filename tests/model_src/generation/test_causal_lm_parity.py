"""With a causal language model and an image prefix the engine writes the token ids of `generate`."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from prelim.decoders.decoder import IMAGE
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from prelim.kernels import unavailable
from prelim.networks.trained_decoder import serving_decoder
from prelim.networks.transformers_lm import TransformersLM
from tests.model_src.generation.reference import generate_arguments, run

EOS, PAD = 2, 1
DIMENSIONS: dict[str, dict[str, Any]] = {
    "biogpt": {
        "model_type": "biogpt",
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 80,
    },
    "llama": {
        "model_type": "llama",
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 80,
        "tie_word_embeddings": False,
    },
}
DIMENSIONS["mistral"] = {**DIMENSIONS["llama"], "model_type": "mistral", "sliding_window": 64, "head_dim": 16}
DIMENSIONS["mistral, short window"] = {**DIMENSIONS["mistral"], "sliding_window": 6}
DIMENSIONS["qwen2"] = {**DIMENSIONS["llama"], "model_type": "qwen2"}
DIMENSIONS["qwen2, windows"] = {
    **DIMENSIONS["qwen2"],
    "use_sliding_window": True,
    "sliding_window": 5,
    "max_window_layers": 1,
}
DIMENSIONS["qwen3"] = {**DIMENSIONS["llama"], "model_type": "qwen3", "head_dim": 12}
DIMENSIONS["phi"] = {**DIMENSIONS["llama"], "model_type": "phi", "partial_rotary_factor": 0.5}
DIMENSIONS["phi, norms"] = {**DIMENSIONS["phi"], "qk_layernorm": True, "num_key_value_heads": 4}
DIMENSIONS["gpt2"] = {
    "model_type": "gpt2",
    "vocab_size": 60,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 48,
    "n_positions": 80,
}
DIMENSIONS["gemma3"] = {
    **DIMENSIONS["llama"],
    "model_type": "gemma3_text",
    "tie_word_embeddings": True,
    "num_hidden_layers": 3,
    "head_dim": 12,
    "query_pre_attn_scalar": 20,
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e2},
    },
    "pad_token_id": 0,
}
DIMENSIONS["gemma3, windows only"] = {
    **DIMENSIONS["gemma3"],
    "num_hidden_layers": 2,
    "layer_types": None,
    "query_pre_attn_scalar": 12,
}
OPTIONS = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "system 0": {"num_beams": 5, "repetition_penalty": 1.5, "length_penalty": 2.0, "no_repeat_ngram_size": 3},
    "system 2": {"num_beams": 5, "early_stopping": True, "no_repeat_ngram_size": 2},
    "system 3": {"do_sample": True, "top_p": 0.9, "seed": 3},
    "no token twice": {"num_beams": 2, "no_repeat_ngram_size": 1, "min_new_tokens": 12},
    "beam sampling": {"do_sample": True, "num_beams": 3, "seed": 4, "num_return_sequences": 2},
}


def tiny_decoder(model_type: str, **more: Any) -> TransformersLM:
    """A random decoder whose choices depend on what it has read."""
    torch.manual_seed(0)
    decoder = TransformersLM({**DIMENSIONS[model_type], **more})
    for parameter in decoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=2.0 / parameter.shape[-1] ** 0.5)
    for name, parameter in decoder.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
        elif parameter.ndim == 1:
            parameter.data += torch.randn_like(parameter) * 0.3
    if decoder.lm_head is None:
        # Otherwise a token's own score outweighs what was read before it.
        decoder.body.get_input_embeddings().weight.data *= 0.1
    return decoder.eval()


def generate(decoder: TransformersLM, embeds: Tensor, options: GenerationOptions) -> list[list[int]]:
    """Token ids of `generate` with the same weights."""
    model = AutoModelForCausalLM.from_config(decoder.config).eval()
    model.base_model.load_state_dict(decoder.body.state_dict())
    if decoder.lm_head is not None:
        model.get_output_embeddings().load_state_dict(decoder.lm_head.state_dict())
    if options.seed is not None:
        torch.manual_seed(options.seed)
    tokens = model.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.int64),
        use_cache=True,
        eos_token_id=EOS,
        pad_token_id=PAD,
        **generate_arguments(options),
    )
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in tokens.tolist()]


@pytest.mark.parametrize("model_type", DIMENSIONS)
@pytest.mark.parametrize("name", OPTIONS)
def test_token_ids_equal_generate(model_type: str, name: str) -> None:
    """For each option and for prompts around the image the token ids are those of `generate`, alone and in a batch."""
    decoder = tiny_decoder(model_type)
    options = GenerationOptions(**{"max_new_tokens": 20, **OPTIONS[name]})
    prompts = [(IMAGE,), (IMAGE, 7, 8, 9), (5, 6, IMAGE, 7), (IMAGE, 9, 8, 7)]
    images = [torch.randn(5, 32, generator=torch.Generator().manual_seed(i)) for i in range(len(prompts))]
    requests = {
        f"{i}": DecodeRequest(image, prompt, options)
        for i, (image, prompt) in enumerate(zip(images, prompts, strict=True))
    }
    engine = Engine(serving_decoder(decoder), slots=4, eos_token_ids=[EOS], pad_token_id=PAD, detokenize=str)

    actual = run(engine, requests)

    for i, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        with torch.inference_mode():
            embeds = decoder.embed(image[None], torch.tensor([prompt]))
        assert actual[f"{i}"] == generate(decoder, embeds.clone(), options), prompt
        if options.no_repeat_ngram_size == 1:
            assert len(set(actual[f"{i}"][0])) >= 10


def logits(served: Any) -> Tensor:
    """Logits of a report given by a prompt and an image, shape (1, 12, vocab_size)."""
    image, report = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1)), torch.arange(12)[None] * 5 % 60
    with torch.inference_mode():
        scores: Tensor = served.teacher_forcing(image, torch.tensor([[7, IMAGE, 8]]), report)
    return scores


@pytest.mark.parametrize("model_type", DIMENSIONS)
def test_logits_equal_those_of_transformers(model_type: str) -> None:
    """To 1e-4, of a text that is longer than the windows."""
    decoder = tiny_decoder(model_type)

    torch.testing.assert_close(logits(serving_decoder(decoder)), logits(decoder), rtol=0, atol=1e-4)


def wrong_window(served: Any, by: int) -> None:
    """Let windows be longer."""
    served.config = replace(served.config, window=served.config.window + by)


def swapped_tables(served: Any) -> None:
    """Let layers read each other's rotary table."""
    served.inverse_frequencies, served.window_frequencies = served.window_frequencies, served.inverse_frequencies


FAULTS = {
    "window too long": partial(wrong_window, by=1),
    "window too short": partial(wrong_window, by=-1),
    "tables swapped": swapped_tables,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_parts_are_seen(fault: str) -> None:
    """A window that is off by one, and the wrong rotary table, give other token ids: these comparisons would fail."""
    decoder, found = tiny_decoder("gemma3"), []
    for breaks in (lambda _: None, FAULTS[fault]):
        served: Any = serving_decoder(decoder)
        breaks(served)
        engine = Engine(served, slots=1, eos_token_ids=[EOS], pad_token_id=PAD, detokenize=str)
        image = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
        request = DecodeRequest(image, (IMAGE, 7), GenerationOptions(max_new_tokens=20, **OPTIONS["no token twice"]))
        found.append((run(engine, {"": request}), logits(served)))

    (ids, scores), (other_ids, other_scores) = found
    assert ids != other_ids
    assert (scores - other_scores).abs().max() > 1e-2


@pytest.mark.parametrize("model_type", ["biogpt", "llama"])
def test_a_feedforward_of_any_width_is_filled(model_type: str) -> None:
    """With zeros, up to a width for which a step is compiled; the logits are those of the network."""
    decoder = tiny_decoder(model_type, hidden_size=64, intermediate_size=86)
    image, prompt, report = torch.randn(1, 3, 64), torch.tensor([[IMAGE, 7]]), torch.tensor([[5, 6, 7, 8]])
    served = serving_decoder(decoder)

    assert served.config.feedforward == 128
    assert (served.compiled is None) == (unavailable() is not None)
    with torch.inference_mode():
        wanted = decoder.teacher_forcing(image, prompt, report)
        torch.testing.assert_close(served.teacher_forcing(image, prompt, report), wanted, atol=1e-5, rtol=1e-5)
    adapted = {"rank": 2, "layers": ["fc1" if model_type == "biogpt" else "up_proj"]}
    assert serving_decoder(tiny_decoder(model_type, intermediate_size=86, adapter=adapted)).config.feedforward == 86


@pytest.mark.parametrize(
    ("model_type", "setting"),
    [
        ("gemma3", {"final_logit_softcapping": 30.0}),
        ("gemma3", {"attn_logit_softcapping": 50.0}),
        ("gemma3", {"use_bidirectional_attention": True}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"scale_attn_weights": False}),
        ("phi", {"tie_word_embeddings": True}),
        ("mistral", {"hidden_act": "relu"}),
    ],
)
def test_settings_that_are_not_served_are_named(model_type: str, setting: dict[str, Any]) -> None:
    """What would be computed wrongly is refused."""
    (name,) = setting

    with pytest.raises(ValueError, match=name):
        TransformersLM({**DIMENSIONS[model_type], **setting}).served()
