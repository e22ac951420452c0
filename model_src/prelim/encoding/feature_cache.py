"""Image features that are kept between requests, so that several questions about one image encode it once."""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

from torch import Tensor

from prelim.images.placement import Placement

CAPACITY, MOST_BYTES = 32, 2**28
"""Images, and their bytes together. ViT-g's features take 1.4 MB each, those of an encoder of grids 20 kB a token."""


@dataclass(frozen=True)
class Encoded:
    """What a model saw in an image.

    image_features : shape (num_tokens, width), or (rows, columns, width), where the vision encoder runs
    warnings       : remarks of the reader of the file
    placement      : where the picture that the model reads is in the file's image
    """

    image_features: Tensor
    warnings: tuple[str, ...]
    placement: Placement | None = None


class FeatureCache:
    """The features of the images that were asked about last, by the sha256 of their files; never on disk.

    capacity, most_bytes : of images and their features; the last image is kept however large it is
    """

    def __init__(self, capacity: int = CAPACITY, most_bytes: int = MOST_BYTES) -> None:
        self._capacity, self._most_bytes = capacity, most_bytes
        self._encoded: OrderedDict[str, Encoded] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, digest: str) -> Encoded | None:
        """The features of an image; None if the cache does not have them."""
        with self._lock:
            if digest in self._encoded:
                self._encoded.move_to_end(digest)
            return self._encoded.get(digest)

    def keep(self, digest: str, encoded: Encoded) -> None:
        """Keep the features of an image, and evict the least recently used."""
        # A copy, because a row of a batch would keep the whole batch in memory.
        copy = replace(encoded, image_features=encoded.image_features.clone())
        with self._lock:
            self._encoded[digest] = copy
            self._encoded.move_to_end(digest)
            while len(self._encoded) > self._capacity or (len(self._encoded) > 1 and self._bytes > self._most_bytes):
                self._encoded.popitem(last=False)

    @property
    def _bytes(self) -> int:
        return sum(encoded.image_features.nbytes for encoded in self._encoded.values())

    def clear(self) -> None:
        """Forget all images."""
        with self._lock:
            self._encoded.clear()


def digest_of(image: bytes) -> str:
    """The name under which an image's features are kept: the sha256 of its file."""
    return hashlib.sha256(image).hexdigest()
