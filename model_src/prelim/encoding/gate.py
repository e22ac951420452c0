"""The input gate: whether an image is like those that the model was trained on, by the features of its encoder.

A report generator writes a report for whatever it is given, and nothing in the report shows it.

Source: Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
NeurIPS 2018, with a single class, in the subspace of Tipping and Bishop, "Probabilistic Principal Component Analysis",
1999. docs/decisions/0032-input-gate.md has what it was compared with.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prelim.archive.archive import GATE, Archive
from prelim.archive.model_config import ModelConfig
from prelim.decoders.weights_file import read_weights, write_weights
from prelim.encoding.onnx_session import Array
from prelim.errors import ArchiveError, UnlikeTraining

MAKE = "`python -m training.gate MODEL DATA` makes one"
"""For messages."""


@dataclass(frozen=True)
class Gate:
    """The distribution of a model's features on the images of its training, and the limit of what is like them.

    mean       : float32, shape (width,), of `pool`ed image_features
    directions : float16, shape (rank, width), orthonormal: in which the features vary most
    deviations : float32, shape (rank,), standard deviations in these directions
    rest       : float32, shape (1,), standard deviation in any other direction
    limit      : float32, shape (1,), largest Mahalanobis distance of an image that is like those of the training
    encoder    : uint8, shape (32,), `hash_encoder` of the encoder whose features these are
    """

    mean: Array
    directions: np.ndarray
    deviations: Array
    rest: Array
    limit: Array
    encoder: np.ndarray

    def distance(self, pooled: Array) -> Array:
        """Mahalanobis distances in units of the limit, shape (images,); above 1 an image is unlike the training's.

        pooled : shape (images, width), see `pool`
        """
        centered = pooled - self.mean
        directions = self.directions.astype(np.float32)
        along = centered @ directions.T
        beyond = centered - along @ directions
        squares = ((along / self.deviations) ** 2).sum(axis=1) + ((beyond / self.rest) ** 2).sum(axis=1)
        distances: Array = np.sqrt(squares) / self.limit
        return distances

    def check(self, distance: float, config: ModelConfig) -> tuple[str, ...]:
        """Warnings for an image that is unlike those of the training, if its model is to warn of one.

        distance : of its features

        Raises UnlikeTraining if its model is to refuse it.
        """
        if distance <= 1 or config.input.unlike_training == "ignore":
            return ()
        fault = (
            f"unlike_training: the image is unlike those that {config.name} was trained on; its distance from them is "
            f"{distance:.2f} times the limit"
        )
        if config.input.unlike_training == "warn":
            return (fault,)
        raise UnlikeTraining(
            f"{fault}; send a radiograph of the kinds that its model card names, upright and as it was taken, or set "
            "input.unlike_training to warn in model.yaml"
        )

    def write(self, path: Path) -> None:
        """Write it as safetensors."""
        write_weights(path, {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in vars(self).items()})


def mean_features(image_features: Array) -> Array:
    """Mean over the tokens of each image, shape (images, width).

    image_features : shape (images, num_tokens, width), (images, rows, columns, width), or (images, width) of encoders
                     that give one vector
    """
    tokens = tuple(range(1, image_features.ndim - 1))
    mean: Array = image_features.mean(axis=tokens) if tokens else image_features
    return mean


def pool(image_features: Array) -> Array:
    """What a gate compares: `mean_features` with a length of 1, shape (images, width).

    An image that is brighter or richer in contrast has longer features, not others.
    """
    mean = mean_features(image_features)
    pooled: Array = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return pooled


def read_gate(path: Path) -> Gate:
    """Read the gate that `Gate.write` has written. Raises ArchiveError naming the file if it is not one."""
    tensors = {name: tensor.numpy() for name, tensor in read_weights(path).items()}
    names = {field.name for field in fields(Gate)}
    if tensors.keys() != names:
        raise ArchiveError(f"{path} has {', '.join(sorted(tensors))}; a gate has {', '.join(sorted(names))}; {MAKE}")
    gate = Gate(**tensors)
    rank, width = gate.directions.shape if gate.directions.ndim == 2 else (0, 0)
    shapes = {name: array.shape for name, array in tensors.items()}
    wanted = {
        "mean": (width,),
        "directions": (rank, width),
        "deviations": (rank,),
        "rest": (1,),
        "limit": (1,),
        "encoder": (32,),
    }
    if shapes != wanted:
        raise ArchiveError(f"{path} has arrays of shapes {shapes}, which do not fit together; {MAKE}")
    return gate


def find_gate(folder: Path) -> Gate | None:
    """The gate of a model folder; None if it has none. Raises ArchiveError as `read_gate` does."""
    return read_gate(folder / GATE) if (folder / GATE).is_file() else None


def archived_gate(archive: Archive, image_features_shape: tuple[int, ...]) -> Gate | None:
    """The gate of an archive; None if it has none.

    Raises ArchiveError for one of other features, and as `require_gate` does.
    """
    if GATE not in archive.files:
        require_gate(archive.config, None, archive.folder)
        return None
    gate = read_gate(archive.folder / GATE)
    if gate.mean.shape != image_features_shape[-1:]:
        raise ArchiveError(
            f"{archive.folder / GATE} is of features of width {len(gate.mean)}, the encoder gives "
            f"{image_features_shape[-1]}; {MAKE}"
        )
    return gate


def require_gate(config: ModelConfig, gate: Gate | None, source: Path | str) -> None:
    """Raise ArchiveError if model.yaml asks for a gate and there is none."""
    if gate is None and config.input.unlike_training in ("refuse", "warn"):
        raise ArchiveError(
            f"{source}: model.yaml has input.unlike_training: {config.input.unlike_training}, but there is no {GATE}; "
            f"{MAKE}, or remove the line"
        )


def hash_encoder(config: ModelConfig, weights: Mapping[str, Tensor]) -> bytes:
    """The sha256 of all that features depend on: weights of the vision encoder, dimensions, precision, preprocessing.

    weights : of a model folder, as they are stored
    """
    # Without defaults, so that a setting that is added later changes no hash.
    given = {f.name: getattr(config.preprocess, f.name) for f in fields(config.preprocess)}
    changed = {f.name: given[f.name] for f in fields(config.preprocess) if given[f.name] != f.default}
    described = {"vision": config.vision, "preprocess": changed, "render": config.input.render}
    if rounded := config.served_encoder.of_features:
        described["encoder"] = rounded
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        if name.startswith("vision."):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()
