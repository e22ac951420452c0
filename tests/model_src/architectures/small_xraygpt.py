"""Dimensions, words and weights of a small system 3."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from model_src.architectures import ARCHITECTURES
from model_src.model_config import ModelConfig
from model_src.model_folder import Model, build_network

PUBLISHED = ARCHITECTURES["xraygpt"].published
LETTERS = [chr(code) for code in range(32, 127)]
SPECIAL = ("<unk>", "<s>", "</s>")
DECODER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 640,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
PARTS: dict[str, Any] = {
    "vision": {"image_size": 56, "width": 32, "layers": 2, "heads": 4, "feedforward": 48},
    "connector": {
        "in_width": 32,
        "out_width": 32,
        "queries": 4,
        "width": 24,
        "layers": 3,
        "heads": 4,
        "feedforward": 40,
    },
    "decoder": {"kind": "transformers", "model_type": "llama", "vocab_size": len(SPECIAL) + len(LETTERS), **DECODER},
}


def letters_tokenizer() -> Tokenizer:
    """A tokenizer with one token for every ASCII character, behind the special tokens of Llama."""
    vocabulary = {piece: i for i, piece in enumerate([*SPECIAL, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def small_model() -> Model:
    """A random model whose reports depend on the image, and which writes its stop text now and then."""
    defaults = PUBLISHED.defaults
    config = ModelConfig.from_mapping(
        {
            **defaults,
            **PARTS,
            "name": "small",
            "version": "1.0",
            "architecture": "xraygpt",
            "preprocess": {**defaults["preprocess"], "size": 56},
        },
        "test",
    )
    torch.manual_seed(0)
    network = build_network(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                gain = 3.0 if name.startswith("decoder.") else 1.5
                parameter.normal_(std=gain / parameter.shape[-1] ** 0.5)
        network.decoder.lm_head.weight[len(SPECIAL) + LETTERS.index("#")] *= 4
    return Model(config, network.eval().requires_grad_(False), letters_tokenizer())
