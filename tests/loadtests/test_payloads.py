"""A load test's files are real images, all different, and its broken files are refused."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from launcher.environment import ROOT
from launcher.sample_radiograph import as_png, sample_radiograph
from loadtests.payloads import KINDS, LONG_SIDES, Payload, make_broken_files, make_images
from prelim.archive.archive import GATE
from prelim.encoding.gate import pool, read_gate
from prelim.errors import InputError
from prelim.images.preprocess import preprocess
from prelim.images.radiograph import InputConfig, read_radiograph, recognize
from prelim.networks.model_folder import read_network

COUNT = 9


@pytest.fixture(scope="module")
def images() -> Sequence[Payload]:
    """Every kind in every size."""
    return make_images(COUNT, seed=5)


def test_images_can_be_read(images: Sequence[Payload]) -> None:
    """The server's reader accepts every image without warnings, with the kind and size that it claims."""
    for number, image in enumerate(images):
        radiograph = read_radiograph(image.data, InputConfig())

        assert recognize(image.data) == KINDS[number % 3]
        assert max(radiograph.pixels.shape) == LONG_SIDES[number // 3]
        assert radiograph.warnings == ()


def test_images_differ(images: Sequence[Payload]) -> None:
    """No two images show the same picture, regardless of size and file format."""
    thumbnails = []
    for image in images:
        pixels = read_radiograph(image.data, InputConfig()).pixels
        rows, columns = (np.linspace(0, side - 1, 32).astype(int) for side in pixels.shape)
        thumbnails.append(pixels[np.ix_(rows, columns)])

    for first in range(COUNT):
        for second in range(first):
            assert np.abs(thumbnails[first] - thumbnails[second]).mean() > 0.01


def test_dicom_has_the_polarity_of_png(images: Sequence[Payload]) -> None:
    """Lungs are dark in every kind of file: the center of the left lung field is darker than the spine."""
    for image in images:
        pixels = read_radiograph(image.data, InputConfig()).pixels
        rows, columns = pixels.shape
        band = pixels[rows // 3 : rows // 2]
        spine = band[:, int(0.45 * columns) : int(0.55 * columns)].mean()

        assert np.percentile(band, 20) < spine


def test_the_demo_takes_the_images(images: Sequence[Payload]) -> None:
    """Its input gate lets those of load tests pass, and those of `make demo` and of the documentation."""
    folder = ROOT / "models" / "demo"
    config, network = read_network(folder)
    gate = read_gate(folder / GATE)
    sample = sample_radiograph()
    files = [*(image.data for image in images), sample, as_png(sample), (ROOT / "docs/images/chest.jpg").read_bytes()]
    for data in files:
        pixel_values = preprocess(read_radiograph(data, config.input), config.preprocess)
        with torch.inference_mode():
            features = network.vision(torch.from_numpy(pixel_values)[None]).numpy()

        assert gate.distance(pool(features))[0] < 1


def test_images_are_seeded() -> None:
    """The same seed gives the same bytes, another seed different ones."""
    first, again, other = (make_images(3, seed)[1].data for seed in (0, 0, 1))

    assert first == again
    assert first != other


def test_broken_files_are_refused_as_they_say() -> None:
    """The server's reader refuses each broken file with the code and type that the load test expects."""
    for payload in make_broken_files(seed=0):
        assert payload.refusal is not None
        with pytest.raises(InputError) as raised:
            read_radiograph(payload.data, InputConfig())

        assert (raised.value.status, type(raised.value).__name__) == (payload.refusal.code, payload.refusal.type)


@pytest.mark.parametrize("payload", make_images(3, seed=0), ids=lambda payload: payload.label)
def test_marked_files_differ_and_show_the_same_picture(payload: Payload) -> None:
    """A mark makes another file of the picture, which the server reads as the same."""
    marked = [payload.marked(mark) for mark in ("0 1", "0 2")]
    pictures = [read_radiograph(data, InputConfig()) for data in (payload.data, *marked)]

    assert len({payload.data, *marked}) == 3
    assert all(np.array_equal(picture.pixels, pictures[0].pixels) for picture in pictures[1:])
    assert all(picture.warnings == pictures[0].warnings for picture in pictures[1:])
