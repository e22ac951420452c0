import logging
import random
import subprocess
import sys
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from prelim.errors import InputError, Refused, UnreadableInput
from prelim.images.input_config import Accepts
from prelim.images.radiograph import InputConfig, read_radiograph
from tests.dicom_files import (
    SECRETS,
    compress,
    compress_by_gdcm,
    dataset,
    encapsulate,
    encode,
    lut_item,
    make_dicom,
    phantom,
    set_text,
)

CONFIG = InputConfig()
ACCEPTING = InputConfig(accepts=Accepts(("CHEST",), ("PA",), ("ComputedRadiographyImageStorage",)))
PROJECT = Path(__file__).resolve().parents[3]

# Beyond what libraries and the files themselves hold: three copies of a 64 MiB data set, and air.
MEMORY = 500 * 2**20


def save(kind: str, mode: str = "L", **options: object) -> bytes:
    """Return the phantom as file of this kind."""
    image = Image.fromarray(phantom() if mode == "I;16" else phantom(bits=8).astype(np.uint8))
    buffer = BytesIO()
    (image if mode == "I;16" else image.convert(mode)).save(buffer, kind, **options)
    return buffer.getvalue()


def valid_files() -> dict[str, bytes]:
    """Return one small valid file of every kind that is decoded in this process."""
    tables = Sequence([lut_item(0, np.arange(4096) * 16, 16)])
    return {
        "png": save("PNG"),
        "png_palette": save("PNG", "P"),
        "png_deep": save("PNG", "I;16"),
        "jpeg": save("JPEG"),
        "jpeg_progressive": save("JPEG", "RGB", progressive=True),
        "webp": save("WEBP"),
        "webp_lossless": save("WEBP", lossless=True),
        "tiff": save("TIFF"),
        "tiff_deep": save("TIFF", "I;16"),
        "tiff_deflate": save("TIFF", compression="tiff_adobe_deflate"),
        "tiff_jpeg": save("TIFF", compression="jpeg"),
        "dicom": make_dicom(VOILUTSequence=tables, ModalityLUTSequence=tables),
        "dicom_implicit": make_dicom(syntax=ImplicitVRLittleEndian),
        "dicom_deflated": make_dicom(syntax=DeflatedExplicitVRLittleEndian),
        "dicom_bare": make_dicom(preamble=False),
        "dicom_rle": compress(phantom(), RLELossless),
        "dicom_jpegls": compress(phantom(), JPEGLSLossless),
        "dicom_jpeg2000": compress(phantom(), JPEG2000Lossless),
        "dicom_jpeg": encapsulate(save("JPEG"), "1.2.840.10008.1.2.4.50", bits=8),
    }


VALID = valid_files()


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Return the file cut, with some bytes changed, with a piece gone, or with a piece too many."""
    changed = bytearray(data)
    # Headers decide the most, and they are at the start; a DICOM file has 132 bytes before them.
    first = 132 if data[128:132] == b"DICM" else 0
    kind = chance.choice(["cut", "bytes", "bytes", "bytes", "less", "more"])
    if kind == "cut":
        return data[: chance.randrange(len(data))]
    if kind == "bytes":
        for _ in range(chance.choice([1, 1, 2, 8])):
            far = chance.random() < 0.4
            position = chance.randrange(len(data)) if far else first + int(chance.expovariate(1 / 150))
            changed[min(position, len(data) - 1)] = chance.choice([0, 255, chance.randrange(256)])
        return bytes(changed)
    position, length = chance.randrange(len(data)), chance.randrange(1, 64)
    changed[position : position + length * (kind == "less")] = b"" if kind == "less" else chance.randbytes(length)
    return bytes(changed)


def check_message(message: str) -> None:
    """Fail if a message has several lines, is long, or repeats patient data."""
    assert "\n" not in message
    assert len(message) < 400
    assert not any(secret in message for secret in SECRETS), message


@pytest.mark.parametrize("name", VALID)
def test_any_bytes_give_a_radiograph_or_an_input_error(name: str) -> None:
    """Whatever happens to a valid file, the answer is pixels in [0, 1] or an InputError without patient data."""
    chance = random.Random(name)
    read_radiograph(VALID[name], CONFIG)
    for _ in range(120):
        try:
            radiograph = read_radiograph(mutate(VALID[name], chance), CONFIG)
            assert radiograph.pixels.dtype == np.float32
            assert radiograph.pixels.ndim == 2
            assert 0 <= radiograph.pixels.min() <= radiograph.pixels.max() <= 1
            messages: tuple[str, ...] = radiograph.warnings
        except InputError as error:
            messages = (str(error),)
        for message in messages:
            check_message(message)


@pytest.mark.parametrize("name", VALID)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files_are_never_rendered(name: str, share: float) -> None:
    """A file without its end is a 400 and no picture with a part of it gray."""
    with pytest.raises(UnreadableInput) as caught:
        read_radiograph(VALID[name][: int(len(VALID[name]) * share)], CONFIG)
    assert caught.value.status == 400


def test_damaged_jpeg_lossless_does_not_end_the_process() -> None:
    """A Huffman table that makes gdcm abort is a 400 like any other damage."""
    data = compress_by_gdcm(phantom(), "1.2.840.10008.1.2.4.70")
    # The marker of the Huffman table becomes FF FF, a fill byte: the scan has no table.
    damaged = data.replace(b"\xff\xc4", b"\xff\xff")
    assert damaged != data
    with pytest.raises(UnreadableInput, match="7FE0,0010"):
        read_radiograph(damaged, CONFIG)


def test_bombs_stay_small() -> None:
    """Files that claim or unpack to gigabytes get their status within 500 MiB of address space."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.hostile_files", str(MEMORY)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (child.returncode, child.stdout) == (0, ""), child.stderr[-2000:]


def test_nothing_is_said_aside(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither logs nor Python warnings nor output repeat the values that pydicom finds invalid."""
    made = dataset(phantom())
    with pytest.warns(UserWarning, match="Invalid value for VR UI: 'MUELLER"):
        made.add_new(0x00080018, "UI", "MUELLER not a UID")
    made.add_new(0x00280106, "US", 1)
    data = encode(made).replace(b"1.2.840.10008.5.1.4.1.1.1\0", b"MUELLER, ANNA 4711-0815   ")
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_radiograph(data, CONFIG)
        with pytest.raises(Refused) as refused:
            read_radiograph(data.replace(b"\xe0\x7f\x10\x00OW", b"\xe0\x7f\x09\x00OW"), CONFIG)
    assert caught == []
    assert "MUELLER" not in caplog.text + "".join(capfd.readouterr()) + str(refused.value)


@pytest.mark.parametrize(
    "header",
    [
        {"Modality": "MUELLER^ANNA"},
        {"PhotometricInterpretation": "4711-0815"},
        {"SOPClassUID": SECRETS[3], "drop": ("PixelData", "Rows")},
        {"SOPClassUID": SECRETS[3]},
    ],
)
def test_what_is_no_code_is_not_repeated(header: dict) -> None:
    """A name or an identifier that has slipped into a coded tag is not in the message."""
    with pytest.raises(InputError) as caught:
        read_radiograph(make_dicom(**header), ACCEPTING)
    check_message(str(caught.value))
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "header",
    [
        {"ViewPosition": "MUELLER, ANNA"},
        {"BodyPartExamined": "MUELLER ANNA"},
        {"BodyPartExamined": "MUELLER ANNA " * 8},
        {"PresentationLUTShape": "MUELLER^ANNA"},
        {"WindowWidth": "MUELLER"},
        {"SOPClassUID": "MUELLER"},
    ],
)
def test_what_is_no_value_is_not_repeated(header: dict) -> None:
    """A name that has slipped into an optional tag is not in the warnings, of which there is one."""
    radiograph = read_radiograph(encode(set_text(dataset(phantom()), **header)), ACCEPTING)
    assert radiograph.warnings
    for warning in radiograph.warnings:
        check_message(warning)
