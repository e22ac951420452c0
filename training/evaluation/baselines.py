"""What a model must beat: texts that need no look at the image, and the report of the most similar training image."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize
from tqdm import tqdm

from prelim.errors import InputError
from prelim.images.radiograph import InputConfig
from training.datasets.pictures import read_picture
from training.datasets.study import DatasetError
from training.evaluation.metrics.ngrams import best_constant


def most_frequent_report(train: Sequence[str]) -> str:
    """The commonest training report; of several, the first in the alphabet."""
    counts = Counter(train)
    return min(counts, key=lambda text: (-counts[text], text))


def best_constant_report(train: Sequence[str], references: Sequence[str], tokenize: Callable[[str], str]) -> str:
    """The training report with the highest BLEU-4 if it is said for every reference; all are tried."""
    tokenized = {tokenize(text): text for text in reversed(train)}  # of equal ones the first
    return tokenized[best_constant(map(tokenize, train), [tokenize(text) for text in references])]


def random_reports(train: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """A training report drawn for every study."""
    generator = random.Random(seed)  # noqa: S311 - a baseline, no secret
    return [generator.choice(train) for _ in range(count)]


def pixel_vectors(images: Sequence[Path], side: int = 32, frame: int = 0) -> Tensor:
    """Images of side x side pixels, each with mean 0 and length 1, shape (images, side ** 2)."""
    config = InputConfig()
    rows = np.empty((len(images), side * side), dtype=np.float32)
    for row, path in zip(rows, tqdm(images, desc="pixels", unit="image", leave=False), strict=True):
        try:
            pixels = torch.from_numpy(read_picture(path, config, frame).pixels)
        except (OSError, InputError) as error:
            raise DatasetError(f"{path} cannot be read: {error}") from error
        small = interpolate(pixels[None, None].float(), (side, side), mode="bilinear", antialias=True)
        row[:] = small.flatten().numpy()
    flat = torch.from_numpy(rows)
    return normalize(flat - flat.mean(dim=1, keepdim=True), dim=1)


def retrieved_reports(queries: Tensor, keys: Tensor, train: Sequence[str]) -> list[str]:
    """For each query the report of the training image with the largest cosine.

    queries : Tensor, shape (images, width)
    keys    : Tensor, shape (len(train), width)
    """
    similarity = normalize(queries, dim=1) @ normalize(keys, dim=1).T
    return [train[i] for i in similarity.argmax(dim=1).tolist()]
