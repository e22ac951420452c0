"""One frame of a file with several is chosen by a setting; without it such a file is refused."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import JPEG2000Lossless, RLELossless

from prelim.errors import InputError, Refused
from prelim.images.radiograph import InputConfig
from tests.dicom_files import compress, dataset, encode, phantom
from training.datasets.pictures import read_picture, take_frame

PHANTOM = phantom(rows=49, columns=41)
FRAMES = [PHANTOM, PHANTOM[::-1].copy(), (PHANTOM * 0.7).astype(np.uint16)]


def write_native(path: Path) -> None:
    """A DICOM file of three frames without compression."""
    made = dataset(FRAMES[0], NumberOfFrames=3)
    made.PixelData = b"".join(frame.tobytes() for frame in FRAMES) + b"\0" * (3 * FRAMES[0].nbytes % 2)
    path.write_bytes(encode(made))


def write_tiff(path: Path) -> None:
    """A TIFF file of three pages of 16 bits."""
    pages = [Image.fromarray(frame * 16) for frame in FRAMES]
    pages[0].save(path, "TIFF", save_all=True, append_images=pages[1:])


@pytest.mark.parametrize(("name", "write"), [("a.dcm", write_native), ("a.tif", write_tiff)])
def test_the_frame_is_the_one_that_is_named(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    """Its pixels are those of the frame in a file of its own; the first is 1; a fourth of three is an error."""
    path = tmp_path / name
    write(path)
    with pytest.raises(Refused, match="multi_frame"):
        read_picture(path, InputConfig())
    for number, frame in enumerate(FRAMES, 1):
        alone = tmp_path / f"one{path.suffix}"
        if path.suffix == ".dcm":
            alone.write_bytes(encode(dataset(frame)))
        else:
            Image.fromarray(frame * 16).save(alone, "TIFF")
        expected = read_picture(alone, InputConfig(), number).pixels  # a file of one frame is taken as it is
        np.testing.assert_array_equal(read_picture(path, InputConfig(), number).pixels, expected)
    with pytest.raises(Refused, match=r"has 3 frames; dataset.frame is 4: choose one of 1 to 3"):
        read_picture(path, InputConfig(), 4)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
def test_a_compressed_frame_is_taken(tmp_path: Path, syntax: str) -> None:
    """Of encapsulated pixel data, each frame of which is coded by itself."""
    coded = [dcmread(BytesIO(compress(frame, syntax))) for frame in FRAMES]
    made = coded[0]
    made.PixelData = encapsulate([get_frame(one.PixelData, 0, number_of_frames=1) for one in coded])
    made.NumberOfFrames = 3
    path, alone = tmp_path / "a.dcm", tmp_path / "one.dcm"
    made.save_as(path)
    for number, frame in enumerate(FRAMES, 1):
        alone.write_bytes(encode(dataset(frame)))
        expected = read_picture(alone, InputConfig()).pixels
        np.testing.assert_array_equal(read_picture(path, InputConfig(), number).pixels, expected)


@pytest.mark.parametrize("data", [b"", b"no image at all", bytes(128) + b"DICM" + bytes(9)])
def test_what_cannot_be_read_is_an_input_error(tmp_path: Path, data: bytes) -> None:
    """Never a traceback of a library; a file that ends early is one, too."""
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(InputError):
        read_picture(path, InputConfig(), 1)
    write_native(path)
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(InputError):
        read_picture(path, InputConfig(), 3)


def test_a_file_of_one_frame_is_not_changed() -> None:
    """Byte for byte."""
    buffer = BytesIO()
    Image.fromarray(FRAMES[0].astype(np.uint8)).save(buffer, "PNG")
    data = encode(dataset(FRAMES[0]))
    assert take_frame(buffer.getvalue(), 3) == buffer.getvalue()
    assert take_frame(data, 3) == data
