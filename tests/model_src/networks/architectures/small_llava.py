"""A small LLaVA with random weights, as `transformers` saves it, and its own generation."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    CLIPVisionConfig,
    Dinov2Config,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

from prelim.generation.options import GenerationOptions
from tests.model_src.networks.architectures.imported_folder import generated_rows
from tests.model_src.networks.architectures.small_xraygpt import LETTERS, SPECIAL, letters_tokenizer

EOS_TOKEN = 2
IMAGE_TOKEN = len(SPECIAL) + len(LETTERS)
PAD_TOKEN = IMAGE_TOKEN + 1
VOCABULARY = PAD_TOKEN + 5
SIDE, PATCH = 28, 7
TEXT: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": PAD_TOKEN,
}
VISION: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "image_size": SIDE,
    "patch_size": PATCH,
}
SIGLIP = SiglipVisionConfig(**VISION)
DINOV2 = Dinov2Config(**{**VISION, "mlp_ratio": 2, "layerscale_value": 0.7})
PROCESSOR: dict[str, Any] = {
    "size": {"shortest_edge": SIDE},
    "crop_size": {"height": SIDE, "width": SIDE},
    "resample": 3,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.3, 0.2, 0.2],
}


def small_llava(text: Mapping[str, Any] | None = None, **changed: Any) -> Any:
    """A random model whose reports depend on the image and sometimes end early.

    text    : changes to the language model's configuration
    changed : changes to that of the whole
    """
    torch.manual_seed(0)
    config = LlavaConfig(
        **{
            "vision_config": CLIPVisionConfig(**VISION),
            "text_config": {**TEXT, **(text or {})},
            "image_token_index": IMAGE_TOKEN,
            **changed,
        }
    )
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=(3.0 if "language_model" in name else 1.5) / parameter.shape[-1] ** 0.5)
        model.lm_head.weight[2] *= 1.5
    return model.eval()


def save_llava(model: Any, folder: Path) -> Path:
    """Save model, image processor and tokenizer."""
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR), encoding="utf-8")
    llava_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def llava_tokenizer() -> Tokenizer:
    """One token for each character, then those of image and padding."""
    tokenizer = letters_tokenizer()
    tokenizer.add_special_tokens(["<image>", "<pad>"])
    return tokenizer


def originals_ids(
    model: Any, pixel_values: torch.Tensor, before: str, after: str, options: GenerationOptions, **others: Any
) -> list[list[int]]:
    """`originals_rows` with all images between two texts, one line each."""
    return originals_rows(model, pixel_values, [before, *["\n"] * (len(pixel_values) - 1), after], options, **others)


def originals_rows(
    model: Any, pixel_values: torch.Tensor, texts: Sequence[str], options: GenerationOptions, **others: Any
) -> list[list[int]]:
    """Token ids by `generate` of each sequence that it returns.

    pixel_values : Tensor, shape (images, 3, SIDE, SIDE)
    texts        : around the images, one more than these
    others       : arguments of `generate`
    """
    tokenizer = llava_tokenizer()
    tokenizer.encode_special_tokens = True
    with torch.inference_mode():
        image = [IMAGE_TOKEN] * len(model.model.get_image_features(pixel_values[:1]).pooler_output[0])
    first, *further = (tokenizer.encode(text, add_special_tokens=False).ids for text in texts)
    ids = torch.tensor([[1, *first, *(token for text in further for token in (*image, *text))]])
    ends = others.pop("eos_token_id", EOS_TOKEN)
    return generated_rows(model, {"input_ids": ids, "pixel_values": pixel_values}, options, ends, PAD_TOKEN, **others)
