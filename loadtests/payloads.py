"""Files to send: variations of one real chest radiograph, and files that a server must refuse.

The radiograph is docs/images/chest.jpg, which the demo model knows as one of its kind, enlarged to the 1955 pixels of a
detector, with the grain of one. Each variation is a different part of it, with its own brightness and size: no two
images of a run are alike, and all resemble real radiographs.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from launcher.environment import ROOT

KINDS = ("PNG", "JPEG", "DICOM")

LONG_SIDES = (512, 1024, 1955)
"""Pixels: a thumbnail-sized export, a typical export, the detector's own resolution."""

GRAIN = 0.01
"""Of the range of gray levels: without it files of an enlarged picture are far smaller than those of a detector."""

SMALL_SIDE = 256
"""Pixels of the small image, for loads in which the image does not matter."""

_BITS = 15
_PREAMBLE = 128
_SOP_INSTANCE_UID = UID("2.25.1")


@dataclass(frozen=True)
class Refusal:
    """The error that a file must get: code and type of the error in the body."""

    code: int
    type: str


@dataclass(frozen=True)
class Payload:
    """One file.

    label   : what it is, unique in a run
    data    : its bytes
    refusal : the expected error; None for an image that gets a report
    """

    label: str
    data: bytes
    refusal: Refusal | None = None

    def marked(self, mark: str) -> bytes:
        """The same picture as a file of its own, so that a server has no features of it yet.

        mark : at most 16 ASCII characters
        """
        if self.refusal is not None:
            return self.data
        if self.data[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
            # Nobody reads the preamble (PS3.10, section 7.1).
            return self.data[: _PREAMBLE - 16] + mark.encode().rjust(16, b"\0") + self.data[_PREAMBLE:]
        # Nobody reads what comes after the end of a PNG or JPEG.
        return self.data + mark.encode()


def read_chest_radiograph() -> np.ndarray:
    """A chest radiograph as float32, shape (1818, 1955), in [0, 1]; 1 is white."""
    with Image.open(ROOT / "docs" / "images" / "chest.jpg") as image:
        size = (LONG_SIDES[-1], round(LONG_SIDES[-1] * image.height / image.width))
        gray = np.asarray(image.convert("F").resize(size, Image.Resampling.BICUBIC)) / 255
    grain = np.random.default_rng(0).normal(0, GRAIN, gray.shape)
    return np.asarray((gray + grain).clip(0, 1), dtype=np.float32)


def make_images(count: int, seed: int) -> list[Payload]:
    """Make `count` different images: PNG, JPEG and DICOM in turn, each kind in every size."""
    radiograph = read_chest_radiograph()
    generator = np.random.default_rng([seed, 1])
    images = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        long_side = LONG_SIDES[number // len(KINDS) % len(LONG_SIDES)]
        gray = _variation(radiograph, long_side, generator)
        images.append(Payload(f"{kind} {number}", _encode(gray, kind)))
    return images


def make_small_image(seed: int) -> Payload:
    """A square PNG of about 50 kB: sending and reading it costs little compared with the report."""
    gray = Image.fromarray(_variation(read_chest_radiograph(), LONG_SIDES[0], np.random.default_rng([seed, 4])))
    return Payload("small PNG", _encode(np.asarray(gray.resize((SMALL_SIDE, SMALL_SIDE))), "PNG"))


def make_broken_files(seed: int) -> list[Payload]:
    """Make files that must be refused, each with its own error."""
    gray = _variation(read_chest_radiograph(), LONG_SIDES[0], np.random.default_rng([seed, 2]))
    png, dicom = _encode(gray, "PNG"), _encode(gray, "DICOM")
    unreadable, refused = Refusal(400, "UnreadableInput"), Refusal(422, "Refused")
    return [
        Payload("truncated PNG", png[: len(png) // 2], unreadable),
        Payload("truncated DICOM", dicom[: len(dicom) // 2], unreadable),
        Payload("text", b"The heart is not enlarged.\n" * 20, Refusal(415, "NotAnImage")),
        Payload("DICOM of a CT slice", _dicom(gray, Modality="CT"), refused),
        Payload("black PNG", _encode(np.zeros_like(gray), "PNG"), refused),
    ]


def _variation(radiograph: np.ndarray, long_side: int, generator: np.random.Generator) -> np.ndarray:
    """A random part of the radiograph with random brightness, `long_side` pixels long: float32 in [0, 1]."""
    rows, columns = radiograph.shape
    height, width = (int(side * generator.uniform(0.75, 1)) for side in (rows, columns))
    top, left = generator.integers(rows - height + 1), generator.integers(columns - width + 1)
    scale = long_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    part = Image.fromarray(radiograph[top : top + height, left : left + width]).resize(size)
    return np.asarray((np.asarray(part) * generator.uniform(0.8, 1.2)).clip(0, 1), dtype=np.float32)


def _encode(gray: np.ndarray, kind: str) -> bytes:
    if kind == "DICOM":
        return _dicom(gray)
    file = io.BytesIO()
    image = Image.fromarray(np.rint(255 * gray).astype(np.uint8))
    if kind == "PNG":
        # Fast compression, because the run waits for all files.
        image.save(file, "PNG", compress_level=1)
    else:
        image.save(file, "JPEG", quality=90)
    return file.getvalue()


def _dicom(gray: np.ndarray, **elements: str) -> bytes:
    """An uncompressed CR image without patient data; `elements` replace values of its correct header."""
    full = 2**_BITS - 1
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = ComputedRadiographyImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = _SOP_INSTANCE_UID
    made.Modality, made.ViewPosition, made.BurnedInAnnotation = "CR", "PA", "NO"
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME1"
    made.Rows, made.Columns = gray.shape
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, _BITS, _BITS - 1, 0
    made.WindowCenter, made.WindowWidth = 2 ** (_BITS - 1), 2**_BITS
    made.PixelData = np.rint((1 - gray) * full).astype("<u2").tobytes()
    made["PixelData"].VR = "OW"
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    file = io.BytesIO()
    dcmwrite(file, made, enforce_file_format=True)
    return file.getvalue()
