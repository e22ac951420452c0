"""A box in the picture that a network reads is where it was in the image that was stored."""

import io

import numpy as np
import pytest
from PIL import Image

from prelim.images.input_config import InputConfig
from prelim.images.placement import Placement
from prelim.images.preprocess import RESIZES, PreprocessConfig, preprocess_image
from prelim.images.radiograph import read_radiograph

SIZES = ((300, 200), (200, 301), (97, 97), (518, 777))
"""Rows and columns."""


def spot(rows: int, columns: int, box: tuple[int, int, int, int]) -> Image.Image:
    """A gray image that is white within the box."""
    pixels = np.full((rows, columns), 90, np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = 255
    return Image.fromarray(pixels)


def seen_box(picture: np.ndarray) -> tuple[float, float, float, float]:
    """The sides of what is white in a picture, in parts of its sides."""
    rows, columns = np.nonzero(picture > (0.5 + 90 / 255 / 2))
    height, width = picture.shape
    return columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", SIZES)
def test_a_spot_is_found_where_it_was(resize: str, size: tuple[int, int]) -> None:
    """Through every way to make a picture, to within the pixels that one of the picture covers."""
    rows, columns = size
    sides = {"size": 14, "min_pixels": 14, "max_pixels": 128**2} if resize == "multiples" else {"resize_to": 140}
    config = PreprocessConfig(
        **{"size": 128, **sides}, channels=1, resize=resize, mean=(0.0,), std=(1.0,), crop="floor"
    )
    box = (columns // 2 - 20, rows // 2 + 5, columns // 2 + 15, rows // 2 + 30)
    picture = preprocess_image(spot(rows, columns, box), config)[0]

    found = Placement(rows, columns).locate(seen_box(picture), config)

    assert found == pytest.approx(box, abs=max(rows, columns) / 128 + 0.5)


@pytest.mark.parametrize("size", SIZES)
def test_a_box_is_that_of_maira_2(size: tuple[int, int]) -> None:
    """Within two pixels: its own code crops to the shorter side, adds half of what is cropped, and rounds down."""
    rows, columns = size
    config = PreprocessConfig(518, 3, "shortest_edge", interpolation="bicubic", crop="floor")
    side = min(size)
    for bins in ((0, 0, 99, 99), (55, 45, 70, 56), (10, 20, 10, 21)):
        left, top, right, bottom = sides = tuple((number + 0.5) / 100 for number in bins)
        published = (
            int(left * side + (columns - side) // 2),
            int(top * side + (rows - side) // 2),
            int(right * side + (columns - side) // 2),
            int(bottom * side + (rows - side) // 2),
        )
        assert Placement(rows, columns).locate(sides, config) == pytest.approx(published, abs=2)


def test_what_is_outside_of_the_image_is_at_its_edge() -> None:
    """A box in the black around a padded image."""
    config = PreprocessConfig(100, 1, "pad", mean=(0.0,), std=(1.0,))
    assert Placement(100, 50).locate((0.0, 0.0, 1.0, 1.0), config) == (0, 0, 50, 100)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_file_has_boxes_of_its_stored_pixels(orientation: int) -> None:
    """By Exif: what the network sees upright is elsewhere in the file."""
    rows, columns, box = 200, 300, (40, 30, 90, 60)
    image, file = spot(rows, columns, box), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(file, "PNG", exif=exif)

    radiograph = read_radiograph(file.getvalue(), InputConfig())

    config = PreprocessConfig(128, 1, "pad", mean=(0.0,), std=(1.0,))
    upright = Image.fromarray(np.rint(radiograph.pixels * 255).astype(np.uint8))
    placement = Placement(*radiograph.pixels.shape, radiograph.orientation)
    found = placement.locate(seen_box(preprocess_image(upright, config)[0]), config)
    assert radiograph.orientation == orientation
    assert found == pytest.approx(box, abs=3)
