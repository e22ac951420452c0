import importlib.util
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import (
    MPEG2MPML,
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from prelim.errors import ArchiveError, InputError, Refused, UnreadableInput
from prelim.images.input_config import Accepts
from prelim.images.radiograph import InputConfig, Radiograph, read_radiograph
from tests.dicom_files import (
    SECRETS,
    compress,
    compress_by_gdcm,
    dataset,
    encapsulate,
    encode,
    make_dicom,
    phantom,
)

JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
SHARED = Path(__file__).resolve().parents[5] / "shared" / "data" / "dicom"


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return the file of an image."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gray_image() -> Image.Image:
    """Return the phantom in 8 bits."""
    return Image.fromarray(phantom(bits=8).astype(np.uint8))


def read(data: bytes, **options: object) -> Radiograph:
    """Read with the default configuration, or with these options."""
    return read_radiograph(data, InputConfig(**options))


def names(radiograph: Radiograph) -> list[str]:
    """Return the first words of the warnings."""
    return [warning.split(":")[0] for warning in radiograph.warnings]


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
@pytest.mark.parametrize("bits", [8, 12])
def test_native_syntaxes_agree(syntax: str, bits: int) -> None:
    """The four uncompressed encodings of one data set are the same radiograph."""
    pixels = phantom(bits=bits).astype(np.uint8 if bits == 8 else np.uint16)
    if syntax == ExplicitVRBigEndian:
        made = dataset(pixels, bits=bits)
        made.PixelData = pixels.byteswap().tobytes()
        made["PixelData"].VR = "OB" if bits == 8 else "OW"
        data = encode(made, syntax)
    else:
        data = make_dicom(pixels, syntax, bits=bits)
    assert np.array_equal(read(data).pixels, read(make_dicom(pixels, bits=bits)).pixels)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_data_set_without_preamble(syntax: str) -> None:
    """A bare data set, without preamble and meta information, is recognized and read."""
    data = make_dicom(syntax=syntax, preamble=False)
    assert data[128:132] != b"DICM"
    assert np.array_equal(read(data).pixels, read(make_dicom()).pixels)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, *JPEG_LOSSLESS])
@pytest.mark.parametrize("kind", ["u2", "i2", "u1"])
def test_compressed_syntaxes_agree(syntax: str, kind: str) -> None:
    """A losslessly compressed file is the radiograph of its original, unsigned, signed, and of 8 bits."""
    bits = 8 if kind == "u1" else 12
    pixels = (phantom(bits=bits).astype(int) - (2048 if kind == "i2" else 0)).astype(kind)
    header = {"bits": bits, **({"WindowCenter": 0} if kind == "i2" else {})}
    made = compress_by_gdcm if syntax in JPEG_LOSSLESS else compress
    assert np.array_equal(read(made(pixels, syntax, **header)).pixels, read(make_dicom(pixels, **header)).pixels)


def test_baseline_jpeg() -> None:
    """JPEG Baseline is read with the warning that it is lossy."""
    stream = save(gray_image(), "JPEG", quality=95)
    radiograph = read(encapsulate(stream, "1.2.840.10008.1.2.4.50", bits=8))
    assert np.abs(radiograph.pixels - phantom(bits=8) / 255).max() < 0.06
    assert names(radiograph) == ["lossy"]


def test_header_of_the_radiograph() -> None:
    """Spacing is (row, column) in mm from PixelSpacing, else from ImagerPixelSpacing, and none if it is 0."""
    plain = read(make_dicom(PixelSpacing=[0.2, 0.2], ImagerPixelSpacing=[0.3, 0.3]))
    assert (plain.spacing, plain.modality, plain.view, plain.warnings) == ((0.2, 0.2), "CR", "PA", ())
    assert read(make_dicom(ImagerPixelSpacing=[0.3, 0.3])).spacing == (0.3, 0.3)
    assert read(make_dicom(PixelSpacing=[0, 0])).spacing is None
    assert read(make_dicom()).spacing is None


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("anisotropic_pixels", {"PixelSpacing": [0.2, 0.1]}),
        ("anisotropic_pixels", {"PixelAspectRatio": [2, 1]}),
        ("lossy", {"LossyImageCompression": "01"}),
        ("burned_in_unknown", {"drop": ("BurnedInAnnotation",)}),
    ],
)
def test_warnings(name: str, header: dict) -> None:
    """What the reader of a report should know of the rendering is a warning with its name."""
    assert names(read(make_dicom(**header))) == [name]


def test_overlay_is_told() -> None:
    """Overlays are not drawn, which is a warning."""
    made = dataset(phantom())
    made.add_new(0x60020010, "US", 48)
    assert names(read(encode(made))) == ["overlay_ignored"]


@pytest.mark.parametrize(
    ("name", "header", "options"),
    [
        ("modality", {"Modality": "CT"}, {}),
        ("modality", {"Modality": "MG"}, {}),
        ("modality", {"drop": ("Modality",)}, {}),
        ("no_pixel_data", {"SOPClassUID": BasicTextSRStorage, "Modality": "SR", "drop": ("PixelData", "Rows")}, {}),
        ("multi_frame", {"NumberOfFrames": 2}, {}),
        ("photometric", {"PhotometricInterpretation": "CMYK", "SamplesPerPixel": 4}, {}),
        ("photometric", {"PhotometricInterpretation": "PALETTE COLOR"}, {}),
        ("photometric", {"drop": ("PhotometricInterpretation",)}, {}),
        ("burned_in_annotation", {"BurnedInAnnotation": "YES"}, {}),
        ("for_processing", {"PresentationIntentType": "FOR PROCESSING"}, {}),
        ("presentation_lut", {"PresentationLUTShape": "LIN OD"}, {}),
        ("view", {"ViewPosition": "LL"}, {"accepts": Accepts(views=("PA", "AP"))}),
        ("bits", {"HighBit": 15}, {}),
        ("bits", {"BitsAllocated": 32}, {}),
    ],
)
def test_refusals_are_named(name: str, header: dict, options: dict) -> None:
    """A readable file that must not be answered is a 422 that names reason, tag, value, what is allowed, way out."""
    with pytest.raises(Refused, match=rf"^{name}: \([0-9A-F]{{4}},[0-9A-F]{{4}}\) .*; ") as caught:
        read(make_dicom(**header), **options)
    assert caught.value.status == 422


def test_modality_and_view_by_configuration() -> None:
    """Mammograms and lateral views are answered where model.yaml lists them."""
    assert read(make_dicom(Modality="MG"), modalities=("MG",)).modality == "MG"
    assert read(make_dicom(ViewPosition="LL"), accepts=Accepts(views=("LL",))).view == "LL"


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (MPEG2MPML, "MPEG2"),
        ("1.2.3.4.5.6", "private"),
    ],
)
def test_transfer_syntax_without_decoder(syntax: str, name: str) -> None:
    """What cannot be decoded is refused by name and number, with the way through the PACS."""
    with pytest.raises(Refused, match=rf"transfer_syntax: not supported: .*{name}.*Explicit VR Little Endian"):
        read(encapsulate(b"\0\0\1\xb3", syntax))


@pytest.mark.parametrize(
    "header",
    [
        {"drop": ("Rows",)},
        {"drop": ("BitsAllocated",)},
        {"drop": ("PixelData",)},
        {"Rows": 0},
        {"Rows": 49},
        {"BitsStored": 17},
        {"SamplesPerPixel": 3},
        {"SamplesPerPixel": 1, "PhotometricInterpretation": "RGB"},
        {"PixelRepresentation": 2},
        {"BitsStored": 0},
        {"PixelData": b""},
    ],
)
def test_contradicting_headers_are_damage(header: dict) -> None:
    """A header that contradicts the standard or its pixels is a 400 that names the tag."""
    with pytest.raises(UnreadableInput, match=r"\([0-9A-F]{4},[0-9A-F]{4}\)|rows"):
        read(make_dicom(**header))


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless])
def test_codestream_of_another_size(syntax: str) -> None:
    """A codestream that holds more or fewer pixels than the header says is a 400, before it is decoded."""
    small = compress(phantom(), JPEG2000Lossless if syntax == HTJ2KLossless else syntax)
    changed = small.replace(b"\x28\x00\x10\x00US\x02\x00\x30\x00", b"\x28\x00\x10\x00US\x02\x00\x60\x00")
    assert changed != small
    with pytest.raises(UnreadableInput, match=r"7FE0,0010"):
        read(changed)


@pytest.mark.parametrize(
    "options",
    [
        {"modalities": ()},
        {"modalities": "CR"},
        {"burned_in": "no"},
        {"accepts": {"views": ("pa",)}},
        {"accepts": {"sop_classes": ["CR"]}},
        {"accepts": {"organs": ["CHEST"]}},
        {"accepts": ["CHEST"]},
        {"render": "raw"},
        {"max_pixels": 0},
    ],
)
def test_bad_configuration(options: dict) -> None:
    """A value of section `input` that is not allowed is an ArchiveError that names its field."""
    with pytest.raises(ArchiveError, match=rf"input\.{next(iter(options))}.*(allowed|known)"):
        InputConfig(**options)


def data_store() -> Path:
    """Return the folder of the installed package pydicom-data."""
    spec = importlib.util.find_spec("data_store")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def looks_like_a_frontal_chest(pixels: np.ndarray) -> bool:
    """Return whether the lungs, left and right of the middle, are darker than the spine and abdomen."""
    rows, columns = pixels.shape

    def mean(top: float, left: float, size: float = 0.1) -> float:
        patch = pixels[int(top * rows) : int((top + size) * rows), int(left * columns) : int((left + size) * columns)]
        return float(patch.mean())

    lungs = max(mean(0.3, 0.25), mean(0.3, 0.65))
    return lungs < min(mean(0.45, 0.45), mean(0.85, 0.45))


@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "RG1_J2KI.dcm"])
def test_real_chest_radiograph(name: str) -> None:
    """The PA chest of pydicom-data, MONOCHROME1, has dark lungs between white spine and abdomen."""
    radiograph = read((data_store() / name).read_bytes())
    assert radiograph.pixels.shape == (1955, 1841)
    assert (radiograph.modality, radiograph.view, radiograph.spacing) == ("CR", "PA", None)
    assert looks_like_a_frontal_chest(radiograph.pixels)


SHARED_FILES = sorted(SHARED.glob("*/*")) if SHARED.is_dir() else []


# A window outside its pixel values.
REFUSED_SHARED = ("JPEG2KLossless_1s_1f_u_16_16.dcm",)


@pytest.mark.skipif(not SHARED_FILES, reason="the DICOM files of ../shared are not on this machine")
@pytest.mark.parametrize("path", SHARED_FILES, ids=lambda path: path.name[:40])
def test_real_files_shared(path: Path) -> None:
    """Every real file is rendered or refused by an InputError of one line without any of its identifiers."""
    if path.name in REFUSED_SHARED or (path.parent.name == "odd" and path.name != "CR-MONO1-10-chest_no_preamble"):
        with pytest.raises(InputError, match=r"^.+$"):
            read(path.read_bytes())
        return
    radiograph = read(path.read_bytes())
    assert radiograph.pixels.dtype == np.float32
    assert 0 <= radiograph.pixels.min() < radiograph.pixels.max() <= 1
    if path.parent.name == "chest":
        # A normal picture relabeled MONOCHROME1 by its authors: right is what the label says.
        assert looks_like_a_frontal_chest(radiograph.pixels) == (path.name != "Fake_MONOHR1.dcm") or "966" in path.name


def test_secrets_are_in_the_files() -> None:
    """The files of these tests do hold the patient data that `test_hostile_input` looks for in messages."""
    data = make_dicom()
    assert all(secret.encode() in data for secret in SECRETS)
