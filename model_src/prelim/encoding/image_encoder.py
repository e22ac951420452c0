"""From an image, or from features that a client has of one, to what the decoder reads: bytes -> image_embeds."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prelim.archive.archive import CONNECTOR, INSIGHT_SUFFIX, VISION, Archive
from prelim.encoding.feature_cache import Encoded, FeatureCache, digest_of
from prelim.encoding.onnx_session import Array, OnnxSession
from prelim.errors import InvalidOption
from prelim.images.preprocess import preprocess
from prelim.images.radiograph import read_radiograph


@dataclass
class View:
    """One image on its way to the decoder.

    pixel_values   : shape (channels, size, size); None where the features are known without them
    image_features : shape (num_tokens, width); None until the image is encoded
    digest         : name of the image in the cache of features; empty for a client's features
    warnings       : what the reader of the image found worth saying
    preprocess, vision : seconds that reading and encoding took
    """

    pixel_values: Array | None = None
    image_features: Array | None = None
    digest: str = ""
    warnings: tuple[str, ...] = ()
    preprocess: float = 0.0
    vision: float = 0.0


class ImageEncoder:
    """Vision encoder and connector of an archive, and the features of the last images.

    device  : "cpu" or "cuda"
    threads : of ONNX Runtime
    packed  : of OnnxSession

    Raises ArchiveError naming the network that cannot be loaded.
    """

    def __init__(self, archive: Archive, device: str, threads: int, *, packed: bool) -> None:
        self._config = archive.config
        self._vision = OnnxSession(archive.folder / VISION, device, threads, packed=packed)
        self._connector = OnnxSession(archive.folder / CONNECTOR, device, threads, packed=packed)
        self._insights = {
            name.removesuffix(INSIGHT_SUFFIX): OnnxSession(archive.folder / name, device, threads)
            for name in archive.config.files
            if name.endswith(INSIGHT_SUFFIX)
        }
        self._kept = FeatureCache()

    @property
    def has_insights(self) -> bool:
        """Whether the model says more of an image than its report, such as where it looks."""
        return bool(self._insights)

    def view(self, image: bytes | None, image_features: Array | None) -> View:
        """Read and preprocess an image that was not asked about before, or check a client's features.

        Raises InputError for an image that cannot be read or is refused, for features of another shape, and where
        there is none or both.
        """
        if image_features is not None:
            if image is not None:
                raise InvalidOption("the request has both image and image_features; send one of them")
            return View(image_features=self._checked(image_features))
        if image is None:
            raise InvalidOption("the request has neither image nor image_features; send one of them")
        digest = digest_of(image)
        encoded = self._kept.find(digest)
        if encoded is not None:
            return View(image_features=encoded.image_features, digest=digest, warnings=encoded.warnings)
        began = time.perf_counter()
        radiograph = read_radiograph(image, self._config.input)
        pixel_values = preprocess(radiograph, self._config.preprocess)
        took = time.perf_counter() - began
        return View(pixel_values, digest=digest, warnings=radiograph.warnings, preprocess=took)

    def encode(self, views: Sequence[View]) -> None:
        """Give every view its image_features, all new images in one batch."""
        new = [view for view in views if view.image_features is None and view.pixel_values is not None]
        if not new:
            return
        began = time.perf_counter()
        encoded = self._vision.run(np.stack([view.pixel_values for view in new if view.pixel_values is not None]))
        took = time.perf_counter() - began
        for view, image_features in zip(new, encoded, strict=True):
            view.image_features, view.pixel_values, view.vision = image_features, None, took
            self._kept.keep(view.digest, Encoded(image_features, view.warnings))

    def connect(self, views: Sequence[View]) -> Tensor:
        """image_embeds of encoded views, shape (views, num_tokens, decoder width)."""
        return torch.from_numpy(self._connector.run(np.stack([_features(view) for view in views])))

    def insights(self, view: View) -> Mapping[str, Array]:
        """What the model says of an encoded view beside its report."""
        return {name: session.run(_features(view)[None])[0] for name, session in self._insights.items()}

    def grey(self) -> Array:
        """image_features of a grey image, which nothing is kept of."""
        p = self._config.preprocess
        features: Array = self._vision.run(np.full((1, p.channels, p.size, p.size), 0.5, dtype=np.float32))[0]
        return features

    def forget(self) -> None:
        """Keep no features any more."""
        self._kept.clear()

    def _checked(self, image_features: Array) -> Array:
        """The client's image_features, if they have the shape that the vision encoder gives."""
        features = np.asarray(image_features, dtype=np.float32)
        expected = self._vision.output_shape
        if features.shape != expected:
            raise InvalidOption(f"image_features has shape {features.shape}; this model takes {expected}")
        if not np.isfinite(features).all():
            raise InvalidOption("image_features has values that are not finite")
        return features


def _features(view: View) -> Array:
    if view.image_features is None:
        raise RuntimeError("a view is connected before it is encoded")
    return view.image_features
