"""A small LLaVA-Med 1.5 with random weights, as LLaVA's own code saves it; transformers has no class for it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig

from prelim.generation.options import GenerationOptions
from tests.model_src.generation.reference import generate_arguments, without_filling
from tests.model_src.networks.architectures.imported_folder import pixel_values
from tests.model_src.networks.architectures.small_llava import (
    EOS_TOKEN,
    PAD_TOKEN,
    SIDE,
    TEXT,
    llava_tokenizer,
    small_llava,
)

VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "image_size": SIDE,
    "patch_size": 7,
}
SEARCHES = pytest.mark.parametrize(
    "changed",
    [
        {"no_repeat_ngram_size": 3, "min_new_tokens": 25},
        {"num_beams": 3, "no_repeat_ngram_size": 2, "min_new_tokens": 20},
        {"repetition_penalty": 1.3, "do_sample": True, "seed": 2, "min_new_tokens": 20},
    ],
)
"""Options whose token ids are compared with those of `generate` for embeddings, in which no prompt counts."""

_LLAVA = {"mm_vision_select_layer": "vision_feature_layer"}
"""Its name of a setting -> that of transformers."""


def small_llava_mistral(text: dict[str, Any] | None = None, **changed: Any) -> Any:
    """The same network of transformers; the arguments are those of `small_llava`."""
    mistral = {"model_type": "mistral", "sliding_window": None, **(text or {})}
    return small_llava(mistral, **{"vision_config": CLIPVisionConfig(**VISION), **changed})


def _saved_key(key: str) -> str:
    saved = key.replace("model.language_model.", "model.")
    saved = saved.replace("model.vision_tower.", "model.vision_tower.vision_tower.vision_model.")
    for i, name in enumerate(("linear_1", "linear_2")):
        saved = saved.replace(f"multi_modal_projector.{name}", f"mm_projector.{2 * i}")
    return saved


def read_original(folder: Path) -> Any:
    """The network of a folder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    known = {*TEXT, "rms_norm_eps", "rope_theta", "rope_scaling", "hidden_act", "sliding_window"} - {"model_type"}
    whole = {theirs: config[ours] for ours, theirs in _LLAVA.items() if ours in config}
    model = small_llava_mistral({name: value for name, value in config.items() if name in known}, **whole)
    weights = load_file(folder / "model.safetensors")
    own = model.state_dict()
    model.load_state_dict({key: weights[_saved_key(key)] for key in own})
    return model


def save_original(model: Any, folder: Path, **changes: Any) -> Path:
    """Save it as LLaVA's code does."""
    folder.mkdir()
    weights = {_saved_key(key): value.contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    config = {
        **{name: value for name, value in TEXT.items() if name != "model_type"},
        "model_type": "llava_mistral",
        "architectures": ["LlavaMistralForCausalLM"],
        "sliding_window": None,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": VISION["hidden_size"],
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad",
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    llava_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def ids_of_embeddings(
    model: Any, folder: Path, image: bytes, texts: tuple[str, str], options: GenerationOptions
) -> list[int]:
    """Token ids by `generate` as LLaVA's code calls it: with embeddings, whose texts are encoded one by one.

    folder : of the imported model, for its preprocessing
    texts  : before and after the image
    """
    tokenizer, embed = llava_tokenizer(), model.get_input_embeddings()
    first, rest = (tokenizer.encode(text, add_special_tokens=False).ids for text in texts)
    with torch.inference_mode():
        features = model.model.get_image_features(pixel_values(folder, [image])).pooler_output[0][None]
        embeds = torch.cat([embed(torch.tensor([[1, *first]])), features, embed(torch.tensor([rest]))], dim=1)
        if options.seed is not None:
            torch.manual_seed(options.seed)
        found = model.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.int64),
            **generate_arguments(options),
        )
    return without_filling(found[0].tolist(), EOS_TOKEN, PAD_TOKEN)
