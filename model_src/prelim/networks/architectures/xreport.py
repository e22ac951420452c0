"""System 4: a convolutional encoder, three transformer encoders and a three-layer transformer decoder (XREPORT).

Published size: 196 px, one channel, 98 image tokens, width 256, 4 heads, each as wide as the model, 159 positions,
30,523 word pieces: 53,942,011 variables, including batch norm statistics. It is a Keras model.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prelim.errors import ArchiveError
from prelim.networks.architectures.architecture import CHEST_RADIOGRAPHS, Architecture, Published, Section, Shapes
from prelim.networks.architectures.facts import Facts
from prelim.networks.connectors.transformer import TransformerConnector
from prelim.networks.vision.xreport import ConvEncoder

PUBLISHED_SIZE = 196
CLASSES = ("InputLayer", "PositionalEmbedding", "TransformerEncoder", "TransformerDecoder", "SoftMaxClassifier")
"""Classes of layers, besides the ImageEncoder, that all releases have."""

NORM_EPS = 1e-4
DROPOUT = 0.2
FIXED = {"activation": "relu", "norm_first": False, "epsilon": NORM_EPS, "embedding_scale": True, "pooling": "average"}
"""Settings of layers that no release has, as they are here; forks may add them."""


def _dimensions(shapes: Shapes, facts: Facts) -> Mapping[str, Section]:
    """Infer sections from shapes in the layout of Keras: (in, out), and (width, heads, head width) for queries."""
    layers: Mapping[str, Any] = facts.config.get("layers") or {}
    _check_layers(layers)
    vocab_size, width = shapes["decoder.token_embedding.weight"]
    _, heads, head_width = shapes["decoder.layers.0.self_attention.query.weight"]
    positions, _ = shapes["decoder.position_embedding"]
    widths, depths = _blocks(shapes)
    channels = shapes["vision.blocks.0.convs.0.weight"][-2]
    norm_eps = facts.value("decoder.norm_eps", NORM_EPS)
    return {
        "vision": {
            "widths": widths,
            "depths": depths,
            "dense": _count(shapes, r"vision\.dense\.\d+\.weight"),
            "dense_width": shapes["vision.dense.0.weight"][1],
            "channels": channels,
            "token_width": width,
        },
        "connector": {
            "width": width,
            "layers": _count(shapes, r"connector\.layers\.\d+\.attention\.query\.weight"),
            "heads": heads,
            "head_width": head_width,
            "norm_eps": norm_eps,
            "dropout": DROPOUT,
        },
        "decoder": {
            "kind": "cross_attention",
            "vocab_size": vocab_size,
            "width": width,
            "layers": _count(shapes, r"decoder\.layers\.\d+\.cross_attention\.query\.weight"),
            "heads": heads,
            "head_width": head_width,
            "feedforward": shapes["decoder.layers.0.linear1.weight"][1],
            "feedforward_relu": True,
            "head_hidden": shapes["decoder.lm_hidden.weight"][1],
            "max_positions": positions,
            "embedding_scale": width**0.5,
            "blank_padding": facts.value(
                "decoder.blank_padding", True, stored=layers.get("PositionalEmbedding", {}).get("mask_zero")
            ),
            "norm_eps": norm_eps,
            "dropout": DROPOUT,
            "hidden_dropout": 0.0,
        },
        "preprocess": {
            **PREPROCESS,
            "size": _image_size(shapes, channels),
            "channels": channels,
            "mean": [0.0] * channels,
            "std": [1.0] * channels,
        },
        "generation": {"max_new_tokens": positions},
    }


def _check_layers(layers: Mapping[str, Any]) -> None:
    """Raise ArchiveError for a release with another encoder, and for settings that change what a layer computes.

    layers : class -> settings; empty if they are not known
    """
    if layers and "ImageEncoder" not in layers:
        others = [name for name in layers if name not in CLASSES]
        beit = ", which encodes images with BEiT," if any("beit" in name.lower() for name in others) else ""
        raise ArchiveError(
            f"this release of XREPORT{beit} has no ImageEncoder, but {', '.join(others) or 'nothing else'}; supported "
            "are releases up to January 2025, with a convolutional encoder"
        )
    for kind, settings in layers.items():
        changed = [name for name in FIXED if name in settings and settings[name] != FIXED[name]]
        if changed and kind in {*CLASSES, "ImageEncoder"}:
            raise ArchiveError(
                f"{kind} has {changed[0]} = {settings[changed[0]]!r}; only {FIXED[changed[0]]!r} can be imported"
            )


def _image_size(shapes: Shapes, channels: int) -> int:
    """Rows of the images, from the shapes of the inputs. Raises ArchiveError if they are not squares of `channels`."""
    inputs = [shape for key, shape in shapes.items() if key.startswith("InputLayer.") and len(shape) > 2]
    for shape in inputs:
        if len(shape) != 4 or shape[1] != shape[2] or shape[3] != channels:
            raise ArchiveError(
                f"the image input has the shape {tuple(shape[1:])}; the encoder needs (size, size, {channels})"
            )
    return inputs[0][1] if inputs else PUBLISHED_SIZE


def _blocks(shapes: Shapes) -> tuple[list[int], list[int]]:
    """Channels and number of convolutions of each block of the encoder."""
    widths: list[int] = []
    depths: list[int] = []
    while (first := f"vision.blocks.{len(widths)}.convs.0.weight") in shapes:
        depths.append(_count(shapes, rf"vision\.blocks\.{len(widths)}\.convs\.\d+\.weight"))
        widths.append(shapes[first][-1])
    if not widths:
        raise KeyError("vision.blocks.0.convs.0.weight")
    return widths, depths


def _count(shapes: Shapes, pattern: str) -> int:
    return sum(re.fullmatch(pattern, key) is not None for key in shapes)


def _layout(weights: Mapping[str, Tensor], facts: Facts) -> dict[str, Tensor]:
    """Convert weights to the layout of PyTorch; queries, keys and values become one matrix in that order."""
    # Releases from 2025 divide logits by a temperature that is a setting of the layer.
    temperature = (facts.config.get("layers") or {}).get("SoftMaxClassifier", {}).get("temperature", 1.0)
    if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise ArchiveError(f"SoftMaxClassifier has temperature = {temperature!r}; it must be a number above 0")
    weights = {k: v / temperature if k.startswith("decoder.lm_head.") else v for k, v in weights.items()}
    ours = {key: _outputs_first(key, value) for key, value in weights.items() if not key.startswith("InputLayer.")}
    for name, leaf in [key.split(".query.") for key in ours if ".query." in key]:
        parts = [f"{name}.{part}.{leaf}" for part in ("query", "key", "value")]
        if all(part in ours for part in parts):
            ours[f"{name}.in_proj.{leaf}"] = torch.cat([ours.pop(part) for part in parts])
    for name in [key.removesuffix(".running_mean") for key in ours if key.endswith(".running_mean")]:
        # PyTorch's batch norms count batches; Keras has no such counter.
        ours[f"{name}.num_batches_tracked"] = torch.tensor(0)
    return ours


def _outputs_first(key: str, value: Tensor) -> Tensor:
    """(..., in, out) -> (out, in, ...) for kernels; heads are concatenated."""
    if re.search(r"\.(query|key|value)\.", key):
        return value.flatten(1).T if key.endswith(".weight") else value.flatten()
    if "embedding" in key or value.ndim < 2:
        return value
    return value.permute(3, 2, 0, 1) if value.ndim == 4 else value.flatten(0, -2).T


def _from_zero(match: re.Match[str]) -> str:
    """Our prefix of a block's layer: Keras omits the number of a list's first layer, and numbers blocks from 1."""
    return f"vision.blocks.{int(match[1]) - 1}.{match[2]}.{match[3] or 0}/"


PREPROCESS = {
    "size": PUBLISHED_SIZE,
    "channels": 1,
    "resize": "stretch",
    "interpolation": "bilinear",
    "antialias": False,
    "mean": [0.0],
    "std": [1.0],
}

ARCHITECTURE = Architecture(
    vision=ConvEncoder,
    connector=TransformerConnector,
    published=Published(
        keys=(
            (r"^ImageEncoder\.0/(.*)/convolutions/conv2d", r"ImageEncoder.0/\1/convs"),
            (r"^ImageEncoder\.0/(.*)/batch_norm_layers/batch_normalization", r"ImageEncoder.0/\1/norms"),
            (r"^ImageEncoder\.0/convblock(\d+)/(convs|norms)(?:_(\d+))?/", _from_zero),
            (r"^ImageEncoder\.0/ffn/dense_layers/dense/", "vision.dense.0/"),
            (r"^ImageEncoder\.0/ffn/dense_layers/dense_(\d+)/", r"vision.dense.\1/"),
            (r"^ImageEncoder\.0/ffn/batch_norm/", "vision.norm/"),
            (r"^PositionalEmbedding\.0/token_embeddings/", "decoder.token_embedding/"),
            (r"^PositionalEmbedding\.0/position_embeddings/vars/0$", "decoder.position_embedding"),
            (r"^TransformerEncoder\.(\d+)/", r"connector.layers.\1."),
            (r"^TransformerDecoder\.(\d+)/", r"decoder.layers.\1."),
            (r"^SoftMaxClassifier\.0/dense1/", "decoder.lm_hidden/"),
            (r"^SoftMaxClassifier\.0/dense2/", "decoder.lm_head/"),
            (r"attention/(query|key|value)_dense/", r"attention.\1/"),
            (r"attention/output_dense/", "attention.out_proj/"),
            (r"\.addnorm(\d)/layernorm/", r".norm\1/"),
            (r"\.ffn1/dense(\d)/", r".linear\1/"),
            (r"/vars/0$", ".weight"),
            (r"/vars/1$", ".bias"),
            (r"/vars/2$", ".running_mean"),
            (r"/vars/3$", ".running_var"),
        ),
        ignored={r"^optimizer/": "optimizer state, which only training needs"},
        theirs=(
            (r"^vision\.blocks\.(\d+)\.convs\.(\d+)\.", r"ImageEncoder.0/convblock(\1 + 1)/convolutions/conv2d_\2."),
            (
                r"^vision\.blocks\.(\d+)\.norms\.(\d+)\.",
                r"ImageEncoder.0/convblock(\1 + 1)/batch_norm_layers/batch_normalization_\2.",
            ),
            (r"\((\d+) \+ 1\)", lambda match: str(int(match[1]) + 1)),
            (r"_0\.", "."),
            (r"^vision\.dense\.0\.", "ImageEncoder.0/ffn/dense_layers/dense."),
            (r"^vision\.dense\.(\d+)\.", r"ImageEncoder.0/ffn/dense_layers/dense_\1."),
            (r"^vision\.norm\.", "ImageEncoder.0/ffn/batch_norm."),
            (r"^decoder\.token_embedding\.", "PositionalEmbedding.0/token_embeddings."),
            (r"^decoder\.position_embedding$", "PositionalEmbedding.0/position_embeddings.weight"),
            (r"^connector\.layers\.(\d+)\.", r"TransformerEncoder.\1/"),
            (r"^decoder\.layers\.(\d+)\.", r"TransformerDecoder.\1/"),
            (r"^decoder\.lm_hidden\.", "SoftMaxClassifier.0/dense1."),
            (r"^decoder\.lm_head\.", "SoftMaxClassifier.0/dense2."),
            (r"attention\.in_proj\.", "attention/{query,key,value}_dense."),
            (r"attention\.(query|key|value)\.", r"attention/\1_dense."),
            (r"attention\.out_proj\.", "attention/output_dense."),
            (r"/norm(\d)\.", r"/addnorm\1/layernorm."),
            (r"/linear(\d)\.", r"/ffn1/dense\1."),
            (r"\.weight$", "/vars/0"),
            (r"\.bias$", "/vars/1"),
            (r"\.running_mean$", "/vars/2"),
            (r"\.running_var$", "/vars/3"),
        ),
        size={
            "vision": {"widths": [32, 64, 128, 256, 512], "depths": [2, 2, 3, 3, 3], "dense": 3, "token_width": 256},
            "connector": {"width": 256, "layers": 3, "heads": 4, "head_width": 256},
            "decoder": {
                "kind": "cross_attention",
                "vocab_size": 30523,
                "width": 256,
                "layers": 3,
                "heads": 4,
                "head_width": 256,
                "feedforward": 256,
                "head_hidden": 1024,
                "max_positions": 159,
            },
            "preprocess": PREPROCESS,
            "generation": {"max_new_tokens": 159},
        },
        model_types=("keras",),
        whole_config=True,
        structure=(
            "the encoder averages cells, as the code does, although the README says that it takes their maximum",
            "layers are post-norm with ReLU after both dense layers, and padding has no embedding",
        ),
        layout=_layout,
        defaults={
            "licence": "MIT",
            "tokenizer": {"bos_token_id": 101, "eos_token_id": 102, "pad_token_id": 0},
            "input": {"accepts": CHEST_RADIOGRAPHS},
        },
        dimensions=_dimensions,
        tokenizer="bert-base-uncased",
        origin="XREPORT (GitHub's CTCycle/XREPORT-radiological-reports-generator, commit b4521c3, and "
        "releases up to January 2025)",
        fixed=(
            "Images are converted to one gray channel in [0, 1], as in training; the published inference code used "
            "three channels in BGR order, which the model does not accept.",
            "The numbers of encoder and decoder layers are independent; the original used one number for both.",
            "A report is text; the original logged a list of word pieces.",
        ),
    ),
)
