"""System 4 through the import of a .keras file, ONNX-ready networks, and the decoder's teacher forcing."""

import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import torch
from torch import Tensor

from export.import_checkpoint import import_checkpoint
from prelim.decoders.attention import Attending
from prelim.decoders.cross_attention import CrossAttentionDecoder
from prelim.networks.model_folder import read_network
from tests.forcing import logits_after_each
from tests.parity.fixture import Fixture, Value

SECTIONS = {"outputs": False, "outputs_fanin": True}
"""Section of the fixture -> whether rule B fills its weights."""

VARIABLES = {"kernel": 0, "embeddings": 0, "gamma": 0, "bias": 1, "beta": 1, "moving_mean": 2, "moving_variance": 3}
"""Last part of a variable's Keras path -> its index under `vars` in the HDF5 file."""


def outputs(fixture: Fixture, section: str, folder: Path) -> Iterator[tuple[str, Value]]:
    """Yield every output of one section with its recorded name."""
    write_keras(fixture, folder / "saved_model.keras", fan_in=SECTIONS[section])
    import_checkpoint("xreport", [folder / "saved_model.keras"], None, folder / "model", "parity")
    _, network = read_network(folder / "model")
    image = torch.rand((2, 1, 196, 196), generator=fixture.generator("input/image"))
    ids = fixture.integers("input/ids", (2, 159), 1000, 30000)
    ids[:, 0], ids[0, 40:], ids[1, 90:] = 101, 0, 0
    features = network.vision(image)
    yield "image_encoder", features
    x = features
    for i, layer in enumerate(network.connector.layers):
        x = layer(x)
        yield _numbered("transformer_encoder", i), x
    embeds = network.connector(features)
    yield from _decoder_outputs(network.decoder, embeds, ids)


def _decoder_outputs(decoder: CrossAttentionDecoder, embeds: Tensor, ids: Tensor) -> Iterator[tuple[str, Value]]:
    """Intermediate outputs of the decoder, up to its probabilities."""
    inner: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda *call: inner.append(call[2])) for layer in decoder.layers]
    hooks.append(decoder.layers[0].register_forward_pre_hook(lambda _, inputs: inner.append(inputs[0])))
    hidden = decoder.hidden_states(
        ids, torch.arange(ids.shape[1]).expand_as(ids), decoder.image_key_values(embeds), None, _keras_attention(ids)
    )
    for hook in hooks:
        hook.remove()
    yield "positional_embedding", inner[0]
    for i, hidden in enumerate(inner[1:]):
        yield _numbered("transformer_decoder", i), hidden
    yield "softmax", decoder.logits(hidden).softmax(dim=-1)
    yield "argmax_row0_first20", logits_after_each(decoder, embeds, ids)[0, :20].argmax(dim=-1).tolist()


def _keras_attention(ids: Tensor) -> Attending:
    """Keras' attention: where the query is padding, it takes the mean over all positions, later ones included."""
    written = ids != 0
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    return Attending(causal & written[:, None, None] | ~written[:, None, :, None])


def write_keras(fixture: Fixture, path: Path, *, fan_in: bool) -> None:
    """Write the published checkpoint like Keras: a zip of metadata.json, config.json and model.weights.h5."""
    members: dict[str, Any] = {"metadata.json": {"keras_version": fixture.contents["keras"]}, "config.json": {}}
    members["config.json"] = {"class_name": "Functional", "config": {"layers": _layers(fixture)}}
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        for dataset in fixture.contents["h5_datasets"]:
            if dataset["path"].startswith("optimizer"):
                file[dataset["path"]] = torch.zeros(dataset["shape"]).numpy()
        for stored, entry in zip(_h5_paths(fixture), _variables(fixture), strict=True):
            file[stored] = _fill(fixture, entry, fan_in).numpy()
    with zipfile.ZipFile(path, "w") as archive:
        for name in fixture.contents["keras_archive_members"]:
            archive.writestr(name, weights.getvalue() if name.endswith(".h5") else json.dumps(members[name]))


ATTRIBUTES: Mapping[str, str | tuple[str, ...]] = {
    "image_encoder/batch_norm_conv": "convblock{from_one}",
    "batch_norm_conv/conv2d": "convolutions/conv2d{suffix}",
    "batch_norm_conv/batch_normalization": "batch_norm_layers/batch_normalization{suffix}",
    "image_encoder/feed_foward_bn": "ffn",
    "feed_foward_bn/dense": "dense_layers/dense{suffix}",
    "feed_foward_bn/batch_normalization": "batch_norm",
    "positional_embedding/embedding": ("token_embeddings", "position_embeddings"),
    "transformer_encoder/multi_head_attention": "attention",
    "transformer_decoder/multi_head_attention": ("self_attention", "cross_attention"),
    "multi_head_attention/query": "query_dense",
    "multi_head_attention/key": "key_dense",
    "multi_head_attention/value": "value_dense",
    "multi_head_attention/attention_output": "output_dense",
    "transformer_encoder/add_norm": "addnorm{from_one}",
    "transformer_decoder/add_norm": "addnorm{from_one}",
    "add_norm/layer_normalization": "layernorm",
    "transformer_encoder/feed_forward": "ffn1",
    "transformer_decoder/feed_forward": "ffn1",
    "feed_forward/dense": "dense{from_one}",
    "soft_max_classifier/dense": "dense{from_one}",
}
"""Class of the owner / class of the layer -> the owner's attribute for the layer.

Keras variable paths have class names, numbered per session; paths in the HDF5 file have attributes.
"""


def _h5_paths(fixture: Fixture) -> list[str]:
    """The HDF5 path of every Keras variable."""
    stored = [d["path"] for d in fixture.contents["h5_datasets"] if d["path"].startswith("layers/")]
    groups: dict[str, list[str]] = {}
    for group in sorted({path.split("/")[1] for path in stored}, key=_number):
        groups.setdefault(_kind(group), []).append(group)
    siblings: dict[tuple[str, str], list[str]] = {}
    paths = []
    for entry in _variables(fixture):
        *owners, leaf = entry["key"].split("/")
        path = ["layers"]
        for depth, layer in enumerate(owners):
            alike = siblings.setdefault(("/".join(owners[:depth]), _kind(layer)), [])
            if layer not in alike:
                alike.append(layer)
            place = alike.index(layer)
            name = ATTRIBUTES[f"{_kind(owners[depth - 1])}/{_kind(layer)}"] if depth else tuple(groups[_kind(layer)])
            name = name if isinstance(name, str) else name[place]
            path.append(name.format(from_one=place + 1, suffix=f"_{place}" if place else ""))
        paths.append("/".join([*path, "vars", f"{VARIABLES[leaf]}"]))
    if set(paths) != set(stored):
        raise ValueError(f"paths that the fixture lacks: {sorted(set(paths) ^ set(stored))}")
    return paths


def _layers(fixture: Fixture) -> list[dict[str, Any]]:
    """The layers for config.json."""
    shapes = {"image_input": [None, 196, 196, 1], "seq_input": [None, 159]}
    return [
        {"class_name": kind, "name": name, "config": {"name": name, "batch_shape": shapes.get(name)}}
        for kind, name in fixture.contents["layers"]
    ]


def _variables(fixture: Fixture) -> list[dict[str, Any]]:
    return fixture.contents["modules"]["model_weights_by_keras_path"]


def _fill(fixture: Fixture, entry: Mapping[str, Any], fan_in: bool) -> Tensor:
    """Generate a Keras variable by fill_rule_keras, or by fill_rule_B_keras if `fan_in`."""
    key, shape = entry["key"], entry["shape"]
    values = torch.randn(shape, generator=fixture.generator(key))
    if key.endswith("/gamma"):
        return 1 + values * 0.02
    if key.endswith("/moving_variance"):
        return values.abs() * 0.1 + 1
    if not fan_in or len(shape) < 2 or key.endswith("/bias"):
        return values * 0.02
    inputs = shape[0] if len(shape) == 3 and "/attention_output/" not in key else math.prod(shape[:-1])
    return values / inputs**0.5 * (2**0.5 if len(shape) == 4 else 1)


def _numbered(name: str, place: int) -> str:
    return f"{name}_{place}" if place else name


def _kind(name: str) -> str:
    """The class of a layer: its name without the number."""
    return re.sub(r"_\d+$", "", name)


def _number(name: str) -> int:
    return int(name.rpartition("_")[2]) if re.search(r"_\d+$", name) else 0
