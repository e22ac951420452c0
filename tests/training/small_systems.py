"""All systems with small dimensions, as sections of training's settings, and runs of them on 16 real pairs."""

import copy
from pathlib import Path
from typing import Any

from training.settings import Settings, make_settings

IU_XRAY = Path(__file__).parents[3] / "shared" / "data" / "iu_xray"

_LLAMA = {
    "kind": "transformers",
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 160,
    "tie_word_embeddings": False,
}

_DINOV2 = {
    "model_type": "dinov2",
    "image_size": 28,
    "width": 32,
    "layers": 2,
    "heads": 4,
    "feedforward": 64,
    "activation": "gelu",
    "features": [2],
}

MODELS: dict[str, dict[str, Any]] = {
    "biomedclip_qformer_biogpt": {
        "vision": {"size": 32, "patch": 8, "width": 64, "layers": 2, "heads": 1, "out_width": 24},
        "connector": {
            "in_width": 24,
            "out_width": 64,
            "queries": 4,
            "width": 64,
            "layers": 1,
            "heads": 1,
            "feedforward": 96,
        },
        "decoder": {
            "kind": "transformers",
            "model_type": "biogpt",
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 1,
            "intermediate_size": 96,
            "max_position_embeddings": 120,
        },
        "preprocess": {"size": 32},
    },
    "blip": {
        "vision": {
            "model_type": "blip_vision_model",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "image_size": 32,
            "patch_size": 8,
        },
        "connector": {"in_width": 32, "out_width": 32},
        "decoder": {
            "kind": "transformers",
            "model_type": "bert",
            "add_cross_attention": True,
            "cross_attention_hidden_size": 32,
            "type_vocab_size": 1,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "max_position_embeddings": 120,
        },
        "preprocess": {"size": 32},
    },
    "encoder_decoder": {
        "vision": {
            "model_type": "vit",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "image_size": 32,
            "patch_size": 8,
        },
        "connector": {"in_width": 32, "out_width": 64},
        "decoder": {
            "kind": "transformers",
            "model_type": "bert",
            "add_cross_attention": True,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "max_position_embeddings": 120,
        },
        "preprocess": {"size": 32},
    },
    "gemma3": {
        "vision": {
            "model_type": "siglip_vision_model",
            "image_size": 32,
            "patch_size": 4,
            "width": 32,
            "layers": 2,
            "heads": 4,
            "feedforward": 48,
            "features": [2],
            "final_norm": True,
            "class_token": True,
            "tokens_per_side": 4,
        },
        "connector": {"in_width": 32, "out_width": 64},
        "decoder": {
            **_LLAMA,
            "model_type": "gemma3_text",
            "head_dim": 16,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "sliding_window": 6,
            "query_pre_attn_scalar": 16,
            "mutual_images": True,
        },
        "preprocess": {"size": 32},
    },
    "llava": {
        "vision": {"image_size": 28, "width": 32, "layers": 2, "heads": 4, "feedforward": 48, "features": [2]},
        "connector": {"in_width": 32, "out_width": 64},
        "decoder": _LLAMA,
        "preprocess": {"size": 28},
    },
    "llava_mistral": {
        "vision": {"image_size": 28, "width": 32, "layers": 2, "heads": 4, "feedforward": 48, "features": [2]},
        "connector": {"in_width": 32, "out_width": 64, "layers": 3},
        "decoder": {**_LLAMA, "model_type": "mistral", "num_key_value_heads": 2},
        "preprocess": {"size": 28},
    },
    "llava_rad": {
        "vision": _DINOV2,
        "connector": {"in_width": 32, "out_width": 64},
        "decoder": _LLAMA,
        "preprocess": {"size": 28},
    },
    "maira2": {
        "vision": {**_DINOV2, "final_norm": True},
        "connector": {"in_width": 32, "out_width": 64, "layers": 4},
        "decoder": _LLAMA,
        "preprocess": {"size": 28},
    },
    "mobilenet_graph": {
        "vision": {},
        "connector": {"width": 64},
        "decoder": {
            "kind": "cross_attention",
            "width": 64,
            "layers": 2,
            "heads": 4,
            "feedforward": 128,
            "max_positions": 64,
            "dropout": 0.1,
        },
        "preprocess": {"size": 64, "resize_to": 72},
    },
    "densenet_disease_llama": {
        "vision": {"blocks": [1, 1, 1, 1]},
        "connector": {"in_width": 68, "width": 64, "num_tokens": 1},
        "decoder": _LLAMA,
        "preprocess": {"size": 32},
        "prompt": {"default": "Describe the findings"},
    },
    "xraygpt": {
        "vision": {"image_size": 28, "width": 32, "layers": 2, "heads": 4, "feedforward": 48},
        "connector": {
            "in_width": 32,
            "out_width": 64,
            "queries": 4,
            "width": 24,
            "layers": 2,
            "heads": 4,
            "feedforward": 40,
        },
        "decoder": _LLAMA,
        "preprocess": {"size": 28},
    },
    "xreport": {
        "vision": {"widths": [8, 16, 32], "depths": [1, 1, 1], "dense": 1, "token_width": 32},
        "connector": {"width": 32, "layers": 1, "heads": 2, "head_width": 16, "norm_eps": 1e-4, "dropout": 0.2},
        "decoder": {
            "kind": "cross_attention",
            "width": 32,
            "layers": 2,
            "heads": 2,
            "head_width": 16,
            "feedforward": 32,
            "feedforward_relu": True,
            "head_hidden": 64,
            "max_positions": 64,
            "embedding_scale": 5.6,
            "blank_padding": True,
            "norm_eps": 1e-4,
            "dropout": 0.2,
            "hidden_dropout": 0.0,
        },
        "preprocess": {"size": 32, "channels": 1, "antialias": False, "mean": [0.0], "std": [1.0]},
    },
}

NOT_TRAINED = ("qwen2_5_vl",)
"""Systems with pictures of several sizes, which training does not read."""

DROPOUT = {
    "biogpt": ("hidden_dropout_prob", "attention_probs_dropout_prob", "activation_dropout", "layerdrop"),
    "cross_attention": ("dropout",),
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
}
"""Settings that turn dropout off."""


def sections(system: str, folder: Path, *, dropout: bool = True, **changed: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run on the first images of the 16 studies of IU X-ray; `changed` has keys of its sections."""
    model = {**copy.deepcopy(MODELS[system]), "architecture": system, "generation": {"max_new_tokens": 30}}
    if system == "xraygpt":
        model["generation"]["do_sample"] = False
    if not dropout:
        decoder = model["decoder"]
        for name in DROPOUT.get(decoder.get("model_type", decoder["kind"]), ()):
            decoder[name] = 0.0
        if system == "xreport":
            model["connector"]["dropout"] = 0.0
    values: dict[str, Any] = {
        "model": model,
        "dataset": {
            "format": "pairs",
            "path": str(IU_XRAY),
            "sections": ["impression"],
            "images": "first",
            "val_fraction": 0.0,
            "test_fraction": 0.0,
        },
        "optimization": {"epochs": 3, "batch_size": 4, "learning_rate": 1e-3},
        "run": {
            "folder": str(folder / "run"),
            "out": str(folder / "model"),
            "device": "cpu",
            "threads": 1,
            "cache": True,
        },
    }
    for section, given in changed.items():
        values[section] = {**values.get(section, {}), **given} if isinstance(given, dict) else given
    return values


def small_run(system: str, folder: Path, *, dropout: bool = True, **changed: Any) -> Settings:
    """`sections` as Settings."""
    return make_settings(sections(system, folder, dropout=dropout, **changed))
