"""Small VisionEncoderDecoderModels with random weights, as `transformers` saves them."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    CvtConfig,
    DeiTConfig,
    Dinov2Config,
    GPT2Config,
    SwinConfig,
    Swinv2Config,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)
from transformers.modeling_outputs import BaseModelOutput

from tests.model_src.networks.architectures.small_xraygpt import LETTERS, SPECIAL, letters_tokenizer

VOCABULARY = len(SPECIAL) + len(LETTERS)
SIDE = 32
START, END = 1, 2
_TRANSFORMER: dict[str, Any] = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "image_size": SIDE,
    "patch_size": 8,
}
_WINDOWS: dict[str, Any] = {"embed_dim": 8, "num_heads": [2, 2], "image_size": SIDE, "patch_size": 4, "window_size": 4}
ENCODERS: dict[str, Any] = {
    "vit": ViTConfig(hidden_size=24, **_TRANSFORMER),
    # As wide as the decoders: without a projection.
    "deit": DeiTConfig(hidden_size=32, **_TRANSFORMER),
    "dinov2": Dinov2Config(
        hidden_size=24, mlp_ratio=2, **{k: v for k, v in _TRANSFORMER.items() if k != "intermediate_size"}
    ),
    # `hidden_size` is what VisionEncoderDecoderModel asks for.
    "cvt": CvtConfig(embed_dim=[8, 16, 24], num_heads=[1, 2, 2], depth=[1, 2, 3], hidden_size=24),
    "swin": SwinConfig(depths=[1, 2], **_WINDOWS),
    "swinv2": Swinv2Config(depths=[2, 1], **_WINDOWS),
}
_IDS: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": START, "eos_token_id": END}


def decoder_config(kind: str, **changed: Any) -> Any:
    """Configuration of a small decoder, `bert` or `gpt2`."""
    if kind == "gpt2":
        return GPT2Config(**{**_IDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 80, **changed})
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    return BertConfig(**{**_IDS, **size, "max_position_embeddings": 80, **changed})


def small_encoder_decoder(encoder: str, decoder: str, **changed: Any) -> Any:
    """A random model whose reports depend on the image and sometimes end early.

    changed : changes to the decoder's configuration
    """
    torch.manual_seed(0)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ENCODERS[encoder], decoder_config(decoder, **changed)
    )
    config.decoder_start_token_id, config.pad_token_id = START, END
    model = VisionEncoderDecoderModel(config=config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                of_text = 2.5 if name.startswith("decoder.") else 1.5
                parameter.normal_(std=of_text / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def image_inputs(model: Any, pixel_values: Tensor) -> dict[str, Any]:
    """What the model of transformers reads: pixels, or a CvT's features as tokens, which it does not make itself."""
    if model.config.encoder.model_type != "cvt":
        return {"pixel_values": pixel_values}
    features = model.encoder(pixel_values).last_hidden_state.flatten(2).transpose(1, 2)
    return {"encoder_outputs": BaseModelOutput(last_hidden_state=features)}


def save_encoder_decoder(model: Any, folder: Path, **generation: Any) -> Path:
    """Save model, image processor and tokenizer, as a fine-tune does.

    generation : further settings of generation_config.json
    """
    model.generation_config.update(decoder_start_token_id=START, eos_token_id=END, pad_token_id=END)
    model.generation_config.update(**generation)
    model.save_pretrained(folder)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": SIDE, "width": SIDE}, "resample": 2}
    processor |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.2, 0.2]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    letters_tokenizer().save(str(folder / "tokenizer.json"))
    return folder
