"""One picture of a file: read as the server reads it, after the choice of a frame that the server does not make."""

from io import BytesIO
from pathlib import Path
from typing import Any

from prelim.errors import Refused, UnreadableInput
from prelim.images.radiograph import InputConfig, Radiograph, read_radiograph


def read_picture(path: Path, config: InputConfig, frame: int = 0) -> Radiograph:
    """The radiograph of a file.

    frame : Source.frame; of a file with one frame nothing is chosen

    Raises OSError, and InputError for a picture that the model does not accept, or without that frame.
    """
    data = path.read_bytes()
    return read_radiograph(take_frame(data, frame) if frame else data, config)


def take_frame(data: bytes, frame: int) -> bytes:
    """The file with one of its frames (DICOM) or pages (TIFF and others), counted from 1; as it is if it has one only.

    Raises Refused where it has fewer, UnreadableInput where it cannot be read.
    """
    return _take_dicom(data, frame) if data[128:132] == b"DICM" else _take_page(data, frame)


def _take_page(data: bytes, frame: int) -> bytes:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(data)) as image:
            pages = getattr(image, "n_frames", 1)
            if pages == 1:
                return data
            _check(frame, pages)
            image.seek(frame - 1)
            buffer = BytesIO()
            image.copy().save(buffer, "TIFF")
            return buffer.getvalue()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UnreadableInput(f"the image file cannot be read: {error}") from error


def _take_dicom(data: bytes, frame: int) -> bytes:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        dataset = dcmread(BytesIO(data))
        frames = int(dataset.get("NumberOfFrames") or 1)
        if frames == 1:
            return data
        _check(frame, frames)
        dataset.PixelData = _find_frame(dataset, frame, frames)
        dataset["PixelData"].is_undefined_length = dataset.file_meta.TransferSyntaxUID.is_encapsulated
        dataset.NumberOfFrames = 1
        for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            if name in dataset:
                delattr(dataset, name)
        if "PerFrameFunctionalGroupsSequence" in dataset:
            dataset.PerFrameFunctionalGroupsSequence = [dataset.PerFrameFunctionalGroupsSequence[frame - 1]]
        buffer = BytesIO()
        dataset.save_as(buffer)
        return buffer.getvalue()
    except (InvalidDicomError, AttributeError, KeyError, IndexError, ValueError, EOFError) as error:
        raise UnreadableInput(f"frame {frame} of the DICOM file cannot be taken: {type(error).__name__}") from error


def _find_frame(dataset: Any, frame: int, frames: int) -> bytes:
    """Pixel data of one frame (PS3.5 8.2, A.4)."""
    from pydicom.encaps import encapsulate, get_frame

    data = dataset.PixelData
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return encapsulate([get_frame(data, frame - 1, number_of_frames=frames)])
    bits = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated
    if bits % 8 or len(data) < frames * bits // 8:
        raise ValueError("the pixel data are not whole frames")
    size = bits // 8
    found = data[(frame - 1) * size : frame * size]
    return bytes(found + b"\0" * (size % 2))


def _check(frame: int, frames: int) -> None:
    if frame > frames:
        raise Refused(f"frame: the file has {frames} frames; dataset.frame is {frame}: choose one of 1 to {frames}")
