"""Reads the weights of `.keras` files, without Keras: a zip of config.json and model.weights.h5."""

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


def read_keras(path: Path) -> dict[str, Tensor]:
    """All tensors of a functional Keras model, in the layout of Keras.

    Groups of the HDF5 file are named by class, with a number from the second on. The numbers need not begin
    anywhere and can have gaps; their order is that of the layers in config.json.

    returns : `<class>.<place among the layers of its class>/<path>` -> tensor, as in
              `TransformerEncoder.2/attention/query_dense/vars/0`; what belongs to no layer, as `optimizer/vars/3`,
              under its own path. The inputs are there as `InputLayer.<place>`, tensors for a batch of none

    Raises ArchiveError when the file is no `.keras` file, or when its two parts do not fit each other.
    """
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryFile() as weights:
            layers = json.loads(archive.read(MODEL))["config"]["layers"]
            # HDF5 is read out of order, which a compressed file does not bear.
            with archive.open(WEIGHTS) as packed:
                shutil.copyfileobj(packed, weights, 1 << 20)
            with h5py.File(weights, "r") as file:
                stored = _tensors(file, path)
        classes = [layer["class_name"].rpartition(">")[2] for layer in layers]
        names = _layer_names(classes, {key.split("/")[1] for key in stored if key.startswith("layers/")})
        tensors = {_renamed(key, names): tensor for key, tensor in stored.items()}
        return tensors | _inputs(layers)
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f"{path} cannot be read as a .keras file: {error}") from error


def _tensors(file: h5py.File, path: Path) -> dict[str, Tensor]:
    """Every data set of an HDF5 file by its path; links are not followed."""
    tensors: dict[str, Tensor] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual or item.dtype.kind not in "fiu":
                raise ArchiveError(f"{path}: {name} is no array of numbers within the file")
            tensors[name] = torch.from_numpy(np.asarray(item[()]))

    file.visititems(visit)
    return tensors


def _layer_names(classes: Sequence[str], groups: Iterable[str]) -> dict[str, str]:
    """Group below `layers` -> class and place of the layer.

    Raises ValueError when a class has more or fewer groups than layers; layers without weights need have none.
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


def _renamed(key: str, names: Mapping[str, str]) -> str:
    """The key with its layer's class and place in front."""
    top, _, rest = key.partition("/")
    group, _, inside = rest.partition("/")
    return f"{names[group]}/{inside}" if top == "layers" and group in names else key


def _inputs(layers: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """The shapes of the inputs, which no weight tells."""
    inputs = [layer for layer in layers if layer["class_name"] == "InputLayer"]
    # None stands for the batch, the first dimension.
    shapes = [[side or 0 for side in layer["config"].get("batch_shape", ())] for layer in inputs]
    return {f"InputLayer.{place}": torch.empty(shape) for place, shape in enumerate(shapes) if shape}


def _snake_case(name: str) -> str:
    """SoftMaxClassifier -> soft_max_classifier, as Keras writes it."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
