"""Extracted image features on disk: safetensors shards and an index, written by training.extract_features."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Generator, Tensor

from prelim.archive.model_config import ModelConfig
from training.datasets.formats.feature_json import read_embedding
from training.datasets.study import DatasetError

INDEX = "index.json"
TENSOR = "image_features"
"""Of each shard, shape (images, num_tokens, width) or (images, width)."""


def encoder_of(config: ModelConfig) -> dict[str, Any]:
    """What of model.yaml decides over features, as JSON gives it back: another encoder has other features."""
    described = {"architecture": config.architecture, "vision": config.vision, "preprocess": vars(config.preprocess)}
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return plain


def name_image(image: Path, root: Path) -> str:
    """The name of an image in an index: its path from the folder of images, whose links are not followed."""
    return Path(os.path.relpath(image, root)).as_posix()


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a folder of features. Raises DatasetError if it cannot be read."""
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DatasetError(
            f"{folder / INDEX} cannot be read: {error}; `python -m training.extract_features` writes it"
        ) from error
    return index


class Features:
    """image_features of images, read from shards as they are needed.

    folder : with index and shards
    images : the files that the features are of
    root   : the folder of the images, Source.image_root
    config : of the model that is to learn from them

    Raises DatasetError for features of another encoder, and for an image that has none.
    """

    name = "image_features"

    def __init__(self, folder: Path, images: Sequence[Path], root: Path, config: ModelConfig) -> None:
        index = read_index(folder)
        wanted, found = encoder_of(config), index["encoder"]
        if differing := [key for key in wanted if wanted[key] != found.get(key)]:
            key = differing[0]
            raise DatasetError(
                f"{folder / INDEX}: features are of another encoder, {key} is {found.get(key)}; "
                f"this model has {wanted[key]}. Extract them again with its archive"
            )
        places: Mapping[str, Sequence[Any]] = index["images"]
        names = [name_image(image, root) for image in images]
        if missing := [name for name in names if name not in places]:
            raise DatasetError(
                f"{folder / INDEX} has no features of {missing[0]}, and of {len(missing) - 1} images more; "
                "run training.extract_features again, it adds what is missing"
            )
        self._folder = folder
        self._places = [(str(places[name][0]), int(places[name][1])) for name in names]
        self._open: dict[str, Any] = {}

    def take(self, indices: Sequence[int], generator: Generator) -> Tensor:
        """image_features of some images in float32, shape (len(indices), ...)."""
        return torch.stack([self._row(*self._places[i]) for i in indices]).float()

    def _row(self, shard: str, row: int) -> Tensor:
        if shard not in self._open:
            try:
                file = safe_open(self._folder / shard, framework="pt")
            except (OSError, SafetensorError) as error:
                raise DatasetError(f"{self._folder / shard} cannot be read: {error}") from error
            self._open[shard] = file.get_slice(TENSOR)  # type: ignore[no-untyped-call]
        features: Tensor = self._open[shard][row]
        return features


class EmbeddedFeatures:
    """image_features that a data set has instead of images, one file of `feature_json` each.

    files : with one shape in all of them

    Raises DatasetError for a file that cannot be read, and for one of another shape.
    """

    name = "image_features"

    def __init__(self, files: Sequence[Path]) -> None:
        rows = []
        for file in files:
            rows.append(torch.from_numpy(read_embedding(file)))
            if rows[-1].shape != rows[0].shape:
                raise DatasetError(
                    f"{file} has features of shape {tuple(rows[-1].shape)}, {files[0]} of {tuple(rows[0].shape)}; "
                    "extract all with one encoder"
                )
        self._features = torch.stack(rows) if rows else torch.empty(0)

    def take(self, indices: Sequence[int], generator: Generator) -> Tensor:
        """image_features of some files in float32, shape (len(indices), ...)."""
        return self._features[list(indices)]
