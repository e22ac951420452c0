"""From an image, or a client's features of one, to what the decoder reads: bytes -> image_embeds."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prelim.archive.archive import CONNECTOR, INSIGHT_SUFFIX, VISION, Archive
from prelim.encoding.feature_cache import Encoded, FeatureCache, digest_of
from prelim.encoding.gate import archived_gate, pool
from prelim.encoding.network_session import open_connector, open_vision
from prelim.encoding.onnx_session import Array, OnnxSession
from prelim.errors import InvalidOption, NonFiniteOutput
from prelim.images.placement import Placement
from prelim.images.preprocess import as_png, preprocess
from prelim.images.radiograph import read_radiograph

MAX_FEATURE = 1e4
"""Largest absolute value of a client's image_features.

Encoders end in a norm or in averages of activations, whose values are below some hundred. Up to this bound the squares
and products of a connector stay far within float32; of values near 1e19 already the squares overflow.
"""

_FEW_TOKENS = 64
"""Of the image that warms a model up, where pictures have several sizes."""


@dataclass
class PreparedImage:
    """One image on its way to the decoder.

    pixel_values   : as `preprocess` gives them; None where the features are known without them
    image_features : shape (num_tokens, width), or (rows, columns, width), where the vision encoder runs; None until
                     the image is encoded
    digest         : name of the image in the cache of features; empty for a client's features
    warnings       : remarks of the reader of the file, and of the gate
    distance       : from the images of the training, by the gate; None without one
    placement      : where its picture is in the stored image; None for a client's features
    preprocess, vision : seconds that reading and encoding took; of images that were encoded together, a share
    """

    pixel_values: Array | None = None
    image_features: Tensor | None = None
    digest: str = ""
    warnings: tuple[str, ...] = ()
    distance: float | None = None
    placement: Placement | None = None
    preprocess: float = 0.0
    vision: float = 0.0


class ImageEncoder:
    """Vision encoder and connector of an archive, its gate between them, and the features of the last images.

    device  : of OnnxSession
    threads : of ONNX Runtime
    packed  : of OnnxSession

    Raises ArchiveError naming the network that cannot be loaded, and as `archived_gate` does.
    """

    def __init__(self, archive: Archive, device: str, threads: int, *, packed: bool) -> None:
        self._config = archive.config
        encoder = archive.config.served_encoder
        self._vision = open_vision(archive.folder / VISION, encoder, device, threads, packed=packed)
        self._connector = open_connector(archive.folder / CONNECTOR, encoder, device, threads, packed=packed)
        self._insights = {
            name.removesuffix(INSIGHT_SUFFIX): OnnxSession(archive.folder / name, device, threads)
            for name in archive.files
            if name.endswith(INSIGHT_SUFFIX)
        }
        self._gate = archived_gate(archive, self._vision.output_shape)
        self._kept = FeatureCache()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")

    @property
    def image_features_shape(self) -> tuple[int, ...]:
        """What the vision encoder gives for one image, (num_tokens, width) or (width,).

        Of an encoder of pictures of several sizes it is that of a large picture, (rows, columns, width).
        """
        p = self._config.preprocess
        if p.resize != "multiples":
            return self._vision.output_shape
        return (*(side // p.size for side in p.picture_size()), self._vision.output_shape[-1])

    @property
    def device(self) -> str:
        """Where the vision encoder runs."""
        return self._vision.device

    @property
    def has_insights(self) -> bool:
        """Whether the model has outputs besides the report, such as attention maps."""
        return bool(self._insights)

    @property
    def has_gate(self) -> bool:
        """Whether images have a distance from those of the training."""
        return self._gate is not None

    @property
    def most_tokens(self) -> int:
        """Tokens of image_embeds; of pictures of several sizes those of the largest."""
        p = self._config.preprocess
        return p.most_tokens if p.resize == "multiples" else self._connector.output_shape[0]

    @property
    def together(self) -> int:
        """Largest number of images that are encoded together."""
        return self._vision.together

    def start(self, image: bytes | None, image_features: Array | None) -> Future[PreparedImage]:
        """Begin to `prepare`, one image after the other, in a thread that mostly waits for the process that decodes."""
        return self._reader.submit(self.prepare, image, image_features)

    def prepare(self, image: bytes | None, image_features: Array | None) -> PreparedImage:
        """Read and preprocess an image that is not in the cache of features, or check a client's features.

        image, image_features : one of them

        Raises InputError for an image that cannot be read or is refused, and for features of another shape.
        """
        if image_features is not None:
            return PreparedImage(image_features=torch.from_numpy(self._check(image_features)))
        if image is None:
            raise ValueError("there is neither an image nor features")
        digest = digest_of(image)
        encoded = self._kept.find(digest)
        if encoded is not None:
            return PreparedImage(
                image_features=encoded.image_features,
                digest=digest,
                warnings=encoded.warnings,
                placement=encoded.placement,
            )
        began = time.perf_counter()
        radiograph = read_radiograph(image, self._config.input)
        pixel_values = preprocess(radiograph, self._config.preprocess)
        rows, columns = radiograph.pixels.shape
        took = time.perf_counter() - began
        return PreparedImage(
            pixel_values,
            digest=digest,
            warnings=radiograph.warnings,
            placement=Placement(rows, columns, radiograph.orientation),
            preprocess=took,
        )

    def picture(self, prepared: PreparedImage, image: bytes) -> bytes:
        """PNG of an image as the network reads it: rendered, resized and cropped.

        An image whose features are in the cache is read again for this.
        """
        config = self._config
        pixel_values = prepared.pixel_values
        if pixel_values is None:
            pixel_values = preprocess(read_radiograph(image, config.input), config.preprocess)
        return as_png(pixel_values, config.preprocess)

    def embed(self, image: PreparedImage, others: Iterable[PreparedImage] = ()) -> Tensor:
        """Compute image_embeds of an image, shape (num_tokens, decoder width), or (rows, columns, decoder width).

        They are where the networks run.

        others : images that come next, which are encoded with it as far as images are encoded together

        Neither changes a bit: see `ImageSession`.

        Raises NonFiniteOutput for an image that becomes NaN or infinity, InvalidOption for such a client's features,
        UnlikeTraining as `Gate.check` does.
        """
        if image.image_features is None:
            waiting = [other for other in others if other.image_features is None and other is not image]
            self._encode([image, *waiting[: self.together - 1]])
        features = _features(image)
        if features.isfinite().all():
            if self._gate is not None:
                image.distance = float(self._gate.distance(pool(features[None].cpu().numpy()))[0])
                image.warnings += self._gate.check(image.distance, self._config)
            image_embeds = self._connector.run(features[None])[0]
            if image_embeds.isfinite().all():
                return image_embeds
        if image.digest:
            raise NonFiniteOutput("the encoder or the connector computed NaN or infinity for this image")
        raise InvalidOption(
            "image_features become NaN or infinity in this model's connector; send what its vision encoder gives"
        )

    def insights(self, image: PreparedImage) -> Mapping[str, Array]:
        """Compute the model's outputs besides the report, for an encoded image."""
        return {name: session.run(_features(image)[None])[0].cpu().numpy() for name, session in self._insights.items()}

    def gray(self) -> Array:
        """image_features of a gray image; the cache does not keep them."""
        p = self._config.preprocess
        shape = (1, p.channels, *p.picture_size(_FEW_TOKENS))
        features: Array = self._vision.run(torch.full(shape, 0.5))[0].cpu().numpy()
        return features

    @contextmanager
    def without_gate(self) -> Iterator[None]:
        """Let every image pass, such as `gray`."""
        gate, self._gate = self._gate, None
        try:
            yield
        finally:
            self._gate = gate

    def forget(self) -> None:
        """Empty the cache of features."""
        self._kept.clear()

    def _encode(self, images: Sequence[PreparedImage]) -> None:
        """Compute image_features of images that have none, and keep them for the next requests with these images."""
        began = time.perf_counter()
        features = self._vision.run(torch.from_numpy(np.stack([_pixels(image) for image in images])))
        took = time.perf_counter() - began
        for image, found in zip(images, features, strict=True):
            image.image_features, image.pixel_values, image.vision = found, None, took / len(images)
            if found.isfinite().all():
                self._kept.keep(image.digest, Encoded(found, image.warnings, image.placement))

    def _check(self, image_features: Array) -> Array:
        """The client's image_features, if they have the shape that the vision encoder gives."""
        try:
            given = np.asarray(image_features)
        except ValueError as error:
            raise InvalidOption("image_features is not an array: its rows differ in length") from error
        if given.dtype.kind not in "iuf":
            raise InvalidOption(f"image_features has values of type {given.dtype}; they must be numbers")
        with np.errstate(over="ignore"):  # becomes infinite, which is refused
            features = given.astype(np.float32)
        expected = self.image_features_shape
        if self._config.preprocess.resize == "multiples":
            most, width = self.most_tokens, expected[-1]
            rows, columns, found = features.shape if features.ndim == len(expected) else (0, 0, 0)
            if not 1 <= rows * columns <= most or found != width:
                raise InvalidOption(
                    f"image_features has shape {features.shape}; this model takes (rows, columns, {width}) with "
                    f"rows x columns up to {most}"
                )
        elif features.shape != expected:
            raise InvalidOption(f"image_features has shape {features.shape}; this model takes {expected}")
        if not np.isfinite(features).all():
            raise InvalidOption("image_features has values that are not finite")
        largest = float(np.abs(features).max())
        if largest > MAX_FEATURE:
            raise InvalidOption(
                f"image_features has a value of size {largest:.3g}; allowed: {-MAX_FEATURE:.0f} to {MAX_FEATURE:.0f}"
            )
        return features


def _pixels(image: PreparedImage) -> Array:
    if image.pixel_values is None:
        raise RuntimeError("an image is encoded before it is read")
    return image.pixel_values


def _features(image: PreparedImage) -> Tensor:
    if image.image_features is None:
        raise RuntimeError("an image is connected before it is encoded")
    return image.image_features
