"""A small BLIP with random weights, as `transformers` saves it, and its own captions."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BlipConfig, BlipForConditionalGeneration, BlipTextConfig, BlipVisionConfig

from tests.model_src.networks.architectures.small_xraygpt import LETTERS, SPECIAL, letters_tokenizer

SIDE = 32
START, END, PAD = 1, 2, 0
ADDED = ("[DEC]", "[ENC]")
VOCABULARY = len(SPECIAL) + len(LETTERS) + len(ADDED)
_SIZE: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}


def small_blip(width: int = 32, image_width: int = 24, *, tied: bool = True, **changed: Any) -> Any:
    """A random model whose captions depend on the image and sometimes end early.

    width, image_width : of text and image
    tied               : tokens are scored by their embeddings
    changed            : changes to the text's configuration
    """
    torch.manual_seed(0)
    tokens = {"bos_token_id": START, "sep_token_id": END, "pad_token_id": PAD, "eos_token_id": 5}
    text = {**_SIZE, **tokens, "vocab_size": VOCABULARY, "max_position_embeddings": 80, "hidden_size": width}
    vision = BlipVisionConfig(hidden_size=image_width, image_size=SIDE, patch_size=8, **_SIZE)
    texts = BlipTextConfig(**{**text, "tie_word_embeddings": tied, **changed})
    config = BlipConfig(text_config=texts, vision_config=vision, tie_word_embeddings=tied)
    model = BlipForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                of_text = 2.5 if name.startswith("text_decoder.") else 1.5
                parameter.normal_(std=of_text / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def save_blip(model: Any, folder: Path) -> Path:
    """Save model, image processor and tokenizer."""
    model.save_pretrained(folder)
    processor = {"image_processor_type": "BlipImageProcessor", "size": {"height": SIDE, "width": SIDE}, "resample": 3}
    processor |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.2, 0.2]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    tokenizer = letters_tokenizer()
    tokenizer.add_special_tokens(list(ADDED))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@torch.inference_mode()
def captions(model: Any, pixel_values: Tensor, prompt: str, **options: Any) -> list[int]:
    """Token ids by `generate` after the prompt."""
    words = letters_tokenizer().encode(prompt, add_special_tokens=False).ids
    # As its processor does: a token at the start, which the model replaces, and one at the end, which it drops.
    ids = torch.tensor([[0, *words, END]])
    found: list[int] = model.generate(pixel_values=pixel_values, input_ids=ids, **options)[0].tolist()
    return found[1 + len(words) :]
