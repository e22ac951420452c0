"""Reads the weights of `.keras` files (a zip of config.json and model.weights.h5) without Keras."""

import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from prelim.errors import ArchiveError

MODEL, WEIGHTS = "config.json", "model.weights.h5"
SUFFIX = ".keras"


def read_keras(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a functional Keras model, in the layout of Keras.

    Groups of the HDF5 file are named by class, with a number except for the first. The numbers can start anywhere and
    have gaps; their order is that of the layers in config.json.

    returns : `<class>.<index among the layers of its class>/<path>` -> tensor, such as
              `TransformerEncoder.2/attention/query_dense/vars/0`; tensors outside layers, such as `optimizer/vars/3`,
              under their path; an empty tensor `InputLayer.<index>` with the shape of each input, batch size 0

    Raises ArchiveError if the file is not a `.keras` file, or its two parts are inconsistent.
    """
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryFile() as weights:
            layers = json.loads(archive.read(MODEL))["config"]["layers"]
            # HDF5 needs random access, which a compressed zip member does not support.
            with archive.open(WEIGHTS) as packed:
                shutil.copyfileobj(packed, weights, 1 << 20)
            with h5py.File(weights, "r") as file:
                stored = _tensors(file, path)
        classes = [layer["class_name"].rpartition(">")[2] for layer in layers]
        names = _layer_names(classes, {key.split("/")[1] for key in stored if key.startswith("layers/")})
        tensors = {_rename(key, names): tensor for key, tensor in stored.items()}
        return tensors | _inputs(layers)
    except (OSError, zipfile.BadZipFile, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f"{path} cannot be read as a .keras file: {error}") from error


def read_keras_settings(path: Path) -> dict[str, Any]:
    """The settings of a `.keras` file's layers, as a config.json of the model type `keras`.

    returns : `layers`, class -> the settings of its first layer

    Raises ArchiveError if the file is not a `.keras` file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            layers = json.loads(archive.read(MODEL))["config"]["layers"]
        found: dict[str, Any] = {}
        for layer in layers:
            if not isinstance(layer["config"], dict):
                raise ValueError(f"the settings of a layer in {MODEL} are not an object")
            found.setdefault(layer["class_name"].rpartition(">")[2], layer["config"])
    except (OSError, zipfile.BadZipFile, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f"{path} cannot be read as a .keras file: {error}") from error
    return {"model_type": "keras", "layers": found}


def _tensors(file: h5py.File, path: Path) -> dict[str, Tensor]:
    """Every dataset of an HDF5 file by its path; links are not followed."""
    tensors: dict[str, Tensor] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual or item.dtype.kind not in "fiu":
                raise ArchiveError(f"{path}: {name} is not a numeric array stored in the file")
            tensors[name] = torch.from_numpy(np.asarray(item[()]))

    file.visititems(visit)
    return tensors


def _layer_names(classes: Sequence[str], groups: Iterable[str]) -> dict[str, str]:
    """Group below `layers` -> `<class>.<index>` of the layer.

    Raises ValueError if a class has some groups, but not one for each layer.
    """
    names: dict[str, str] = {}
    for name in dict.fromkeys(classes):
        numbered = {
            int(match[1] or 0): group
            for group in groups
            if (match := re.fullmatch(rf"{re.escape(_snake_case(name))}(?:_(\d+))?", group))
        }
        if numbered and len(numbered) != classes.count(name):
            raise ValueError(
                f"{MODEL} has {classes.count(name)} layers of class {name}, {WEIGHTS} has {len(numbered)}: "
                f"{', '.join(numbered.values())}"
            )
        names |= {group: f"{name}.{place}" for place, (_, group) in enumerate(sorted(numbered.items()))}
    return names


def _rename(key: str, names: Mapping[str, str]) -> str:
    """Replace the group of a layer in a key by the layer's class and index."""
    top, _, rest = key.partition("/")
    group, _, inside = rest.partition("/")
    return f"{names[group]}/{inside}" if top == "layers" and group in names else key


def _inputs(layers: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Empty tensors with the shapes of the inputs, which cannot be inferred from the weights."""
    inputs = [layer for layer in layers if layer["class_name"] == "InputLayer"]
    # The batch dimension, the first, is None.
    shapes = [[side or 0 for side in layer["config"].get("batch_shape", ())] for layer in inputs]
    if any(not isinstance(side, int) or side < 0 for shape in shapes for side in shape):
        raise ValueError(f"an InputLayer of {MODEL} has an invalid batch_shape")
    return {f"InputLayer.{place}": torch.empty(shape) for place, shape in enumerate(shapes) if shape}


def _snake_case(name: str) -> str:
    """SoftMaxClassifier -> soft_max_classifier, by the rule of Keras."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
