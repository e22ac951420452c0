"""Pixel Data that are not what their Transfer Syntax UID says, and transfer syntaxes that are not read."""

import struct
import zlib
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import JPEGBaseline8Bit, RLELossless

from prelim.errors import Refused, UnreadableInput
from prelim.images.radiograph import InputConfig, Radiograph, read_radiograph
from tests.dicom_files import body_of, compress, dataset, encapsulate, make_dicom, phantom

GENERAL_ELECTRIC = "1.2.840.113619.5.2"
EIGHT = phantom(bits=8).astype(np.uint8)


def read(data: bytes) -> Radiograph:
    """Read with the default configuration."""
    return read_radiograph(data, InputConfig())


def names(radiograph: Radiograph) -> list[str]:
    """Return the first words of the warnings."""
    return [warning.split(":")[0] for warning in radiograph.warnings]


def with_meta(made: Dataset, syntax: str, *, implicit: bool = True) -> bytes:
    """Return a file of this transfer syntax with a little-endian data set, whatever the UID says."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    file.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(file, meta, enforce_standard=True)
    file.is_implicit_VR = implicit
    write_dataset(file, made)
    return file.getvalue()


@pytest.mark.parametrize("implicit", [True, False])
def test_big_endian_pixels_of_general_electric(implicit: bool) -> None:
    """1.2.840.113619.5.2 has a little-endian header and big-endian pixels: the radiograph is that of its original."""
    made = dataset(phantom())
    made.PixelData = phantom().astype(">u2").tobytes()
    made["PixelData"].VR = "OW"

    radiograph = read(with_meta(made, GENERAL_ELECTRIC, implicit=implicit))

    assert np.array_equal(radiograph.pixels, read(make_dicom()).pixels)
    assert radiograph.warnings == ()


@pytest.mark.parametrize(
    ("syntax", "reason"),
    [
        ("1.2.3.4", "not supported: .* is private and unknown"),
        ("1.2.840.113619.5.9.77.4711", r"not supported: .* is private \(1.2.840.113619...\) and unknown"),
        ("1.2.840.10008.1.2.99.1", "not supported: .* is not in the standard"),
    ],
)
def test_native_pixels_under_an_unknown_transfer_syntax(syntax: str, reason: str) -> None:
    """How such pixels are encoded nobody knows, so they are refused; all of a private UID but its root is kept back."""
    made = dataset(phantom())
    made["PixelData"].VR = "OW"

    with pytest.raises(Refused, match=f"^transfer_syntax: {reason}") as caught:
        read(with_meta(made, syntax, implicit=False))

    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        ("4.94", "JPIP"),
        ("4.95", "JPIP"),
        ("4.204", "JPIP"),
        ("4.205", "JPIP"),
        ("4.110", "JPEG XL Lossless"),
        ("4.111", "JPEG XL JPEG Recompression"),
        ("4.112", "JPEG XL"),
        ("8.1", "Deflated Image Frame Compression"),
        ("4.102", "MPEG-4"),
    ],
)
def test_unsupported_syntaxes_are_named(number: str, name: str) -> None:
    """Transfer syntaxes of the standard that are not read are refused by name, also those younger than pydicom."""
    syntax = f"1.2.840.10008.1.2.{number}"
    # pydicom writes a private UID, and none that it does not know.
    stand_in = "1.2.3." + "9" * (len(syntax) - len("1.2.3."))
    data = encapsulate(b"\xff\x0a" * 50, stand_in).replace(stand_in.encode(), syntax.encode(), 1)
    if number in ("4.95", "4.205"):
        deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
        body = body_of(data)
        data = data[: len(data) - len(body)] + deflater.compress(body) + deflater.flush()
    with pytest.raises(Refused, match=rf"^transfer_syntax: not supported: {name}"):
        read(data)


def test_jpip_without_pixel_data() -> None:
    """The pixels of JPIP are elsewhere, which is the reason of the refusal and not that they are missing."""
    with pytest.raises(Refused, match="not supported: JPIP"):
        read(with_meta(dataset(phantom(), drop=("PixelData",)), "1.2.840.10008.1.2.4.94", implicit=False))


def test_encapsulated_uncompressed() -> None:
    """1.2.840.10008.1.2.1.98 has native pixels in a fragment."""
    radiograph = read(encapsulate(phantom().tobytes(), "1.2.840.10008.1.2.1.98"))
    assert np.array_equal(radiograph.pixels, read(make_dicom()).pixels)
    assert radiograph.warnings == ()


def jpeg_of(pixels: np.ndarray, **options: object) -> bytes:
    """Return a JPEG file."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def defined(value: bytes, **header: object) -> bytes:
    """Return a file of 8 bits whose native Pixel Data have this value."""
    return make_dicom(EIGHT, bits=8, PixelData=value + b"\0" * (len(value) % 2), **header)


def items(stream: bytes) -> bytes:
    """Return an empty offset table and one fragment."""
    stream += b"\0" * (len(stream) % 2)
    return struct.pack("<HHL", 0xFFFE, 0xE000, 0) + struct.pack("<HHL", 0xFFFE, 0xE000, len(stream)) + stream


@pytest.mark.parametrize("kind", ["jpeg", "jpeg_ls", "jpeg_2000", "rle"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_codestreams_as_native_pixel_data(kind: str, wrapped: bool) -> None:
    """A codestream, with its items or alone, under a native transfer syntax is decoded with a warning."""
    if kind == "rle":
        coded = compress(EIGHT, RLELossless, bits=8)
        start = coded.index(struct.pack("<2L", 1, 64))
        stream = coded[start : coded.rindex(b"\xfe\xff\xdd\xe0")]
        # It is longer than the pixels, and nothing but its item tells what it is.
        assert len(stream) > EIGHT.size
        wrapped = True
    else:
        encode_by = {"jpeg": jpeg_of, "jpeg_ls": imagecodecs.jpegls_encode, "jpeg_2000": imagecodecs.jpeg2k_encode}
        stream = encode_by[kind](EIGHT)
    stream += b"\0" * (len(stream) % 2)

    radiograph = read(defined(items(stream) if wrapped else stream))

    assert "transfer_syntax" in names(radiograph)
    assert np.abs(radiograph.pixels - read(make_dicom(EIGHT, bits=8)).pixels).max() < 0.06


def test_rle_under_another_compression() -> None:
    """RLE is known by its header, whatever the transfer syntax says."""
    coded = compress(EIGHT, RLELossless, bits=8)
    stream = coded[coded.index(struct.pack("<2L", 1, 64)) : coded.rindex(b"\xfe\xff\xdd\xe0")]
    radiograph = read(encapsulate(stream, JPEGBaseline8Bit, bits=8))
    assert "transfer_syntax" in names(radiograph)
    assert np.array_equal(radiograph.pixels, read(make_dicom(EIGHT, bits=8)).pixels)


def noisy() -> np.ndarray:
    """Return the phantom with noise, (48, 40), so that every part of its codestream has data."""
    return (EIGHT + np.random.default_rng(0).integers(0, 8, EIGHT.shape)).clip(0, 255).astype(np.uint8)


def jpeg_kinds() -> dict[str, tuple[bytes, str, int]]:
    """Return JPEG codestreams: name -> stream, transfer syntax, bits."""
    twelve = (noisy().astype(np.uint16) << 4) + 5
    return {
        "baseline": (jpeg_of(noisy()), "1.2.840.10008.1.2.4.50", 8),
        "restarts": (jpeg_of(noisy(), restart_marker_blocks=2), "1.2.840.10008.1.2.4.50", 8),
        "progressive": (jpeg_of(noisy(), progressive=True), "1.2.840.10008.1.2.4.55", 8),
        "twelve": (imagecodecs.jpeg8_encode(twelve, level=95, bitspersample=12), "1.2.840.10008.1.2.4.51", 12),
        "lossless": (
            imagecodecs.jpeg8_encode(twelve, lossless=True, predictor=1, bitspersample=12),
            "1.2.840.10008.1.2.4.70",
            12,
        ),
    }


@pytest.mark.parametrize("name", jpeg_kinds())
@pytest.mark.parametrize("share", [0.5, 0.75, 0.9])
def test_a_cut_codestream_with_an_end_marker(name: str, share: float) -> None:
    """Libjpeg pads what is missing without a word: a cut picture is refused although its end marker is there."""
    stream, syntax, bits = jpeg_kinds()[name]
    assert names(read(encapsulate(stream, syntax, bits=bits))) == ([] if name == "lossless" else ["lossy"])

    cut = stream[: int(len(stream) * share)].rstrip(b"\xff") + b"\xff\xd9"

    with pytest.raises(UnreadableInput, match="truncated"):
        read(encapsulate(cut, syntax, bits=bits))


def test_zeros_instead_of_the_delimiter() -> None:
    """Fragments without a delimiter may be followed by zeros that fill the file up."""
    data = encapsulate(jpeg_of(EIGHT), JPEGBaseline8Bit, bits=8)
    end = data.rindex(b"\xfe\xff\xdd\xe0")
    assert np.array_equal(read(data[:end] + b"\0" * 40).pixels, read(data).pixels)


@pytest.mark.parametrize("vr", [b"lo", b"  ", b"\0\0", b"Lo", b"??"])
@pytest.mark.parametrize("number", [1, 3])
def test_damaged_vrs(vr: bytes, number: int) -> None:
    """A private element whose VR is in small letters, blank or no VR at all costs neither the file nor other tags."""
    data = make_dicom()
    place = data.index(struct.pack("<HH", 0x0028, 0x0002))
    elements = b"".join(
        struct.pack("<HH", 0x0021, 0x1010 + count) + vr + struct.pack("<H", 4) + b"abcd" for count in range(number)
    )
    assert np.array_equal(read(data[:place] + elements + data[place:]).pixels, read(data).pixels)


def test_small_letters_in_the_vr_of_a_needed_tag() -> None:
    """Rows with "us" and Pixel Data with "ow" are read."""
    data = make_dicom()
    rows, pixels = struct.pack("<HH", 0x0028, 0x0010), struct.pack("<HH", 0x7FE0, 0x0010)
    damaged = data.replace(rows + b"US", rows + b"us").replace(pixels + b"OW", pixels + b"ow")
    assert damaged != data
    assert np.array_equal(read(damaged).pixels, read(data).pixels)


def test_implicit_elements_inside_of_explicit_ones() -> None:
    """An element without a VR is still read as one: its length has the place of the VR."""
    data = make_dicom()
    place = data.index(struct.pack("<HH", 0x0028, 0x0002))
    element = struct.pack("<HHL", 0x0021, 0x1010, 4) + b"abcd"
    assert np.array_equal(read(data[:place] + element + data[place:]).pixels, read(data).pixels)
