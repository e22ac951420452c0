"""A small MAIRA-2 with random weights in its published form; transformers has no class for it."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import processors
from torch import nn
from transformers import Dinov2Backbone, Dinov2Config
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tests.model_src.networks.architectures.small_llava import (
    IMAGE_TOKEN,
    PROCESSOR,
    TEXT,
    VISION,
    llava_tokenizer,
    small_llava,
)

RAD_DINO: dict[str, Any] = {
    **{name: value for name, value in VISION.items() if name != "intermediate_size"},
    "mlp_ratio": 2,
    "out_features": ["stage4"],
    "reshape_hidden_states": False,
}
LONG = {"max_position_embeddings": 1024, "rope_parameters": {"rope_type": "linear", "factor": 1.5, "rope_theta": 1e4}}
LAYERS = 4
TEMPLATE = (
    "You are an assistant. {% for m in messages %}{{ m['role'] | upper }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
CONFIG: dict[str, Any] = {
    "model_type": "maira2",
    "architectures": ["Maira2ForConditionalGeneration"],
    "auto_map": {
        "AutoConfig": "configuration_maira2.Maira2Config",
        "AutoModelForCausalLM": "modeling_maira2.Maira2ForConditionalGeneration",
    },
    "image_token_index": IMAGE_TOKEN,
    "projector_hidden_act": "gelu",
    "projector_n_layers": LAYERS,
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "default",
    "vision_config": {"model_type": "dinov2", **RAD_DINO},
    "text_config": {**TEXT, **LONG},
}


def build_maira2(config: Mapping[str, Any]) -> Any:
    """The network of a config.json with random weights: a LLaVA with a feature map and more layers between."""
    tower_config = Dinov2Config(**config["vision_config"])
    model = small_llava(config["text_config"], vision_config=tower_config)
    torch.manual_seed(1)
    tower = Dinov2Backbone(tower_config)
    widths = [tower_config.hidden_size, *[model.config.text_config.hidden_size] * config["projector_n_layers"]]
    linear = [nn.Linear(a, b) for a, b in pairwise(widths)]
    activation = ACT2FN[config["projector_hidden_act"]]
    projector = nn.Sequential(*[layer for one in linear for layer in (one, activation)][:-1])
    for part in (tower, projector):
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=1.2 / parameter.shape[-1] ** 0.5)
    inner = model.model
    inner.vision_tower, inner.multi_modal_projector = tower.eval(), nn.ModuleDict({"layers": projector})

    def features(pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        maps = tower(pixel_values, output_hidden_states=True).feature_maps
        tokens = projector(maps[config["vision_feature_layer"]][:, 1:])
        return BaseModelOutputWithPooling(pooler_output=list(tokens))

    inner.get_image_features = features
    return model


def small_maira2() -> Any:
    """That of CONFIG."""
    return build_maira2(CONFIG)


def _saved_key(key: str) -> str:
    saved = key.replace("model.language_model.", "language_model.model.").replace("lm_head.", "language_model.lm_head.")
    saved = saved.removeprefix("model.").replace("attention.o_proj", "attention.output.dense")
    for name in ("query", "key", "value"):
        if "vision_tower" in saved:
            saved = saved.replace(f"attention.{name[0]}_proj", f"attention.attention.{name}")
    return saved


def read_maira2(folder: Path) -> Any:
    """The network of a folder."""
    model = build_maira2(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({key: weights[_saved_key(key)] for key in model.state_dict()})
    return model


def save_maira2(model: Any, folder: Path) -> Path:
    """Save model, image processor and tokenizer in the published form."""
    folder.mkdir()
    weights = {_saved_key(key): value.contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    processor = {**PROCESSOR, "image_processor_type": "BitImageProcessor"}
    processor["auto_map"] = {"AutoProcessor": "processing_maira2.Maira2Processor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}), encoding="utf-8")
    tokenizer = llava_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
