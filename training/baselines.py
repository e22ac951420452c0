"""What a model must beat: one caption for every picture, and the caption of the most similar training picture."""

from collections import Counter
from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import normalize

from training.datasets.open_radiology import Record, cache_images
from training.scores import cider


def most_frequent_caption(train: Sequence[Record]) -> str:
    """The commonest training caption; of several, the first in the alphabet."""
    counts = Counter(record.caption for record in train)
    return min(counts, key=lambda caption: (-counts[caption], caption))


def best_constant_caption(train: Sequence[Record], references: Sequence[Sequence[str]], candidates: int = 60) -> str:
    """The training caption that has the highest CIDEr if it is said of every picture.

    It is chosen on the pictures that are scored, among the commonest ones: a baseline that is given more than the
    model is.
    """
    counts = Counter(record.caption for record in train)
    common = sorted(counts, key=lambda caption: (-counts[caption], caption))[:candidates]
    return max(common, key=lambda caption: cider([caption] * len(references), references))


def pixel_vectors(records: Sequence[Record], side: int = 32) -> Tensor:
    """Pictures of side x side pixels, each with mean 0 and length 1, shape (records, side ** 2)."""
    flat = cache_images(records, side).flatten(1).float()
    return normalize(flat - flat.mean(dim=1, keepdim=True), dim=1)


def retrieved_captions(queries: Tensor, keys: Tensor, train: Sequence[Record]) -> list[str]:
    """For each query the caption of the training picture with the largest cosine.

    queries : Tensor, shape (pictures, width)
    keys    : Tensor, shape (len(train), width)
    """
    similarity = normalize(queries, dim=1) @ normalize(keys, dim=1).T
    return [train[i].caption for i in similarity.argmax(dim=1).tolist()]
