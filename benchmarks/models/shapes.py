"""Shapes of the measured decoders, and checkpoints of these shapes with random weights."""

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from benchmarks.models.random_checkpoint import BIOGPT_SPECIAL, write_random_tokenizer
from prelim.archive.archive import TOKENIZER
from prelim.decoders.cross_attention import CrossAttentionConfig, CrossAttentionDecoder
from prelim.networks.trained_decoder import build_decoder

BOS, PAD, EOS = 0, 1, 2
SHAPE_FILE = "shape.json"
WEIGHTS = "model.safetensors"
_SEED = 0


@dataclass(frozen=True)
class Shape:
    """A decoder and its prefix.

    section      : the section `decoder` of model.yaml
    image_tokens : number of embeddings per image
    prompt       : number of prompt tokens after the image; the cross-attention decoder reads a start token only
    """

    name: str
    section: Mapping[str, Any]
    image_tokens: int = 32
    prompt: int = 4

    @property
    def is_prefix(self) -> bool:
        """Whether the image is a prefix of the text, as embeddings of a language model."""
        return self.of_library and not self.section.get("add_cross_attention")

    @property
    def of_library(self) -> bool:
        """Whether its network is one of `transformers`."""
        return bool(self.section["kind"] == "transformers")


_BIOGPT = {
    "kind": "transformers",
    "model_type": "biogpt",
    "vocab_size": 42384,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 1024,
}
_LLAMA = {
    "kind": "transformers",
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True,
}
# Two of the 32 layers of Vicuna-7B in a LLaVA, and of Mistral-7B.
_VICUNA = {
    **_LLAMA,
    "vocab_size": 32064,
    "hidden_size": 4096,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
_MISTRAL = {
    **_VICUNA,
    "model_type": "mistral",
    "vocab_size": 32000,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "sliding_window": None,
}
# Four of the 34 layers of Gemma 3 4B, and a quarter of its vocabulary.
_GEMMA3 = {
    "kind": "transformers",
    "model_type": "gemma3_text",
    "vocab_size": 65536,
    "hidden_size": 2560,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "intermediate_size": 10240,
    "max_position_embeddings": 8192,
    "sliding_window": 1024,
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
    "tie_word_embeddings": True,
}
# Four of the 36 layers of Qwen2.5-VL 3B, and a ninth of its vocabulary; its rotary sections cost a text nothing.
_QWEN = {
    **_LLAMA,
    "model_type": "qwen2",
    "vocab_size": 16896,
    "hidden_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}
_DEMO = {
    "kind": "cross_attention",
    "vocab_size": 149,
    "width": 256,
    "layers": 3,
    "heads": 8,
    "feedforward": 512,
    "max_positions": 64,
    "pad_token_id": PAD,
}
_GPT2 = {
    "kind": "transformers",
    "model_type": "gpt2",
    "add_cross_attention": True,
    "vocab_size": 50257,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_positions": 1024,
}
_BERT = {
    "kind": "transformers",
    "model_type": "bert",
    "add_cross_attention": True,
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}

# As in prelim.networks.architectures.xreport, with this file's token for padding.
_XREPORT = {
    "kind": "cross_attention",
    "vocab_size": 30523,
    "width": 256,
    "layers": 3,
    "heads": 4,
    "head_width": 256,
    "feedforward": 256,
    "head_hidden": 1024,
    "max_positions": 159,
    "norm_eps": 1e-4,
    "embedding_scale": 16.0,
    "blank_padding": True,
    "feedforward_relu": True,
    "pad_token_id": PAD,
}

SHAPES: Mapping[str, Shape] = {
    # System 0: 347 M parameters.
    "biogpt": Shape("biogpt", _BIOGPT),
    # SmolLM2-135M.
    "llama135m": Shape("llama135m", _LLAMA),
    # A Llama of BioGPT's size; its feed-forward layer has three matrices instead of two. 2,816 is a multiple of
    # 128, which the peers' groups of 4 bits need.
    "llama352m": Shape(
        "llama352m",
        _LLAMA
        | {
            "vocab_size": 42384,
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "intermediate_size": 2816,
        },
    ),
    # Of a LLaVA, a LLaVA-Med, a MedGemma and a Lingshu, with few layers, so that they fit.
    "vicuna": Shape("vicuna", _VICUNA, image_tokens=576, prompt=32),
    "mistral": Shape("mistral", _MISTRAL, image_tokens=576, prompt=32),
    "gemma3": Shape("gemma3", _GEMMA3, image_tokens=256, prompt=32),
    "qwen": Shape("qwen", _QWEN, image_tokens=324, prompt=32),
    "demo": Shape("demo", _DEMO, image_tokens=36, prompt=0),
    # System 4.
    "xreport": Shape("xreport", _XREPORT, image_tokens=98, prompt=0),
    # Of a ViT-GPT2 at 224 pixels, and of CheXpert Plus's Swin V2 at 256.
    "gpt2": Shape("gpt2", _GPT2, image_tokens=197, prompt=0),
    "bert2": Shape("bert2", _BERT, image_tokens=64, prompt=0),
}
"""Name on the command line -> shape."""


@dataclass(frozen=True)
class Work:
    """Minimum reads and operations of one decoding step of one row, in any implementation.

    parameters   : number of parameters of the whole decoder
    matrix       : weights that every step multiplies with, including the output layer
    scores       : weights of the output layer
    key_value    : elements of keys and values in one column of the cache
    image_column : the same for one column of the image in cross-attention, 0 elsewhere
    image_matrix : weights that every column of the image is multiplied with, once; 0 elsewhere
    """

    parameters: int
    matrix: int
    scores: int
    key_value: int
    image_column: int
    image_matrix: int = 0


def work(shape: Shape) -> Work:
    """The work of one step."""
    with torch.device("meta"):
        network = build_untrained(shape)
        if shape.of_library and not shape.is_prefix:
            network = CrossAttentionDecoder(_served(shape))
    parameters = sum(p.numel() for p in network.parameters())
    matrix = sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Linear))
    if isinstance(network, CrossAttentionDecoder):
        c = network.config
        inner = c.heads * (c.head_width or c.width // c.heads)
        # Keys and values of the image are computed once, so a step does not use two thirds of that projection.
        image_matrix = c.layers * 2 * inner * c.width
        matrix -= image_matrix
        scores = c.vocab_size * (c.head_hidden or c.width)
        matrix += scores if c.tied else 0
        return Work(parameters, matrix, scores, 2 * c.layers * inner, 2 * c.layers * inner, image_matrix)
    language: Any = network.config
    head_width = getattr(language, "head_dim", None) or language.hidden_size // language.num_attention_heads
    heads = getattr(language, "num_key_value_heads", None) or language.num_attention_heads
    scores = network.get_output_embeddings().weight.numel()
    return Work(parameters, matrix, scores, 2 * language.num_hidden_layers * heads * head_width, 0)


def _served(shape: Shape) -> CrossAttentionConfig:
    """Dimensions of the decoder that serves a BERT or GPT-2 with cross-attention."""
    network: Any = build_decoder(shape.section)
    section = dict(network.served()[0])
    section.pop("kind")
    return CrossAttentionConfig(**section)


def build_untrained(shape: Shape) -> Any:
    """Build the network of a shape: one of `transformers`, or our cross-attention decoder."""
    dimensions = {name: value for name, value in shape.section.items() if name not in ("kind", "model_type")}
    if not shape.of_library:
        return CrossAttentionDecoder(CrossAttentionConfig(**dimensions)).eval()
    if not shape.is_prefix:
        dimensions["is_decoder"] = True
    special = {"bos_token_id": BOS, "pad_token_id": PAD, "eos_token_id": EOS}
    config = AutoConfig.for_model(shape.section["model_type"], **dimensions, **special)
    model: Any = AutoModelForCausalLM
    return model.from_config(config).eval()


def checkpoint(shape: Shape, store: Path) -> Path:
    """The folder of a checkpoint of this shape with random weights; made if it does not exist.

    It contains shape.json and model.safetensors. For a language model it is a checkpoint of `transformers`, with
    config.json and a tokenizer of made-up tokens, so that every peer reads the same weights.
    """
    described = json.dumps(dataclasses.asdict(shape), sort_keys=True)
    folder = store / f"{shape.name}-{hashlib.sha256(described.encode()).hexdigest()[:8]}"
    if (folder / SHAPE_FILE).is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(_SEED)
    network = build_untrained(shape)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            # Embeddings smaller than layers, or a model that ties them to its head repeats the last token forever.
            gain = 1.0 if "position" in name else 0.1 if "embed" in name else 2.0
            nn.init.normal_(parameter, std=gain / math.sqrt(parameter.shape[-1]))
    if shape.of_library:
        network.save_pretrained(folder)
        _write_tokenizer(folder, shape.section["vocab_size"])
    else:
        save_file(network.state_dict(), folder / WEIGHTS)
    # Written last: a folder that has it is complete.
    (folder / SHAPE_FILE).write_text(described, encoding="utf-8")
    return folder


def read_shape(folder: Path) -> Shape:
    """Read the shape of a checkpoint."""
    return Shape(**json.loads((folder / SHAPE_FILE).read_text(encoding="utf-8")))


def _write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Write one made-up token per id in the format of `transformers`; decoders get the ids directly."""
    write_random_tokenizer(folder, vocab_size)
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), BIOGPT_SPECIAL, strict=True))
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_file=str(folder / TOKENIZER), **names).save_pretrained(folder)
