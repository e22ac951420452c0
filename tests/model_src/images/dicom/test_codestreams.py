"""Encapsulated pixel data as other writers leave it: untidy codestreams are decoded, truncated ones are refused."""

import struct
from io import BytesIO

import imagecodecs
import numpy as np
import openjpeg
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import RLELossless

from prelim.errors import Refused, UnreadableInput
from prelim.images.radiograph import InputConfig, Radiograph, read_radiograph
from tests.dicom_files import dataset, encapsulate, encode, make_dicom, phantom

BASELINE, EXTENDED, PROGRESSIVE, FULL_PROGRESSION, LOSSLESS, FIRST_ORDER = (
    f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55, 57, 70)
)
JPEG_LS, NEAR_LOSSLESS, JPEG_2000_LOSSLESS, JPEG_2000, HTJ2K = (
    f"1.2.840.10008.1.2.4.{number}" for number in (80, 81, 90, 91, 201)
)


def read(data: bytes, **options: object) -> Radiograph:
    """Read with the default configuration, or with these options."""
    return read_radiograph(data, InputConfig(**options))


def names(radiograph: Radiograph) -> list[str]:
    """Return the first words of the warnings."""
    return [warning.split(":")[0] for warning in radiograph.warnings]


def gray(bits: int = 8) -> np.ndarray:
    """Return the phantom, (48, 40) of 8 or 12 bits."""
    return phantom(bits=bits).astype(np.uint8 if bits == 8 else np.uint16)


def with_edges() -> np.ndarray:
    """Return the phantom of 12 bits with black and white squares, which codings with loss miss on both sides."""
    pixels = gray(12)
    pixels[8:20, 6:18], pixels[8:20, 22:34] = 4095, 0
    return pixels


def relabel(data: bytes, syntax: str) -> bytes:
    """Return a file of JPEG Baseline with another transfer syntax, of at most its length."""
    assert data.count(b"1.2.840.10008.1.2.4.50") == 1
    return data.replace(b"1.2.840.10008.1.2.4.50", syntax.encode().ljust(22, b"\0"))


def item(fragment: bytes) -> bytes:
    """Return an item of encapsulated pixel data (PS3.5 A.4)."""
    fragment += b"\0" * (len(fragment) % 2)
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(fragment)) + fragment


STREAMS = {
    "HTJ2K": (imagecodecs.htj2k_encode(gray(12), reversible=True), HTJ2K, 12, 0),
    "baseline": (imagecodecs.jpeg8_encode(gray(), level=95), BASELINE, 8, 0.06),
    "extended": (imagecodecs.jpeg8_encode(gray(12), level=95, bitspersample=12), EXTENDED, 12, 0.06),
    "lossless": (imagecodecs.jpeg8_encode(gray(12), lossless=True, predictor=1, bitspersample=16), FIRST_ORDER, 12, 0),
    "JPEG-LS": (imagecodecs.jpegls_encode(gray(12)), JPEG_LS, 12, 0),
    "near-lossless": (imagecodecs.jpegls_encode(gray(12), level=8), NEAR_LOSSLESS, 12, 0.003),
    "JPEG 2000": (
        imagecodecs.jpeg2k_encode(gray(12), codecformat="j2k", reversible=True),
        JPEG_2000_LOSSLESS,
        12,
        0,
    ),
}


def check(data: bytes, bits: int, tolerance: float) -> Radiograph:
    """Read a file of the phantom and compare it with the native file."""
    radiograph = read(data)
    assert np.abs(radiograph.pixels - read(make_dicom(gray(bits), bits=bits)).pixels).max() <= tolerance
    return radiograph


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("padding", [b"", b"\0" * 200, b"\0\0\x7f\xff" * 50, b"\xff" * 200])
def test_padding_after_the_end_marker_is_not_looked_at(name: str, padding: bytes) -> None:
    """Whatever follows the end of a codestream, and however much, does not belong to it."""
    stream, syntax, bits, tolerance = STREAMS[name]
    radiograph = check(encapsulate(stream + padding, syntax, bits=bits), bits, tolerance)
    assert names(radiograph) in ([], ["lossy"])


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("table", [b"", "per fragment", "wrong", None])
def test_fragments_of_one_frame_are_one_codestream(name: str, table: bytes | str | None) -> None:
    """Two fragments are joined whatever their offset table says, also if there is none at all."""
    stream, syntax, bits, tolerance = STREAMS[name]
    cut = len(stream) // 4 * 2
    items = item(stream[:cut]) + item(stream[cut:])
    offsets = {"per fragment": struct.pack("<LL", 0, cut + 8), "wrong": struct.pack("<L", 12345), b"": b""}
    if table is not None:
        items = item(offsets[table]) + items
    check(encapsulate(b"", syntax, bits=bits, items=items), bits, tolerance)


@pytest.mark.parametrize("name", [name for name in STREAMS if STREAMS[name][1] not in (JPEG_2000_LOSSLESS, HTJ2K)])
def test_a_missing_end_marker_is_a_warning(name: str) -> None:
    """A picture that is whole without its end marker is shown, and said so."""
    stream, syntax, bits, tolerance = STREAMS[name]
    assert stream.endswith(b"\xff\xd9")
    radiograph = check(encapsulate(stream[:-2], syntax, bits=bits), bits, tolerance)
    assert "no_end_marker" in names(radiograph)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("share", [0.5, 0.75, 0.95])
def test_a_codestream_that_is_cut_is_damage(name: str, share: float) -> None:
    """A codestream that ends before its picture is a 400, and no picture with a part of it gray."""
    stream, syntax, bits, _ = STREAMS[name]
    with pytest.raises(UnreadableInput, match="7FE0,0010"):
        read(encapsulate(stream[: int(len(stream) * share)], syntax, bits=bits))


def test_jpeg_2000_without_its_end_marker() -> None:
    """The lengths of its tile-parts tell that it is whole."""
    stream, syntax, bits, _ = STREAMS["JPEG 2000"]
    assert names(check(encapsulate(stream[:-2], syntax, bits=bits), bits, 0)) == []


def test_the_delimiter_after_the_fragments_may_be_missing() -> None:
    """A file that ends with its last fragment is read if its codestream is whole."""
    stream, syntax, bits, tolerance = STREAMS["lossless"]
    data = encapsulate(stream, syntax, bits=bits)
    assert data.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
    check(data[:-8], bits, tolerance)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("declared", [BASELINE, FIRST_ORDER, JPEG_LS, JPEG_2000_LOSSLESS, "1.2.840.10008.1.2.1"])
def test_a_codestream_under_another_transfer_syntax(name: str, declared: str) -> None:
    """What a codestream is decides, with a warning that names both."""
    stream, syntax, bits, tolerance = STREAMS[name]
    radiograph = check(relabel(encapsulate(stream, BASELINE, bits=bits), declared), bits, tolerance)
    families = ({JPEG_LS, NEAR_LOSSLESS}, {JPEG_2000_LOSSLESS, HTJ2K})
    belongs = declared == syntax or any({declared, syntax} <= family for family in families)
    assert ("transfer_syntax" in names(radiograph)) != belongs


def test_jpeg_ls_that_only_an_older_decoder_reads() -> None:
    """Two bytes too many before the end marker are an error for CharLS and none for that of gdcm: a warning."""
    stream = STREAMS["JPEG-LS"][0]
    data = encapsulate(stream[:-2] + b"\0\0" + stream[-2:], JPEG_LS)
    assert names(check(data, 12, 0)) == ["codestream"]


def test_eight_bits_in_sixteen_allocated() -> None:
    """An 8-bit JPEG in a file that allocates 16 has the values that it has."""
    stream = STREAMS["baseline"][0]
    data = encapsulate(stream, BASELINE, bits=12, BitsStored=8, HighBit=7, WindowCenter=128, WindowWidth=256)
    assert np.abs(read(data).pixels - read(make_dicom(gray(), bits=8)).pixels).max() < 0.06


def test_eight_bit_extended_is_baseline() -> None:
    """JPEG Extended of 8 bits is the same picture as JPEG Baseline."""
    stream = STREAMS["baseline"][0]
    changed = stream.replace(b"\xff\xc0", b"\xff\xc1", 1)
    plain = read(encapsulate(stream, BASELINE, bits=8)).pixels
    assert np.array_equal(read(encapsulate(stream, EXTENDED, bits=8)).pixels, plain)
    assert np.array_equal(read(encapsulate(changed, EXTENDED, bits=8)).pixels, plain)


@pytest.mark.parametrize("declared", [BASELINE, EXTENDED, PROGRESSIVE, FULL_PROGRESSION])
def test_progressive(declared: str) -> None:
    """A progressive JPEG is decoded under its own syntaxes, and under others with a warning."""
    buffer = BytesIO()
    Image.fromarray(gray()).save(buffer, "JPEG", progressive=True, quality=95)
    radiograph = check(encapsulate(buffer.getvalue(), declared, bits=8), 8, 0.06)
    assert ("transfer_syntax" in names(radiograph)) == (declared in (BASELINE, EXTENDED))


@pytest.mark.parametrize("kind", ["JPEG 2000", "JPEG-LS", "JPEG Extended"])
def test_overshoot_is_clipped(kind: str) -> None:
    """Values that a coding with loss puts beyond Bits Stored are the nearest that can be stored: white stays white."""
    pixels = with_edges()
    stream, syntax = {
        "JPEG 2000": (imagecodecs.jpeg2k_encode(pixels, level=40, codecformat="j2k", reversible=False), JPEG_2000),
        "JPEG-LS": (imagecodecs.jpegls_encode(pixels, level=8), NEAR_LOSSLESS),
        # Of 10 bits stored, as in the radiographs of NEMA.
        "JPEG Extended": (imagecodecs.jpeg8_encode(pixels // 4, level=80, bitspersample=12), EXTENDED),
    }[kind]
    bits = 10 if kind == "JPEG Extended" else 12
    decoded = {"JPEG 2000": imagecodecs.jpeg2k_decode, "JPEG-LS": imagecodecs.jpegls_decode}.get(
        kind, imagecodecs.jpeg8_decode
    )(stream)
    assert decoded.max() > 2**bits - 1
    header = {"bits": bits, "WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    found = read(encapsulate(stream, syntax, **header)).pixels
    np.testing.assert_allclose(found, np.clip(decoded, 0, 2**bits - 1) / (2**bits - 1), atol=1e-6)


def test_overshoot_of_signed_values_is_clipped_on_both_sides() -> None:
    """A signed JPEG 2000 with loss stays within -2048 and 2047."""
    pixels = with_edges().astype(np.int16) - 2048
    # Encoded as values of 16 bits.
    stream = openjpeg.utils.encode_array(pixels, bits_stored=16, photometric_interpretation=0, compression_ratios=[20])
    decoded = openjpeg.decode(stream)
    assert decoded.min() < -2048
    assert decoded.max() > 2047
    found = read(encapsulate(stream, JPEG_2000, PixelRepresentation=1, WindowCenter=0, WindowWidth=4096)).pixels
    np.testing.assert_allclose(found, (np.clip(decoded, -2048, 2047) + 2048) / 4095, atol=1e-6)


def test_bits_above_in_a_coding_without_loss_are_cut_off() -> None:
    """What lies above Bits Stored in a lossless file are other data, as in its native twin."""
    junk = (np.random.default_rng(4).integers(0, 16, (48, 40)) << 12).astype(np.uint16)
    stream = imagecodecs.jpeg8_encode(gray(12) | junk, lossless=True, predictor=1, bitspersample=16)
    assert np.array_equal(read(encapsulate(stream, FIRST_ORDER)).pixels, read(make_dicom()).pixels)


def test_signed_values_of_a_coding_without_sign() -> None:
    """The highest bit of a codestream is the sign if the header says that values are signed."""
    signed = phantom().astype(np.int16) - 2048
    stored = (signed.view(np.uint16) & 0x0FFF).astype(np.uint16)
    header = {"PixelRepresentation": 1, "WindowCenter": 0, "WindowWidth": 4096}
    for stream, syntax in (
        (imagecodecs.jpeg8_encode(stored, lossless=True, predictor=1, bitspersample=12), FIRST_ORDER),
        (imagecodecs.jpegls_encode(signed.view(np.uint16)), JPEG_LS),
    ):
        found = read(encapsulate(stream, syntax, **header)).pixels
        assert np.array_equal(found, read(make_dicom(signed, WindowCenter=0)).pixels)


def native_under(syntax: str, pixels: np.ndarray, **header: object) -> bytes:
    """Return a native file that names a compressed transfer syntax, which pydicom refuses to write."""
    data = make_dicom(pixels, **header)
    old = struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + b"1.2.840.10008.1.2.1\0"
    new = struct.pack("<HH2sH", 2, 0x10, b"UI", 22) + syntax.encode()
    assert old in data
    return data.replace(old, new, 1)


def test_native_pixels_under_a_compressed_transfer_syntax() -> None:
    """Pixel Data of exactly the native length are native; of another they are refused for the true reason."""
    radiograph = read(native_under(FIRST_ORDER, phantom()))
    assert np.array_equal(radiograph.pixels, read(make_dicom()).pixels)
    assert names(radiograph) == ["transfer_syntax"]
    with pytest.raises(UnreadableInput, match="not encapsulated"):
        read(native_under(FIRST_ORDER, phantom(rows=49), Rows=48))


@pytest.mark.parametrize("marker", [0xC5, 0xCB])
def test_jpeg_that_nobody_writes_is_not_supported(marker: int) -> None:
    """Hierarchical and lossless arithmetic JPEG are valid: a 422 that says what they are, and no damage."""
    stream = STREAMS["baseline"][0].replace(b"\xff\xc0", bytes([0xFF, marker]), 1)
    with pytest.raises(Refused, match=r"transfer_syntax: .*not supported"):
        read(encapsulate(stream, BASELINE, bits=8))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP", "WebP"])
def test_other_files_in_pixel_data_are_named(kind: str) -> None:
    """They are whole, and not damaged codestreams."""
    file = BytesIO()
    Image.fromarray(gray()).convert("L").save(file, kind.upper())
    with pytest.raises(Refused, match=f"not supported: .* holds a {kind} file"):
        read(encapsulate(file.getvalue(), BASELINE, bits=8))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.100", "1.2.3.4"])
def test_other_transfer_syntaxes_are_named(syntax: str) -> None:
    """MPEG and private syntaxes are a 422 and no damage."""
    with pytest.raises(Refused, match=r"transfer_syntax: not supported: .*\(0002,0010\)"):
        read(encapsulate(b"\xff\x0a\x11\x22" * 20, syntax))


def test_jpeg_xl_is_named() -> None:
    """A transfer syntax that is newer than pydicom is a 422 too."""
    data = encapsulate(b"\xff\x0a\x11\x22" * 20, "1.2.840.10008.1.2.4.100")
    with pytest.raises(Refused, match=r"transfer_syntax: not supported: .*\(0002,0010\)"):
        read(data.replace(b"1.2.840.10008.1.2.4.100", b"1.2.840.10008.1.2.4.110", 1))


@pytest.mark.parametrize("kind", ["native", "planes", "RLE", "JPEG", "JPEG as RGB", "JPEG 2000", "YBR", "YBR 422"])
def test_gray_stored_as_color(kind: str) -> None:
    """Gray in three components, however they are stored, is the gray picture, with a warning."""
    pixels = gray()
    rgb = np.stack([pixels] * 3, axis=-1)
    chroma = np.full_like(pixels, 128)
    header = {"bits": 8, "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "WindowCenter": 5, "WindowWidth": 3}
    if kind == "RLE":
        made = dataset(pixels, **header)
        made.PixelData, made.PlanarConfiguration = rgb.tobytes(), 0
        data = rle_of(made)
    elif kind.startswith("JPEG"):
        ybr = {**header, "PhotometricInterpretation": "YBR_FULL_422"}
        raw = imagecodecs.jpeg8_encode(rgb, level=95, colorspace="RGB", outcolorspace="RGB")
        data = {
            "JPEG": lambda: encapsulate(imagecodecs.jpeg8_encode(rgb, level=95), BASELINE, **ybr),
            "JPEG as RGB": lambda: encapsulate(raw, BASELINE, **header),
            "JPEG 2000": lambda: encapsulate(
                imagecodecs.jpeg2k_encode(rgb, codecformat="j2k", reversible=True), JPEG_2000_LOSSLESS, **header
            ),
        }[kind]()
    else:
        made = dataset(pixels, **header)
        made.PixelData = {
            "native": rgb,
            "planes": np.moveaxis(rgb, -1, 0),
            "YBR": np.stack([pixels, chroma, chroma], axis=-1),
            "YBR 422": np.stack([pixels.reshape(48, 20, 2), np.full((48, 20, 2), 128, np.uint8)], axis=2),
        }[kind].tobytes()
        made.PlanarConfiguration = int(kind == "planes")
        made.PhotometricInterpretation = {"YBR": "YBR_FULL", "YBR 422": "YBR_FULL_422"}.get(kind, "RGB")
        data = encode(made)
    radiograph = read(data)
    assert np.abs(radiograph.pixels - pixels / 255).max() < (0.06 if kind.startswith("JPEG") else 1e-6)
    assert "gray_as_color" in names(radiograph)


@pytest.mark.parametrize("tint", [(0, 0, 20), (12, 0, -10), (20, 0, 0), (0, 22, 0), (-20, -4, 3)])
def test_a_tint_is_shown_by_its_luma(tint: tuple[int, int, int]) -> None:
    """Gray pixels with a tint, as of blue film, and a small marker in color are shown as ITU-R 601 luma."""
    colors = np.clip(gray()[..., None].astype(int) + tint, 0, 255).astype(np.uint8)
    colors[:2, :4] = (0, 0, 255)
    colors[40:42, :5] = (255, 0, 0)
    made = dataset(gray(), bits=8, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    made.PixelData = colors.tobytes()
    luma = colors @ np.array([0.299, 0.587, 0.114]) / 255
    assert np.abs(read(encode(made)).pixels - luma).max() < 0.004


def rle_of(made: Dataset) -> bytes:
    """Return a file with its pixels in RLE."""
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    made.set_original_encoding(False, True)
    made.compress(RLELossless, generate_instance_uid=False)
    buffer = BytesIO()
    dcmwrite(buffer, made, enforce_file_format=True)
    return buffer.getvalue()


def test_colors_are_refused() -> None:
    """A picture with colors is refused by name, for what its pixels are."""
    made = dataset(gray(), bits=8, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    made.PixelData = np.random.default_rng(2).integers(0, 256, (48, 40, 3), dtype=np.uint8).tobytes()
    with pytest.raises(Refused, match=r"^photometric: .*the pixels have colors"):
        read(encode(made))


@pytest.mark.parametrize("compressed", [False, True])
def test_frames_that_the_header_does_not_count(compressed: bool) -> None:
    """Two frames without Number of Frames are refused, and not shown as the first of them."""
    if compressed:
        stream = imagecodecs.jpeg8_encode(gray())
        data = encapsulate(b"", BASELINE, bits=8, items=item(b"") + item(stream) + item(stream))
    else:
        made = dataset(gray(12))
        made.PixelData = made.PixelData * 2
        data = encode(made)
    with pytest.raises(Refused, match=r"^multi_frame: .*7FE0,0010"):
        read(data)
