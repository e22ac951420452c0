import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from prelim.errors import ArchiveError
from prelim.images.preprocess import PreprocessConfig, preprocess, preprocess_image
from prelim.images.radiograph import Radiograph
from tests.parity.fixture import fixture_path, read_fixture

CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
SYSTEMS = {
    0: PreprocessConfig(size=224, resize="shortest_edge", interpolation="bicubic", **CLIP),
    1: PreprocessConfig(size=224, resize_to=256),
    2: PreprocessConfig(size=224),
    3: PreprocessConfig(size=224, interpolation="bicubic", **CLIP),
    4: PreprocessConfig(size=196, channels=1, antialias=False, mean=(0.0,), std=(1.0,)),
}
BICUBIC = transforms.InterpolationMode.BICUBIC
TORCHVISION = {
    0: [transforms.Resize(224, BICUBIC), transforms.CenterCrop(224)],
    1: [transforms.Resize((256, 256)), transforms.CenterCrop(224)],
    2: [transforms.Resize((224, 224))],
    3: [transforms.Resize((224, 224), BICUBIC)],
}


def random_image(width: int, height: int, mode: str) -> Image.Image:
    """Return the same noise for the same size."""
    generator = np.random.default_rng(width * 10007 + height)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))


def radiograph_of(pixels: np.ndarray) -> Radiograph:
    """Return a radiograph of (rows, columns) in [0, 1]."""
    return Radiograph(pixels.astype(np.float32), None, None, None, ())


@pytest.mark.parametrize("system", TORCHVISION)
@pytest.mark.parametrize("size", [(300, 260), (260, 301), (640, 481), (225, 1000), (100, 90), (224, 224)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_equals_torchvision(system: int, size: tuple[int, int], mode: str) -> None:
    """pixel_values are bit for bit what torchvision's transforms make of the same PIL image."""
    config = SYSTEMS[system]
    image = random_image(*size, mode)
    reference = transforms.Compose(
        [*TORCHVISION[system], transforms.ToTensor(), transforms.Normalize(config.mean, config.std)]
    )
    assert np.array_equal(preprocess_image(image, config), reference(image.convert("RGB")).numpy())


@pytest.mark.parametrize("size", [(300, 260), (197, 1000), (90, 60), (196, 196)])
def test_without_antialias_equals_half_pixel_bilinear(size: tuple[int, int]) -> None:
    """Without antialias, pixel_values are bilinear at half-pixel centers on float pixels, as tf.image.resize makes."""
    pixels = np.asarray(random_image(*size, "L"), dtype=np.float32) / 255
    reference = torch.nn.functional.interpolate(
        torch.from_numpy(pixels)[None, None], (196, 196), mode="bilinear", align_corners=False, antialias=False
    )[0]
    np.testing.assert_allclose(preprocess(radiograph_of(pixels), SYSTEMS[4]), reference.numpy(), atol=1e-5)


def test_without_antialias_by_hand() -> None:
    """Halving four columns takes the means of neighbors, doubling two columns takes quarters between them."""
    halving = PreprocessConfig(size=2, channels=1, antialias=False, mean=(0.0,), std=(1.0,))
    row = np.array([0.0, 0.2, 0.6, 1.0])
    np.testing.assert_allclose(preprocess(radiograph_of(np.tile(row, (4, 1))), halving)[0, 0], [0.1, 0.8], atol=1e-6)
    doubling = PreprocessConfig(size=4, channels=1, antialias=False, mean=(0.0,), std=(1.0,))
    doubled = preprocess(radiograph_of(np.array([[0.0, 1.0], [0.0, 1.0]])), doubling)[0, 0]
    np.testing.assert_allclose(doubled, [0.0, 0.25, 0.75, 1.0], atol=1e-6)


@pytest.mark.parametrize("size", [(90, 60), (60, 90)])
def test_colors_stay_apart_without_antialias(size: tuple[int, int]) -> None:
    """Each channel of a color image is what its gray image gives, with its own mean and deviation."""
    image, names = random_image(*size, "RGB"), {"size": 48, "antialias": False, "resize": "pad"}
    config = PreprocessConfig(**names, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))

    pixel_values = preprocess_image(image, config)

    for i, band in enumerate(image.split()):
        alone = PreprocessConfig(**names, channels=1, mean=config.mean[i : i + 1], std=config.std[i : i + 1])
        np.testing.assert_array_equal(pixel_values[i], preprocess_image(band, alone)[0])


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("resize", ["stretch", "shortest_edge", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(50, 40), (40, 50), (33, 160), (700, 150)])
def test_shape(antialias: bool, resize: str, channels: int, shape: tuple[int, int]) -> None:
    """Every configuration makes (channels, size, size) float32, whatever the aspect, with equal channels from gray."""
    config = PreprocessConfig(
        size=48,
        channels=channels,
        resize=resize,
        resize_to=56,
        antialias=antialias,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )
    pixel_values = preprocess(radiograph_of(np.random.default_rng(1).random(shape)), config)
    assert pixel_values.shape == (channels, 48, 48)
    assert pixel_values.dtype == np.float32
    assert pixel_values.flags.c_contiguous
    assert (pixel_values == pixel_values[:1]).all()
    assert 0 <= pixel_values.min() < pixel_values.max() <= 1


@pytest.mark.parametrize("antialias", [True, False])
def test_pad_is_black_and_centered(antialias: bool) -> None:
    """A white image twice as high as wide becomes a white middle half between black quarters."""
    config = PreprocessConfig(size=64, channels=1, resize="pad", antialias=antialias, mean=(0.0,), std=(1.0,))
    pixel_values = preprocess(radiograph_of(np.ones((200, 100))), config)[0]
    assert (pixel_values[:, :16] == 0).all()
    assert (pixel_values[:, 16:48] == 1).all()
    assert (pixel_values[:, 48:] == 0).all()


def test_eight_bit_gray_survives() -> None:
    """A radiograph that came from an 8-bit file gives the pixel_values of that file."""
    image = random_image(300, 260, "L")
    from_radiograph = preprocess(radiograph_of(np.asarray(image, dtype=np.float32) / 255), SYSTEMS[1])
    assert np.array_equal(from_radiograph, preprocess_image(image, SYSTEMS[1]))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"size": 0}, "size"),
        ({"size": 224, "channels": 2}, "channels"),
        ({"size": 224, "resize": "squash"}, "resize"),
        ({"size": 224, "resize_to": 200}, "resize_to"),
        ({"size": 224, "interpolation": "lanczos"}, "interpolation"),
        ({"size": 224, "interpolation": "bicubic", "antialias": False}, "antialias"),
        ({"size": 224, "mean": (0.5,)}, "mean"),
        ({"size": 224, "std": (0.0, 0.1, 0.1)}, "std"),
        ({"size": 224, "std": (float("nan"), 0.1, 0.1)}, "std"),
    ],
)
def test_bad_options_are_named(options: dict, field: str) -> None:
    """A value that is not allowed is an ArchiveError that names its field and what is allowed."""
    with pytest.raises(ArchiveError, match=rf"preprocess\..*{field}.*allowed"):
        PreprocessConfig(**options)


def test_lists_of_yaml_are_taken() -> None:
    """Lists, which YAML has for tuples, make an equal configuration."""
    assert PreprocessConfig(size=8, mean=[0.1, 0.2, 0.3], std=[1.0, 1.0, 1.0]) == PreprocessConfig(
        size=8, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)
    )


@pytest.mark.parametrize(
    ("system", "name", "size"),
    [
        (0, "preprocess_300x260", (300, 260)),
        (0, "preprocess_640x480", (640, 480)),
        (1, "preprocess_300x260", (300, 260)),
        (1, "preprocess_640x480", (640, 480)),
        (2, "preprocess_224x224", (224, 224)),
        (3, "blip2_image_eval_300x260", (300, 260)),
        (3, "blip2_image_eval_640x480", (640, 480)),
    ],
)
def test_equals_originals(system: int, name: str, size: tuple[int, int]) -> None:
    """pixel_values are those that the five original implementations computed from the same image."""
    fixture = read_fixture(fixture_path(system))
    (recorded,) = [
        entry for key in ("outputs", "preprocess") for entry in fixture.get(key, []) if entry["name"] == name
    ]
    width, height = size
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    pixel_values = preprocess_image(Image.fromarray(((3 * x + 5 * y + 7 * c) % 256).astype(np.uint8)), SYSTEMS[system])
    assert list(pixel_values.shape) == recorded["shape"]
    np.testing.assert_allclose(pixel_values.ravel()[:16], recorded["first16"], atol=1e-4)
    np.testing.assert_allclose(pixel_values.ravel()[-4:], recorded["last4"], atol=1e-4)
    for statistic, value in (
        ("mean", pixel_values.mean(dtype=np.float64)),
        ("std", pixel_values.std(dtype=np.float64)),
        ("abs_max", np.abs(pixel_values).max()),
    ):
        assert value == pytest.approx(recorded[statistic], abs=1e-4), statistic


@pytest.mark.parametrize("size", [(300, 260), (260, 301), (225, 1000), (64, 64)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_square_in_the_color_of_the_mean(size: tuple[int, int], mode: str) -> None:
    """As large as the longer side, the image in its middle, before it is resized."""
    config = PreprocessConfig(size=224, resize="pad_mean", interpolation="bicubic", **CLIP)
    image = random_image(*size, mode)
    side = max(size)
    square = Image.new("RGB", (side, side), (122, 116, 104))
    square.paste(image.convert("RGB"), ((side - size[0]) // 2, (side - size[1]) // 2))
    stretched = PreprocessConfig(size=224, interpolation="bicubic", **CLIP)

    assert np.array_equal(preprocess_image(image, config), preprocess_image(square, stretched))
    gray = PreprocessConfig(size=64, channels=1, resize="pad_mean", mean=(0.5,), std=(1.0,))
    assert preprocess_image(random_image(64, 32, "L"), gray)[0, 0, 0] == np.float32(127) / np.float32(255) - np.float32(
        0.5
    )


def test_full_range_of_gray_levels() -> None:
    """The darkest pixel becomes black and the brightest white, levels between are rounded down; one level is black."""
    config = PreprocessConfig(size=2, channels=1, full_range=True, mean=(0.0,), std=(1.0,))
    pixels = np.array([[10, 20], [31, 40]], dtype=np.uint8)

    found = preprocess_image(Image.fromarray(pixels), config)

    assert np.rint(found * 255).astype(int).tolist() == [[[0, 85], [178, 255]]]
    assert not preprocess_image(Image.fromarray(np.full((2, 2), 7, dtype=np.uint8)), config).any()


@pytest.mark.parametrize(("name", "value"), [("full_range", True), ("resize", "pad_mean")])
def test_floats_are_neither_padded_nor_stretched(name: str, value: object) -> None:
    """Both are what code for 8 bits does."""
    with pytest.raises(ArchiveError, match=f"preprocess.{name} is {value!r} with antialias false"):
        PreprocessConfig(size=4, antialias=False, **{name: value})


MULTIPLES = PreprocessConfig(size=28, resize="multiples", min_pixels=3136, max_pixels=100 * 28**2)


@pytest.mark.parametrize("config", [MULTIPLES, dataclasses.replace(MULTIPLES, min_pixels=40_000, max_pixels=40_000)])
def test_multiples_are_within_their_area_and_keep_the_aspect(config: PreprocessConfig) -> None:
    """Of all sizes that are accepted: both sides in multiples, not too many tokens, less than a token off."""
    for rows in range(32, 900, 61):
        for columns in range(max(32, rows // 5 + 1), min(900, 5 * rows), 53):
            shape = preprocess_image(Image.new("L", (columns, rows)), config).shape
            down, across = (side // config.size for side in shape[1:])
            assert shape == (3, down * config.size, across * config.size)
            assert 1 <= down * across <= config.most_tokens
            assert abs(down - rows * across / columns) < 1 + rows / columns


def test_pictures_of_several_sizes_are_as_large_as_said() -> None:
    """The largest, and one with fewer tokens; other pictures are squares."""
    assert MULTIPLES.picture_size() == (280, 280)
    assert MULTIPLES.picture_size(45) == (6 * 28, 7 * 28)
    assert (SYSTEMS[1].picture_size(), SYSTEMS[1].most_tokens) == ((224, 224), 1)
    with pytest.raises(ArchiveError, match="resize is multiples, but training needs pictures of one size"):
        MULTIPLES.check_one_size("training")
    SYSTEMS[1].check_one_size("training")
