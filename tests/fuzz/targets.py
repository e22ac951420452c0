"""What reads bytes of strangers: for each reader a function that must end well on any bytes, and bytes to begin with.

A reader may refuse with the errors of its own kind. Another exception is a fault, and so is a crash.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pydicom
from google.protobuf.message import DecodeError
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from bridge.documents.answer import HttpError
from bridge.endpoints.draft_request import Form
from handlers.completion import read_completion
from handlers.request import read_request
from launcher.environment import ROOT
from prelim.errors import InputError
from prelim.generation.options import GenerationOptions
from prelim.images.dicom.structure import looks_like_dicom
from prelim.images.input_config import InputConfig
from prelim.images.radiograph import recognize, render
from prelim_client.grpc_messages import message_classes
from tests.dicom_files import make_dicom, phantom
from tests.handlers.fake_generator import FakeGenerator
from tests.handlers.malformed import FAULTS, JSON_TYPE
from tests.tiny_model import png

CORPUS = Path(__file__).parent / "corpus"
"""A folder for each target, with the inputs that have ever failed."""

SMALL = 1 << 16
"""Bytes of the largest file to begin with."""

SMALL_PICTURES = InputConfig(max_pixels=1 << 20)
"""Larger ones take time, and show nothing more."""

IMAGE = png(0, 8)
NUM_FEATURES = 4
REQUEST = message_classes()["PredictionsRequest"]
GENERATOR: Any = FakeGenerator()


@dataclass(frozen=True)
class Target:
    """One reader.

    read  : reads any bytes; raises what it must not
    seeds : yields bytes to begin with
    """

    read: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


def read_image(data: bytes) -> None:
    """Any file that is not DICOM, as the process that decodes it does."""
    try:
        kind = recognize(data)
        if kind != "DICOM":
            render(data, kind, SMALL_PICTURES)
    except (InputError, MemoryError):
        return


def read_dicom(data: bytes) -> None:
    """The same for DICOM."""
    try:
        if looks_like_dicom(data):
            render(data, "DICOM", SMALL_PICTURES)
    except (InputError, MemoryError):
        return


def read_form(data: bytes) -> None:
    """The form of POST /drafts; those of /predictions are taken apart by TorchServe."""
    try:
        Form.read(data, "multipart/form-data; boundary=x")
    except HttpError:
        return


def read_json(data: bytes) -> None:
    """A JSON body of both interfaces."""
    _read({"body": bytearray(data)}, JSON_TYPE)
    try:
        read_completion({"body": bytearray(data)}, JSON_TYPE | {"url_path": "v1/chat/completions"}, GENERATOR)
    except InputError:
        return


def read_options(data: bytes) -> None:
    """Names and values of form parts, in turn, with zero bytes between them."""
    pieces = data.split(b"\0")
    names = [piece.decode("utf-8", "replace") for piece in pieces[::2]]
    _read({"image": IMAGE} | dict(zip(names, map(bytearray, pieces[1::2]), strict=False)), {})


def read_grpc(data: bytes) -> None:
    """A message of gRPC."""
    try:
        inputs = dict(REQUEST.FromString(data).input)
    except DecodeError:
        return
    _read({name: bytearray(value) for name, value in inputs.items()}, {name: {"content-type": ""} for name in inputs})


def _read(row: Mapping[str, Any], headers: Mapping[str, Any]) -> None:
    try:
        read_request(row, headers, GenerationOptions(), NUM_FEATURES)
    except InputError:
        return


def image_seeds() -> Iterator[bytes]:
    """Every format, in several modes, and the small pictures of the documentation."""
    for mode, shape in (("L", (9, 7)), ("I;16", (9, 7)), ("RGB", (9, 7, 3)), ("RGBA", (9, 7, 4))):
        pixels = np.arange(np.prod(shape)).reshape(shape).astype(np.uint16 if mode == "I;16" else np.uint8)
        picture = Image.fromarray(pixels)
        for form, options in FORMATS:
            file = BytesIO()
            try:
                picture.save(file, form, **options)
            except OSError:
                continue
            yield file.getvalue()
    yield from (path.read_bytes() for path in sorted((ROOT / "docs" / "images").iterdir()) if _is_small(path))


FORMATS: list[tuple[str, dict[str, Any]]] = [
    *(
        ("PNG", {}),
        ("JPEG", {"quality": 80}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ),
    *(("TIFF", {"compression": compression}) for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")),
]


def dicom_seeds() -> Iterator[bytes]:
    """Ours, and the small ones among pydicom's, in every transfer syntax."""
    tiny = phantom(bits=8)[:8, :8]
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        yield make_dicom(tiny, syntax)
    yield make_dicom(tiny)
    yield make_dicom(tiny, preamble=False)
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    yield from (path.read_bytes() for path in sorted(folder.glob("*.dcm")) if _is_small(path))


def form_seeds() -> Iterator[bytes]:
    """With all parts, with a part twice, and without an end."""
    report = json.dumps({"report": "Clear.", "sections": {"findings": "Clear.", "impression": None}}).encode()
    parts = {"image": IMAGE, "report": report, "options": b'{"num_beams": 2}', "model": b"demo"}
    bodies = {
        name: b'--x\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n\r\n%s\r\n' % (name.encode(), value)
        for name, value in parts.items()
    }
    whole = b"".join(bodies.values())
    yield from (whole + b"--x--\r\n", whole, bodies["image"] * 2 + b"--x--\r\n", whole.replace(b"\r\n", b"\n"))


def json_seeds() -> Iterator[bytes]:
    """Malformed bodies of all kinds."""
    for request in _malformed():
        if not request.grpc and set(request.row) == {"body"}:
            yield bytes(request.row["body"])


def option_seeds() -> Iterator[bytes]:
    """Malformed forms of all kinds."""
    for request in _malformed():
        if not request.grpc and "image" in request.row:
            fields = {name.encode("utf-8", "replace"): bytes(value) for name, value in request.row.items()}
            yield b"\0".join(piece for field in fields.items() if field[0] != b"image" for piece in field)


def grpc_seeds() -> Iterator[bytes]:
    """Malformed messages of all kinds."""
    for request in _malformed():
        message = REQUEST(model_name="demo")
        for name, value in request.row.items():
            message.input[name.encode("utf-8", "replace").decode()] = bytes(value)
        yield message.SerializeToString()


def _malformed() -> Iterator[Any]:
    random = Random(0)
    for fault in FAULTS:
        for _ in range(3):
            request = fault(random, (NUM_FEATURES,))
            if sum(map(len, request.row.values())) < SMALL:
                yield request


def _is_small(path: Path) -> bool:
    return path.suffix in (".png", ".jpg", ".dcm") and path.stat().st_size < SMALL


TARGETS = {
    "image": Target(read_image, image_seeds),
    "dicom": Target(read_dicom, dicom_seeds),
    "form": Target(read_form, form_seeds),
    "json": Target(read_json, json_seeds),
    "options": Target(read_options, option_seeds),
    "grpc": Target(read_grpc, grpc_seeds),
}
