"""Folders of `transformers` in published sizes with random weights, written one tensor after another.

    python -m benchmarks.models.random_folder vit_gpt2 out/checkpoint
    python -m benchmarks.models.random_folder gemma3 out/checkpoint                 # MedGemma 4B in bf16: 8.6 GB
    python -m benchmarks.models.random_folder gemma3 out/checkpoint --layers 4 --vision-layers 4

Import one with its own tokenizer, as the system of SYSTEM.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.models.random_checkpoint import BIOGPT_SPECIAL, write_random_tokenizer
from prelim.decoders.weights_file import LazyTensor, write_weights
from terminal.arguments import CommandLine, positive

_STD = 0.02


@dataclass(frozen=True)
class RandomFolder:
    """A model of `transformers` and the files next to its weights.

    system      : that imports it
    model_class : its name in `transformers`
    config      : makes its configuration of two numbers of layers, of the decoder and of the encoder; None: published
    dtype       : of the weights
    special     : id -> token, for those whose names matter
    tokens      : of the tokenizer
    processor   : preprocessor_config.json
    generation  : generation_config.json
    """

    system: str
    model_class: str
    config: Callable[[int | None, int | None], Any]
    dtype: torch.dtype
    special: Mapping[int, str]
    tokens: int
    processor: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)


def _encoder_decoder(settings: Mapping[str, Mapping[str, Any]], layers: int | None, vision_layers: int | None) -> Any:
    from transformers import AutoConfig, VisionEncoderDecoderConfig

    if vision_layers is not None:
        raise SystemExit("--vision-layers is given, but these encoders are small: leave it out")
    of_decoder = dict(settings["decoder"])
    if layers is not None:
        of_decoder["num_hidden_layers"] = layers
    parts = [AutoConfig.for_model(**settings["encoder"]), AutoConfig.for_model(**of_decoder)]
    config: Any = VisionEncoderDecoderConfig.from_encoder_decoder_configs(*parts)
    config.decoder_start_token_id, config.pad_token_id, config.tie_word_embeddings = 0, 1, True
    return config


def _encoder_decoder_folder(side: int, tokens: int, settings: Mapping[str, Mapping[str, Any]]) -> RandomFolder:
    return RandomFolder(
        "encoder_decoder",
        "VisionEncoderDecoderModel",
        partial(_encoder_decoder, settings),
        torch.float32,
        dict(enumerate(BIOGPT_SPECIAL)),
        tokens,
        processor={
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": side, "width": side},
            "resample": 2,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        },
        generation={"decoder_start_token_id": 0, "pad_token_id": 1, "eos_token_id": 2},
    )


def _gemma3(layers: int | None, vision_layers: int | None) -> Any:
    from transformers import Gemma3Config

    text = {
        "vocab_size": 262208,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": layers or 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 1024,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "image_size": 896,
        "num_hidden_layers": vision_layers or 27,
        "num_attention_heads": 16,
        "patch_size": 14,
        "vision_use_head": False,
    }
    return Gemma3Config(text_config=text, vision_config=vision, image_token_index=262144)


def _qwen(decoder: Mapping[str, int], tied: bool, layers: int | None, vision_layers: int | None) -> Any:
    from transformers import Qwen2_5_VLConfig

    text = {
        "vocab_size": 152064,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        **decoder,
    }
    text |= {} if layers is None else {"num_hidden_layers": layers}
    depth = vision_layers or 32
    vision = {
        "depth": depth,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": text["hidden_size"],
        "window_size": 112,
        "fullatt_block_indexes": [layer for layer in (7, 15, 23, 31) if layer < depth],
    }
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, image_token_id=151655, tie_word_embeddings=tied)


_GEMMA3_SPECIAL = {
    0: "<pad>",
    1: "<eos>",
    2: "<bos>",
    3: "<unk>",
    105: "<start_of_turn>",
    106: "<end_of_turn>",
    255999: "<start_of_image>",
    256000: "<end_of_image>",
    262144: "<image_soft_token>",
}
_QWEN_SPECIAL = {
    0: "<unk>",
    151643: "<|endoftext|>",
    151644: "<|im_start|>",
    151645: "<|im_end|>",
    151652: "<|vision_start|>",
    151653: "<|vision_end|>",
    151655: "<|image_pad|>",
}


def _qwen_folder(*, tied: bool = False, **decoder: int) -> RandomFolder:
    return RandomFolder(
        "qwen2_5_vl",
        "Qwen2_5_VLForConditionalGeneration",
        partial(_qwen, decoder, tied),
        torch.bfloat16,
        _QWEN_SPECIAL,
        151665,
        # 324 image tokens in a square picture: the default of transformers, 1,280, is for large ones.
        processor={
            "image_processor_type": "Qwen2VLImageProcessor",
            "min_pixels": 3136,
            "max_pixels": 324 * 28**2,
            "patch_size": 14,
            "merge_size": 2,
            "temporal_patch_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    )


FOLDERS: Mapping[str, RandomFolder] = {
    "vit_gpt2": _encoder_decoder_folder(
        224,
        50257,
        {
            "encoder": {"model_type": "vit"},
            "decoder": {"model_type": "gpt2", "bos_token_id": 0, "eos_token_id": 2},
        },
    ),
    # CheXpert Plus: Swin V2-base, and a BERT of two layers.
    "swinv2_bert": _encoder_decoder_folder(
        256,
        30522,
        {
            "encoder": {
                "model_type": "swinv2",
                "image_size": 256,
                "embed_dim": 128,
                "depths": [2, 2, 18, 2],
                "num_heads": [4, 8, 16, 32],
                "window_size": 8,
            },
            "decoder": {"model_type": "bert", "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 2},
        },
    ),
    # MedGemma 4B.
    "gemma3": RandomFolder(
        "gemma3", "Gemma3ForConditionalGeneration", _gemma3, torch.bfloat16, _GEMMA3_SPECIAL, 262145
    ),
    # Lingshu 7B.
    "qwen2_5_vl_7b": _qwen_folder(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
    ),
    # NV-Reason-CXR 3B.
    "qwen2_5_vl_3b": _qwen_folder(
        tied=True,
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=11008,
        num_hidden_layers=36,
        num_attention_heads=16,
    ),
}
"""Name on the command line -> folder."""


def write_random_folder(name: str, folder: Path, layers: int | None = None, vision_layers: int | None = None) -> int:
    """Write a folder of FOLDERS; returns the number of its parameters.

    layers, vision_layers : of decoder and encoder, in place of the published ones
    """
    # Imported here because `transformers` takes seconds to import.
    import transformers

    kind = FOLDERS[name]
    config = kind.config(layers, vision_layers)
    config.architectures = [kind.model_class]
    with torch.device("meta"):
        model: Any = getattr(transformers, kind.model_class)(config)
    model.tie_weights()
    weights = {
        key: LazyTensor(tuple(parameter.shape), kind.dtype, partial(_random, key, parameter, kind.dtype))
        for key, parameter in model.named_parameters()
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    write_weights(folder / "model.safetensors", weights)
    config.save_pretrained(folder)
    for file, contents in (("preprocessor_config", kind.processor), ("generation_config", kind.generation)):
        if contents:
            (folder / f"{file}.json").write_text(json.dumps(contents), encoding="utf-8")
    write_random_tokenizer(folder, kind.tokens, kind.special)
    return sum(parameter.numel() for parameter in model.parameters())


def _random(key: str, parameter: Tensor, dtype: torch.dtype) -> Tensor:
    """Values as training begins with: noise in matrices, ones in norms, and zeros in biases."""
    if parameter.ndim > 1:
        return torch.randn(parameter.shape, dtype=dtype).mul_(_STD)
    return torch.full(parameter.shape, 0.0 if key.endswith("bias") else 1.0, dtype=dtype)


def main() -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("name", choices=FOLDERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=positive, help="of the decoder, in place of the published ones")
    parser.add_argument("--vision-layers", type=positive)
    arguments = parser.parse_args()
    count = write_random_folder(arguments.name, arguments.folder, arguments.layers, arguments.vision_layers)
    print(f"{arguments.folder}: {count:,} parameters")


if __name__ == "__main__":
    main()
