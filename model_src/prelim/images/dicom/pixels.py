"""DICOM file -> pixels: the codestream's own size against the header's, then decoding, then grey."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from prelim.errors import Refused, UnreadableInput
from prelim.images.decoder_fence import fenced
from prelim.images.dicom.codestream import JPEG_BASELINE, JPEG_LOSSLESS, JPEG_LS, check_codestream, decode_rle
from prelim.images.dicom.grey_scale import grey_table
from prelim.images.dicom.header import DicomHeader, check_header
from prelim.images.dicom.structure import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, read_data_set
from prelim.images.dicom.values import named, parse, standard_name
from prelim.images.input_config import InputConfig

NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG)
RLE = "1.2.840.10008.1.2.5"

# One decoder for every transfer syntax: pydicom would try several in turn, and a second one that accepts what the
# first refused as damaged returns a picture with a part of it missing.
PLUGINS = {
    JPEG_BASELINE: "pillow",
    **dict.fromkeys(JPEG_LS, "pyjpegls"),
    # JPEG 2000 and High-Throughput JPEG 2000
    **{f"1.2.840.10008.1.2.4.{number}": "pylibjpeg" for number in (90, 91, 201, 202, 203)},
}
LOSSY = (JPEG_BASELINE, "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203")

# gdcm needs 0.3 s for 2048 x 2048 pixels; the longest is the largest image that is accepted, on a busy machine.
CHILD_TIMEOUT_S = 60


def read_dicom(data: bytes, config: InputConfig) -> tuple[np.ndarray, DicomHeader]:
    """Return pixels, (rows, columns) float32 in [0, 1], high is white, and the header with all warnings.

    Raises InputError as `read_radiograph` says.
    """
    data_set = read_data_set(data, config.max_bytes)
    dataset = parse(data_set)
    header = check_header(dataset, config)
    syntax = data_set.transfer_syntax
    if syntax in NATIVE:
        _check_length(dataset, header)
        dataset.set_original_encoding(data_set.implicit, data_set.little_endian)
        # The data set is inflated already.
        samples = _decode_by_pydicom(dataset, header, EXPLICIT_LITTLE if syntax == DEFLATED else syntax)
    else:
        samples = _decode_encapsulated(dataset, header, syntax)
    codes = _stored_bits(samples, header)
    counts = np.bincount(codes.ravel(), minlength=2**header.grey_scale.bits_stored)
    table, warnings = grey_table(header.grey_scale, counts, config.render)
    if header.lossy or syntax in LOSSY:
        warnings = ("lossy: the image was compressed with loss", *warnings)
    return table[codes], replace(header, warnings=(*header.warnings, *warnings))


def _check_length(dataset: Dataset, header: DicomHeader) -> None:
    needed = header.rows * header.columns * header.bits_allocated // 8
    with fenced(named("PixelData")):
        found = len(dataset.PixelData)
    if found < needed:
        raise UnreadableInput(
            f"{named('PixelData')} has {found} bytes; {header.rows} x {header.columns} pixels of "
            f"{header.bits_allocated} bits need {needed}: it is truncated; send it again"
        )


def _decode_encapsulated(dataset: Dataset, header: DicomHeader, syntax: str) -> np.ndarray:
    if syntax != RLE and syntax not in JPEG_LOSSLESS and syntax not in PLUGINS:
        raise Refused(
            f"transfer_syntax: (0002,0010) Transfer Syntax UID is {standard_name(syntax)}, for which there is no "
            "decoder here; let the PACS decode it and send Explicit VR Little Endian"
        )
    with fenced(named("PixelData")):
        stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    if syntax == RLE:
        return decode_rle(stream, header.rows, header.columns, header.bits_allocated)
    check_codestream(stream, syntax, header.rows, header.columns, header.bits_allocated)
    if syntax in JPEG_LOSSLESS:
        return _decode_by_gdcm(stream, header, syntax)
    return _decode_by_pydicom(dataset, header, syntax)


def _decode_by_pydicom(dataset: Dataset, header: DicomHeader, syntax: str) -> np.ndarray:
    with fenced(named("PixelData")):
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        dataset.SamplesPerPixel = 1
        dataset.BitsStored = header.grey_scale.bits_stored
        dataset.PixelRepresentation = int(header.grey_scale.signed)
        dataset.NumberOfFrames = 1
        samples, _ = get_decoder(UID(syntax)).as_array(dataset, raw=True, decoding_plugin=PLUGINS.get(syntax, ""))
    return samples


def _decode_by_gdcm(stream: bytes, header: DicomHeader, syntax: str) -> np.ndarray:
    """Decode in a child process: on a damaged codestream gdcm 3.2 throws where nothing can catch it, and aborts."""
    scale, allocated = header.grey_scale, header.bits_allocated
    numbers = (header.rows, header.columns, allocated, scale.bits_stored, int(scale.signed))
    # -P keeps the folder of the script, which is this package, off the child's module path.
    command = [sys.executable, "-P", str(Path(__file__).with_name("gdcm_child.py")), *map(str, numbers), syntax]
    try:
        child = subprocess.run(command, input=stream, capture_output=True, timeout=CHILD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise UnreadableInput(f"{named('PixelData')} takes too long to decode; send it uncompressed") from None
    if child.returncode != 0 or len(child.stdout) != header.rows * header.columns * allocated // 8:
        raise UnreadableInput(f"{named('PixelData')} cannot be decoded: it is damaged or truncated; send it again")
    return np.frombuffer(child.stdout, dtype=f"u{allocated // 8}").reshape(header.rows, header.columns)


def _stored_bits(samples: np.ndarray, header: DicomHeader) -> np.ndarray:
    """Return codes, (rows, columns) uint8 or uint16: the stored bits without sign and without what lies above them."""
    if samples.shape != (header.rows, header.columns) or samples.dtype.kind not in "iu":
        raise UnreadableInput(f"{named('PixelData')} does not decode to {header.rows} x {header.columns} whole numbers")
    bits = header.grey_scale.bits_stored
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    unsigned = samples.view(f"u{samples.dtype.itemsize}")
    codes: np.ndarray = (unsigned & (2**bits - 1)).astype(np.uint16 if bits > 8 else np.uint8)
    return codes
