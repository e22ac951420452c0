"""System 4 with small dimensions and random weights, as our network and as the .keras file that Keras would write."""

import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import torch
from tokenizers import Tokenizer, models
from torch import Tensor

from prelim.archive.model_config import ModelConfig
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.architectures.architecture import Network
from prelim.networks.model_folder import Model
from tests.forcing import logits_after_each

SIZE, VOCAB_SIZE, POSITIONS = 40, 60, 12
BOS, EOS, PAD = 1, 2, 0
ATTENTION = {"width": 16, "layers": 2, "heads": 2, "head_width": 12, "norm_eps": 1e-4, "dropout": 0.2}
PARTS: dict[str, dict[str, Any]] = {
    "vision": {
        "widths": [4, 6, 32],
        "depths": [2, 1, 3],
        "dense": 3,
        "token_width": 16,
        "dense_width": 32,
        "channels": 1,
    },
    "connector": ATTENTION,
    "decoder": {
        **ATTENTION,
        "kind": "cross_attention",
        "layers": 3,
        "vocab_size": VOCAB_SIZE,
        "feedforward": 16,
        "feedforward_relu": True,
        "head_hidden": 24,
        "max_positions": POSITIONS,
        "embedding_scale": 4.0,
        "blank_padding": True,
        "hidden_dropout": 0.0,
    },
}

LAYERS = (
    *("ImageEncoder", "TransformerEncoder", "TransformerEncoder", "PositionalEmbedding"),
    *("TransformerDecoder", "TransformerDecoder", "TransformerDecoder", "SoftMaxClassifier"),
)

KERAS_NAMES = (
    (r"^vision\.dense\.0\.", "image_encoder.ffn.dense_layers.dense."),
    (r"^vision\.dense\.(\d)\.", r"image_encoder.ffn.dense_layers.dense_\1."),
    (r"^vision\.norm\.", "image_encoder.ffn.batch_norm."),
    (r"^decoder\.token_embedding\.", "positional_embedding.token_embeddings."),
    (r"^decoder\.position_embedding$", "positional_embedding.position_embeddings.weight"),
    (r"^decoder\.lm_hidden\.", "soft_max_classifier.dense1."),
    (r"^decoder\.lm_head\.", "soft_max_classifier.dense2."),
    # Not from 0 and with a gap: the numbers depend on what else a session made.
    (r"^connector\.layers\.0\.", "transformer_encoder."),
    (r"^connector\.layers\.1\.", "transformer_encoder_7."),
    (r"^decoder\.layers\.0\.", "transformer_decoder_2."),
    (r"^decoder\.layers\.1\.", "transformer_decoder_9."),
    (r"^decoder\.layers\.2\.", "transformer_decoder_10."),
    (r"\.linear(\d)\.", r".ffn1.dense\1."),
    (r"^(transformer.*)\.norm(\d)\.", r"\1.addnorm\2.layernorm."),
    (r"\.out_proj\.", ".output_dense."),
    (r"\.weight$", ".vars.0"),
    (r"\.bias$", ".vars.1"),
    (r"\.running_mean$", ".vars.2"),
    (r"\.running_var$", ".vars.3"),
)


def tiny_network(seed: int = 0, **vision: int) -> Network:
    """Random weights; what it writes depends on image and history.

    vision : changes to the encoder's dimensions
    """
    torch.manual_seed(seed)
    network = ARCHITECTURES["xreport"].build({**PARTS, "vision": {**PARTS["vision"], **vision}})
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
    with torch.no_grad():
        network.vision.train()(torch.rand(32, vision.get("channels", 1), SIZE, SIZE))
        network.vision.norm.weight.mul_(4)
    return network.eval().requires_grad_(False)


def small_model() -> Model:
    """The network with made-up words, never writing padding."""
    network = tiny_network()
    network.decoder.lm_head.bias[PAD] = -1e4
    config = ModelConfig.from_mapping(
        {
            **ARCHITECTURES["xreport"].published.defaults,
            "name": "tiny",
            "version": "1.0",
            "architecture": "xreport",
            **PARTS,
            "tokenizer": {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD},
            "preprocess": {"size": SIZE, "channels": 1, "antialias": False, "mean": [0.0], "std": [1.0]},
            "generation": {"max_new_tokens": POSITIONS},
        },
        "tiny",
    )
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB_SIZE)}, unk_token="w0"))  # noqa: S106
    return Model(config, network, tokenizer)


def greedy_of_the_original(model: Model, features: Tensor) -> list[int]:
    """The published loop: all positions padded with 0 and recomputed for every token; without the end of text.

    features : of one image, see tests.tiny_model.seen
    """
    sequence = torch.zeros(1, POSITIONS + 1, dtype=torch.int64)
    sequence[0, 0] = BOS
    image_embeds = model.network.connector(features)
    for i in range(1, POSITIONS + 1):
        sequence[0, i] = logits_after_each(model.network.decoder, image_embeds, sequence[:, :-1])[0, i - 1].argmax()
        if sequence[0, i] == EOS:
            return sequence[0, 1:i].tolist()
    return sequence[0, 1:].tolist()


def keras_datasets(network: Network) -> dict[str, Tensor]:
    """The data sets of model.weights.h5."""
    datasets: dict[str, Tensor] = {"optimizer/vars/0": torch.tensor(1)}
    for key, value in network.state_dict().items():
        if "num_batches" in key:
            continue
        name = re.sub(r"^vision\.blocks\.(\d)\.(convs|norms)\.(\d)\.", _block, key)
        for pattern, replacement in KERAS_NAMES:
            name = re.sub(pattern, replacement, name)
        name = "layers/" + name.replace(".", "/")
        if "in_proj" in name:
            heads = ATTENTION["heads"]
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                kernel = rows.unflatten(0, (heads, -1))
                stored = kernel.permute(2, 0, 1) if value.ndim == 2 else kernel
                datasets[name.replace("in_proj", f"{part}_dense")] = stored
        elif "output_dense" in name and value.ndim == 2:
            datasets[name] = value.T.unflatten(0, (ATTENTION["heads"], -1))
        elif value.ndim == 4:
            datasets[name] = value.permute(2, 3, 1, 0)
        else:
            datasets[name] = value.T if value.ndim == 2 and "embedding" not in name else value
    return datasets


def write_keras(
    path: Path,
    datasets: dict[str, Tensor],
    compression: int = zipfile.ZIP_STORED,
    *,
    channels: int = 1,
    settings: Mapping[str, Any] | None = None,
    encoder: str = "ImageEncoder",
) -> Path:
    """Write the .keras file with these data sets.

    settings : class of a layer -> its settings
    encoder  : class of the image encoder
    """
    inputs = [{"class_name": "InputLayer", "config": {"batch_shape": [None, SIZE, SIZE, channels]}}]
    inputs += [{"class_name": "InputLayer", "config": {"batch_shape": [None, POSITIONS]}}]
    names = [encoder if name == "ImageEncoder" else name for name in LAYERS]
    layers = [*inputs, *({"class_name": name, "config": (settings or {}).get(name, {})} for name in names)]
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        for name, value in datasets.items():
            file[name] = value.numpy()
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Functional", "config": {"layers": layers}}))
        archive.writestr("model.weights.h5", weights.getvalue())
    return path


def _block(match: re.Match[str]) -> str:
    block, kind, place = match.groups()
    group = "convolutions.conv2d" if kind == "convs" else "batch_norm_layers.batch_normalization"
    return f"image_encoder.convblock{int(block) + 1}.{group}{'' if place == '0' else f'_{place}'}."
