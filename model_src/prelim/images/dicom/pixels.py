"""DICOM file -> pixels: the codestream's own size against the header's, then decoding, then grey."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from prelim.images.decoder_fence import allow_cpu_seconds, fenced
from prelim.images.dicom.codestream import JPEG_BASELINE, JPEG_LOSSLESS, JPEG_LS, check_codestream, decode_rle
from prelim.images.dicom.grey_scale import grey_table
from prelim.images.dicom.header import DicomHeader, check_header
from prelim.images.dicom.structure import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, read_data_set
from prelim.images.dicom.values import named, parse, standard_name
from prelim.errors import Refused, UnreadableInput
from prelim.images.dicom.gdcm_decoder import decode_by_gdcm
from prelim.images.grey_levels import count_levels, look_up
from prelim.images.input_config import JPEG2000_SECONDS_PER_PIXEL, InputConfig

NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG)
RLE = "1.2.840.10008.1.2.5"

# JPEG 2000 and High-Throughput JPEG 2000
JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))

# One decoder for every transfer syntax: pydicom would try several in turn, and a second one that accepts what the
# first refused as damaged returns a picture with a part of it missing.
PLUGINS = {
    JPEG_BASELINE: "pillow",
    **dict.fromkeys(JPEG_LS, "pyjpegls"),
    **dict.fromkeys(JPEG_2000, "pylibjpeg"),
}
LOSSY = (JPEG_BASELINE, "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203")


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
    counts = count_levels(codes, 2**header.grey_scale.bits_stored)
    table, warnings = grey_table(header.grey_scale, counts, config.render)
    if header.lossy or syntax in LOSSY:
        warnings = ("lossy: the image was compressed with loss", *warnings)
    return look_up(table, codes), replace(header, warnings=(*header.warnings, *warnings))


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
    if syntax in JPEG_2000:
        allow_cpu_seconds(JPEG2000_SECONDS_PER_PIXEL * header.rows * header.columns)
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
    scale = header.grey_scale
    with fenced(named("PixelData")):
        return decode_by_gdcm(
            stream, (header.rows, header.columns), header.bits_allocated, scale.bits_stored, scale.signed, syntax
        )


def _stored_bits(samples: np.ndarray, header: DicomHeader) -> np.ndarray:
    """Return codes, (rows, columns) uint8 or uint16: the stored bits without sign and without what lies above them."""
    if samples.shape != (header.rows, header.columns) or samples.dtype.kind not in "iu":
        raise UnreadableInput(f"{named('PixelData')} does not decode to {header.rows} x {header.columns} whole numbers")
    bits = header.grey_scale.bits_stored
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    unsigned = samples.view(f"u{samples.dtype.itemsize}")
    codes: np.ndarray = (unsigned & (2**bits - 1)).astype(np.uint16 if bits > 8 else np.uint8)
    return codes
