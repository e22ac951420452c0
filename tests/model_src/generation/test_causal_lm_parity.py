"""With a causal language model and an image prefix the engine writes the token ids of `generate`."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from prelim.decoders.decoder import IMAGE
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
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
DIMENSIONS["qwen2"] = {**DIMENSIONS["llama"], "model_type": "qwen2"}
OPTIONS = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "system 0": {"num_beams": 5, "repetition_penalty": 1.5, "length_penalty": 2.0, "no_repeat_ngram_size": 3},
    "system 2": {"num_beams": 5, "early_stopping": True, "no_repeat_ngram_size": 2},
    "system 3": {"do_sample": True, "top_p": 0.9, "seed": 3},
    "beam sampling": {"do_sample": True, "num_beams": 3, "seed": 4, "num_return_sequences": 2},
}


def tiny_decoder(model_type: str) -> TransformersLM:
    """A random decoder whose choices depend on what it has read."""
    torch.manual_seed(0)
    decoder = TransformersLM(DIMENSIONS[model_type])
    for parameter in decoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=2.0 / parameter.shape[-1] ** 0.5)
    for name, parameter in decoder.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
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


@pytest.mark.parametrize(
    ("model_type", "window", "positions"),
    [
        ("mistral", {"sliding_window": 24}, 24),
        ("mistral", {"sliding_window": None}, 80),
        ("qwen2", {"sliding_window": 24, "use_sliding_window": True, "max_window_layers": 1}, 24),
        ("qwen2", {"sliding_window": 24, "use_sliding_window": True, "max_window_layers": 2}, 80),
        ("qwen2", {"sliding_window": 24, "use_sliding_window": False}, 80),
    ],
)
def test_texts_end_where_a_sliding_window_begins_to_matter(
    model_type: str, window: dict[str, Any], positions: int
) -> None:
    """Attention to a window is served up to the length at which it is attention to everything before."""
    decoder = TransformersLM({**DIMENSIONS[model_type], **window})

    assert serving_decoder(decoder.eval()).max_positions == positions
