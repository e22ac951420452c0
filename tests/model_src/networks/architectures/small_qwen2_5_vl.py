"""A small Qwen2.5-VL with random weights, as `transformers` saves it, and its own generation."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from prelim.generation.options import GenerationOptions
from tests.model_src.networks.architectures.imported_folder import generated_rows, save_tokenizer
from tests.model_src.networks.architectures.small_xraygpt import LETTERS, SPECIAL

MARKS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
FIRST = len(SPECIAL) + len(LETTERS)
START, END_OF_TURN, VISION_START, VISION_END, IMAGE_TOKEN, VIDEO_TOKEN = range(FIRST, FIRST + 6)
EOS_TOKENS, PAD_TOKEN = [END_OF_TURN, 2], 2
THINK = ("<think>", "</think>")
END_OF_THINKING = FIRST + len(MARKS) + 1
VOCABULARY = FIRST + len(MARKS) + 4
PATCH, MERGE, WINDOW = 4, 2, 3
UNIT = PATCH * MERGE
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    "bos_token_id": 1,
    "eos_token_id": END_OF_TURN,
    "pad_token_id": PAD_TOKEN,
}
VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": PATCH,
    "spatial_merge_size": MERGE,
    "window_size": WINDOW * UNIT,
    "fullatt_block_indexes": [1],
}
PROCESSOR: dict[str, Any] = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "min_pixels": 4 * UNIT**2,
    "max_pixels": 40 * UNIT**2,
    "patch_size": PATCH,
    "merge_size": MERGE,
    "temporal_patch_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def small_qwen(
    text: Mapping[str, Any] | None = None, vision: Mapping[str, Any] | None = None, **changed: Any
) -> Qwen2_5_VLForConditionalGeneration:
    """A random model whose reports depend on the image and sometimes end early.

    text, vision : changes to the configurations of these parts
    changed      : changes to that of the whole
    """
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        **{
            "text_config": {**TEXT, **(text or {})},
            "vision_config": {**VISION, **(vision or {})},
            "image_token_id": IMAGE_TOKEN,
            "video_token_id": VIDEO_TOKEN,
            "vision_start_token_id": VISION_START,
            "vision_end_token_id": VISION_END,
            "tie_word_embeddings": False,
            **changed,
        }
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(mean=1.0 if "norm" in name or "ln_q" in name else 0.0, std=0.3)
            elif "embed_tokens" in name:
                parameter.normal_(std=0.3)
            else:
                gain = 2.0 if "language_model" in name else 1.0 if "lm_head" in name else 1.5
                parameter.normal_(std=gain / parameter[0].numel() ** 0.5)
    return model.eval()


def save_qwen(model: Any, folder: Path) -> Path:
    """Save model, image processor and tokenizer, with its chat template."""
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR), encoding="utf-8")
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": EOS_TOKENS, "pad_token_id": PAD_TOKEN}), encoding="utf-8")
    save_tokenizer(folder, MARKS, TEMPLATE, eos_token="<|im_end|>")  # noqa: S106
    return folder


def save_thinking_qwen(folder: Path, prompt: str, image: bytes) -> Any:
    """Save a model with marks of reasoning, which its template begins and its report on one image ends; returns it."""
    model = small_qwen()
    save_qwen(model, folder)
    template = TEMPLATE.replace("assistant\n", f"assistant\n{THINK[0]}\n")
    save_tokenizer(folder, (*MARKS, *THINK), template, eos_token="<|im_end|>")  # noqa: S106
    read = processed(folder, [image])
    options = GenerationOptions(max_new_tokens=20, min_new_tokens=20)
    (tokens,) = originals_rows(model, read, prompt_ids(folder, prompt, read["image_grid_thw"]), options)
    # What is new after some tokens becomes the mark, and all before stays as it is.
    last = next(i for i in range(5, len(tokens)) if tokens[i] not in tokens[:i])
    with torch.no_grad():
        rows = [tokens[last], END_OF_THINKING]
        model.lm_head.weight[rows] = model.lm_head.weight[rows[::-1]]
    model.save_pretrained(folder)
    return model


def picture(seed: int, rows: int = 80, columns: int = 56) -> bytes:
    """A smooth random gray picture as a PNG file."""
    field = np.random.default_rng(seed).normal(size=(rows, columns)).cumsum(0).cumsum(1)
    file = io.BytesIO()
    Image.fromarray((255 * (field - field.min()) / np.ptp(field)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def processed(folder: Path, images: Sequence[bytes]) -> dict[str, Tensor]:
    """`pixel_values` and `image_grid_thw` by the folder's own processor."""
    processor: Any = Qwen2VLImageProcessorPil.from_pretrained(folder)
    files = [Image.open(io.BytesIO(image)).convert("RGB") for image in images]
    return dict(processor(images=files, return_tensors="pt"))


def patches_of(pictures: Sequence[Tensor], vision: Any) -> dict[str, Tensor]:
    """What the processor would make of pictures, each of shape (1, 3, rows, columns), that need no resizing."""
    patch, merge = vision.patch_size, vision.spatial_merge_size
    grids = [(1, picture.shape[2] // patch, picture.shape[3] // patch) for picture in pictures]
    flat = []
    for picture, (_, rows, columns) in zip(pictures, grids, strict=True):
        cut = picture[0].reshape(3, rows // merge, merge, patch, columns // merge, merge, patch)
        cut = cut.permute(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
        flat.append(cut.expand(*cut.shape[:5], vision.temporal_patch_size, -1, -1).reshape(rows * columns, -1))
    return {"pixel_values": torch.cat(flat), "image_grid_thw": torch.tensor(grids)}


def prompt_ids(folder: Path, prompt: str, grids: Tensor) -> Tensor:
    """Token ids of a prompt as the processor makes them from the folder's template, shape (1, length).

    grids : Tensor of int64, shape (images, 3), in patches
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    content = [*({"type": "image"} for _ in grids), {"type": "text", "text": prompt}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    first, *others = text.split("<|image_pad|>")
    tokens = (grids.prod(dim=1) // MERGE**2).tolist()
    whole = first + "".join("<|image_pad|>" * count + part for count, part in zip(tokens, others, strict=True))
    return torch.tensor([tokenizer(whole, add_special_tokens=False).input_ids])


def inputs_of(ids: Tensor, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the model reads."""
    return {"input_ids": ids, **images, "mm_token_type_ids": (ids == IMAGE_TOKEN).int()}


def originals_rows(
    model: Any, images: Mapping[str, Tensor], ids: Tensor, options: GenerationOptions, **others: Any
) -> list[list[int]]:
    """Token ids by `generate` of each sequence that it returns; `others` are arguments of `generate`."""
    return generated_rows(model, inputs_of(ids, images), options, EOS_TOKENS, PAD_TOKEN, **others)
