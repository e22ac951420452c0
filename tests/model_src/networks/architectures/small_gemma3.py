"""A small Gemma 3 with random weights, as `transformers` saves it, and its own generation."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, PreTrainedTokenizerFast

from prelim.generation.options import GenerationOptions
from tests.model_src.networks.architectures.imported_folder import generated_rows, save_tokenizer
from tests.model_src.networks.architectures.small_xraygpt import LETTERS, SPECIAL

MARKS = ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>")
FIRST = len(SPECIAL) + len(LETTERS)
END_OF_TURN, BEGIN, END, IMAGE_TOKEN = range(FIRST + 1, FIRST + 5)
EOS_TOKENS, PAD_TOKEN = [2, END_OF_TURN], 0
VOCABULARY = FIRST + len(MARKS) + 3
SIDE, PATCH, TOKENS = 32, 4, 16
WINDOW = 7
TEXT: dict[str, Any] = {
    "model_type": "gemma3_text",
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "query_pre_attn_scalar": 20,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e2},
    },
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": PAD_TOKEN,
}
VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": SIDE,
    "patch_size": PATCH,
    "vision_use_head": False,
}
PROCESSOR: dict[str, Any] = {
    "image_processor_type": "Gemma3ImageProcessor",
    "size": {"height": SIDE, "width": SIDE},
    "resample": 2,
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.3, 0.2, 0.2],
    "image_seq_length": TOKENS,
    "do_convert_rgb": None,
    "do_pan_and_scan": None,
    "pan_and_scan_max_num_crops": None,
}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<start_of_image>{% else %}{{ c['text'] | trim }}"
    "{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def small_gemma3(text: Mapping[str, Any] | None = None, **changed: Any) -> Any:
    """A random model whose reports depend on the image and sometimes end early.

    text    : changes to the language model's configuration
    changed : changes to that of the whole
    """
    torch.manual_seed(0)
    config = Gemma3Config(
        **{
            "vision_config": VISION,
            "text_config": {**TEXT, **(text or {})},
            "mm_tokens_per_image": TOKENS,
            "image_token_index": IMAGE_TOKEN,
            "boi_token_index": BEGIN,
            "eoi_token_index": END,
            **changed,
        }
    )
    model = Gemma3ForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(mean=1.0 if "layer_norm" in name or "layernorm.w" in name else 0.0, std=0.3)
            elif "embed_tokens" in name:
                # Otherwise a token's own score outweighs what was read before it.
                parameter.normal_(std=0.05)
            else:
                parameter.normal_(std=(2.0 if "language_model" in name else 1.5) / parameter.shape[-1] ** 0.5)
    return model.eval()


def save_gemma3(model: Any, folder: Path) -> Path:
    """Save model, image processor and tokenizer, with its chat template."""
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR), encoding="utf-8")
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": EOS_TOKENS, "pad_token_id": PAD_TOKEN}), encoding="utf-8")
    save_tokenizer(folder, MARKS, TEMPLATE, bos_token="<s>", eos_token="</s>")  # noqa: S106
    return folder


def prompt_ids(folder: Path, prompt: str, images: int) -> Tensor:
    """Token ids of a prompt as the processor makes them from the folder's template, shape (1, length)."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": prompt}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    whole = f"\n\n<start_of_image>{'<image_soft_token>' * TOKENS}<end_of_image>\n\n"
    return torch.tensor([tokenizer(text.replace("<start_of_image>", whole), add_special_tokens=False).input_ids])


def originals_rows(
    model: Any, pixel_values: Tensor, ids: Tensor, options: GenerationOptions, **others: Any
) -> list[list[int]]:
    """Token ids by `generate` of each sequence that it returns.

    pixel_values : Tensor, shape (images, 3, SIDE, SIDE)
    others       : arguments of `generate`
    """
    inputs = {"input_ids": ids, "pixel_values": pixel_values, "token_type_ids": (ids == IMAGE_TOKEN).long()}
    return generated_rows(model, inputs, options, EOS_TOKENS, PAD_TOKEN, **others)
