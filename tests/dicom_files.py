"""DICOM files made for tests: small synthetic radiographs with whatever header a test needs."""

import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gdcm
import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

# Patient data that no message and no warning may repeat.
SECRETS = ("MUELLER", "4711-0815", "19481231", "1.2.826.0.1.3680043.8.498.1", "ACC99")


def phantom(rows: int = 48, columns: int = 40, bits: int = 12) -> np.ndarray:
    """Return (rows, columns) uint16: a dark chest with a bright spine, over most of the range of `bits`."""
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float64)
    spine = np.exp(-(((x - columns / 2) / 4) ** 2))
    lungs = np.exp(-(((np.abs(x - columns / 2) - columns / 4) / 5) ** 2 + ((y - rows / 2) / 15) ** 2))
    gray = 0.45 + 0.5 * spine - 0.4 * lungs * (1 - spine)
    return np.rint(np.clip(gray, 0.02, 0.98) * (2**bits - 1)).astype(np.uint16)


def dataset(pixels: np.ndarray, *, bits: int = 12, drop: tuple[str, ...] = (), **elements: Any) -> Dataset:
    """Return a CR data set of pixels, (rows, columns) of 8 or 16 bits, with these elements over the usual ones."""
    made = Dataset()
    made.SOPClassUID = ComputedRadiographyImageStorage
    made.SOPInstanceUID = SECRETS[3]
    made.PatientName, made.PatientID, made.PatientBirthDate = SECRETS[0] + "^ANNA", SECRETS[1], SECRETS[2]
    made.AccessionNumber = SECRETS[4]
    made.Modality, made.BodyPartExamined, made.ViewPosition, made.BurnedInAnnotation = "CR", "CHEST", "PA", "NO"
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows, made.Columns = pixels.shape
    made.BitsAllocated = pixels.dtype.itemsize * 8
    made.BitsStored, made.HighBit = bits, bits - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.WindowCenter, made.WindowWidth = 2 ** (bits - 1), 2**bits
    made.PixelData = pixels.tobytes() + b"\x00" * (pixels.nbytes % 2)
    # Tests write values that the standard does not allow, on purpose.
    with warnings.catch_warnings(action="ignore"):
        for keyword, value in elements.items():
            setattr(made, keyword, value)
    for keyword in drop:
        if keyword in made:
            delattr(made, keyword)
    return made


def encode(made: Dataset, syntax: str = ExplicitVRLittleEndian, *, preamble: bool = True) -> bytes:
    """Return the bytes of a DICOM file, or of a bare data set without preamble and meta information."""
    buffer = BytesIO()
    explicit = syntax != ImplicitVRLittleEndian
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if keyword in made:
            made[keyword].VR = "SS" if made.PixelRepresentation else "US"
    if not preamble:
        dcmwrite(buffer, made, implicit_vr=not explicit, little_endian=True)
        return buffer.getvalue()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    # Tests write invalid UIDs.
    with warnings.catch_warnings(action="ignore"):
        made.file_meta.MediaStorageSOPClassUID = made.get("SOPClassUID", ComputedRadiographyImageStorage)
    made.file_meta.MediaStorageSOPInstanceUID = SECRETS[3]
    if "PixelData" in made:
        made["PixelData"].VR = "OW" if made.get("BitsAllocated", 16) > 8 or not explicit else "OB"
    # pydicom wants the encoding spelled out for a private transfer syntax, and only for one.
    encoding = {} if UID(syntax).is_transfer_syntax else {"implicit_vr": False, "little_endian": True}
    with warnings.catch_warnings(action="ignore"):
        dcmwrite(buffer, made, enforce_file_format=True, **encoding)
    return buffer.getvalue()


def make_dicom(
    pixels: np.ndarray | None = None, syntax: str = ExplicitVRLittleEndian, *, preamble: bool = True, **header: Any
) -> bytes:
    """Return a native DICOM file of the phantom, or of other pixels; `header` as in `dataset`."""
    return encode(dataset(phantom() if pixels is None else pixels, **header), syntax, preamble=preamble)


def set_text(made: Dataset, **texts: str) -> Dataset:
    """Put text that the standard does not allow into tags, which pydicom would refuse, and return the data set."""
    for keyword, text in texts.items():
        value = text.encode() + b" " * (len(text) % 2)
        made[keyword] = RawDataElement(Tag(keyword), dictionary_VR(keyword), len(value), value, 0, False, True)
    return made


def compress(pixels: np.ndarray, syntax: str, **header: Any) -> bytes:
    """Return a file with the pixels encoded losslessly by pydicom: RLE, JPEG-LS or JPEG 2000."""
    made = dataset(pixels, **header)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.set_original_encoding(False, True)
    made.compress(syntax, generate_instance_uid=False)
    buffer = BytesIO()
    dcmwrite(buffer, made, enforce_file_format=True)
    return buffer.getvalue()


def compress_by_gdcm(pixels: np.ndarray, syntax: str, **header: Any) -> bytes:
    """Return a file with the pixels encoded as JPEG Lossless, process 14, which pydicom does not write."""
    with TemporaryDirectory() as folder:
        original, coded = Path(folder) / "original.dcm", Path(folder) / "coded.dcm"
        original.write_bytes(make_dicom(pixels, **header))
        reader = gdcm.ImageReader()
        reader.SetFileName(str(original))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(coded))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return coded.read_bytes()


def encapsulate(
    stream: bytes, syntax: str, shape: tuple[int, int] = (48, 40), *, items: bytes | None = None, **header: Any
) -> bytes:
    """Return a file whose Pixel Data are this codestream, or these items, whatever its header says."""
    pixels = np.zeros(shape, dtype=np.uint8 if header.get("bits", 12) <= 8 else np.uint16)
    made = dataset(pixels, **header)
    stream += b"\x00" * (len(stream) % 2)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0) + struct.pack("<HHL", 0xFFFE, 0xE000, len(stream)) + stream
    item = item if items is None else items
    made.PixelData = item + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    made["PixelData"].is_undefined_length = True
    # dcmwrite adds the delimiter itself.
    made["PixelData"].value = item
    return encode(made, syntax)


def body_of(data: bytes) -> bytes:
    """Return the data set of a DICOM file without preamble and meta information."""
    return data[132 + 12 + struct.unpack_from("<L", data, 132 + 8)[0] :]


def deflate(body: bytes) -> bytes:
    """Return a file whose data set is `body`, deflated."""
    head = make_dicom(syntax=DeflatedExplicitVRLittleEndian)
    start = 132 + 12 + struct.unpack_from("<L", head, 132 + 8)[0]
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return head[:start] + deflater.compress(body) + deflater.flush()


def lut_item(first: int, entries: np.ndarray, bits: int) -> Dataset:
    """Return an item of a Modality or VOI LUT Sequence; entries (n,) as words."""
    item = Dataset()
    item.add_new(0x00283002, "US" if first >= 0 else "SS", [len(entries) % 2**16, first, bits])
    item.add_new(0x00283006, "OW", entries.astype("<u2").tobytes())
    item.LUTExplanation = "test"
    return item
