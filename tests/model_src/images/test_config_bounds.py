"""Bounds of the sections `input` and `preprocess`, and of sizes: the last value taken, and the first refused."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prelim.errors import ArchiveError, Refused, TooLarge, UnreadableInput
from prelim.images.input_config import Accepts, InputConfig, check_size
from prelim.images.preprocess import PreprocessConfig, as_png, preprocess_image

INPUT_BOUNDS = {
    "max_bytes": ([1, 2**31], [0, -1, 2**31 + 1, True, 1.0, "1"]),
    "max_pixels": ([1, 178_956_970], [0, -1, 178_956_971, True, 1.0, "1"]),
    "max_cpu_seconds": ([0.1, 1, 60], [0.099, 0, 60.001, True, float("nan"), "1"]),
    "render": (["voi", "minmax_equalize"], ["", "VOI", None]),
    "burned_in": (["refuse", "warn"], ["", "accept", None]),
    "modalities": (
        [("CR",), ("A",), ("A1_ B" * 3,), ["DX", "MG"]],
        [(), "CR", None, ("",), ("A" * 17,), ("cr",), (1,)],
    ),
}


@pytest.mark.parametrize("name", INPUT_BOUNDS)
def test_bounds_of_input(name: str) -> None:
    """Accepted values stay as they are, lists as tuples; a refusal names the field."""
    taken, refused = INPUT_BOUNDS[name]
    for value in taken:
        kept = getattr(InputConfig(**{name: value}), name)
        assert kept == (tuple(value) if isinstance(value, list) else value)
    for value in refused:
        with pytest.raises(ArchiveError, match=rf"^input\.{name} (is|has) .*; allowed: "):
            InputConfig(**{name: value})


def test_bounds_of_accepts() -> None:
    """Each list is checked by itself, whichever others are given."""
    keyword = "ComputedRadiographyImageStorage"
    config = InputConfig(accepts={"body_parts": ["CHEST"], "views": ["PA"], "sop_classes": [keyword]})
    assert config.accepts == Accepts(("CHEST",), ("PA",), (keyword,))
    assert Accepts(views=("PA",)).sop_classes is None
    for name in ("body_parts", "views", "sop_classes"):
        for value in ([], "CHEST", ["chest"], [1], ["A" * 17]):
            with pytest.raises(ArchiveError, match=rf"^input\.accepts\.{name} (is|has) .*; allowed: "):
                InputConfig(accepts={name: value})
    # A keyword of something other than a storage class, and a word that looks like one.
    for value in ("ExplicitVRLittleEndian", "MyStorage"):
        with pytest.raises(ArchiveError, match=r"keywords of PS3\.6"):
            Accepts(sop_classes=(value,))
    for section in (None, [], "x"):
        with pytest.raises(ArchiveError, match=r"^input\.accepts is .*body_parts, views, sop_classes"):
            InputConfig(accepts=section)
    with pytest.raises(ArchiveError, match="unknown key 'a'; known: body_parts"):
        InputConfig(accepts={"b": 1, "a": 1, "views": ["PA"]})


def test_defaults() -> None:
    """What docs promise of a model that says nothing."""
    config = InputConfig()
    assert (config.modalities, config.render, config.burned_in) == (("CR", "DX", "RG"), "voi", "refuse")
    assert (config.max_bytes, config.max_pixels, config.max_cpu_seconds) == (67_108_864, 40_000_000, 1.8)
    plain = PreprocessConfig(size=8)
    assert (plain.channels, plain.resize, plain.resize_to, plain.interpolation) == (3, "stretch", None, "bilinear")
    assert (plain.mean, plain.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # ImageNet's
    assert plain.antialias is True


@pytest.mark.parametrize(
    ("rows", "columns", "max_pixels", "error"),
    [
        (32, 32, 1024, None),
        (32, 160, 10_000, None),
        (32, 32, 1023, TooLarge),
        (31, 32, 10_000, Refused),
        (31, 31, 10_000, Refused),
        (32, 161, 10_000, Refused),
        (33, 166, 10_000, Refused),
        (1, 1, 10_000, Refused),
        (0, 32, 10_000, UnreadableInput),
        (-1, 32, 10_000, UnreadableInput),
        (100_000, 100_000, 10_000, TooLarge),
    ],
)
def test_bounds_of_sizes(rows: int, columns: int, max_pixels: int, error: type[Exception] | None) -> None:
    """32 to a side, 5 : 1, and as many pixels as the model allows; both ways round."""
    config = InputConfig(max_pixels=max_pixels)
    for size in ((rows, columns), (columns, rows)):
        if error is None:
            check_size(*size, config)
        else:
            with pytest.raises(error) as refusal:
                check_size(*size, config)
            assert str(size[0]) in str(refusal.value)
            assert str(size[1]) in str(refusal.value)


MULTIPLES: dict[str, Any] = {"size": 8, "resize": "multiples", "min_pixels": 64, "max_pixels": 640}
PREPROCESS_BOUNDS: dict[str, Any] = {
    "min_pixels": (
        [MULTIPLES, {**MULTIPLES, "min_pixels": 1}, {**MULTIPLES, "min_pixels": 640}],
        [
            *({**MULTIPLES, "min_pixels": area} for area in (0, None, True, 64.0, 4096**2 + 1)),
            {"size": 8, "min_pixels": 64},
        ],
    ),
    "max_pixels": (
        [{**MULTIPLES, "max_pixels": area} for area in (320, 4096**2)],
        [
            *({**MULTIPLES, "max_pixels": area} for area in (319, None, 4096**2 + 1)),
            {**MULTIPLES, "min_pixels": 641},
            {"size": 8, "max_pixels": 640},
        ],
    ),
    "resize": ([MULTIPLES], [{**MULTIPLES, "antialias": False}]),
    "size": ([{"size": 1}, {"size": 4096}], [{"size": 0}, {"size": 4097}, {"size": -1}]),
    "resize_to": (
        [{"size": 8, "resize_to": 8}, {"size": 8, "resize_to": 4096}],
        [{"size": 8, "resize_to": 7}, {"size": 8, "resize_to": 4097}, {**MULTIPLES, "resize_to": 8}],
    ),
    "std": (
        [{"size": 8, "std": (1e-9, 1, 1)}, {"size": 8, "channels": 1, "mean": (0,), "std": (0.5,)}],
        [{"size": 8, "std": std} for std in ((0, 1, 1), (1, 1, -1), (1, 1), (1, 1, 1, 1), (np.inf, 1, 1))],
    ),
    "mean": ([{"size": 8, "mean": (-1, 0, 1)}], [{"size": 8, "mean": mean} for mean in ((0, 0), (0, 0, np.nan))]),
    "interpolation": (
        [{"size": 8, "interpolation": "bicubic"}, {"size": 8, "antialias": False}],
        [{"size": 8, "interpolation": "bicubic", "antialias": False}],
    ),
}


@pytest.mark.parametrize("name", PREPROCESS_BOUNDS)
def test_bounds_of_preprocess(name: str) -> None:
    """A refusal names the field."""
    taken, refused = PREPROCESS_BOUNDS[name]
    for options in taken:
        assert PreprocessConfig(**options).size == options["size"]
    for options in refused:
        with pytest.raises(ArchiveError, match=rf"^preprocess\.{name} is .*; allowed: "):
            PreprocessConfig(**options)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_of_pixel_values_is_the_image(channels: int) -> None:
    """Every level of every channel comes back, in its place; what lies beyond black and white is clipped."""
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    config = PreprocessConfig(size=16, channels=channels, mean=mean, std=std)
    levels = np.arange(256 * channels, dtype=np.uint32).reshape(16, 16, channels) * 7 % 256
    levels = levels.astype(np.uint8)[..., 0] if channels == 1 else levels.astype(np.uint8)

    pixel_values = preprocess_image(Image.fromarray(levels), config)

    def decoded(values: np.ndarray) -> np.ndarray:
        image = Image.open(io.BytesIO(as_png(values, config)))
        assert image.format == "PNG"
        return np.asarray(image)

    np.testing.assert_array_equal(decoded(pixel_values), levels)
    assert (decoded(pixel_values + 9) == 255).all()
    assert (decoded(pixel_values - 9) == 0).all()
