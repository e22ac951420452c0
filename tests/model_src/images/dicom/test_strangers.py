"""Files that nobody here made, against an independent renderer: pydicom's and NumPy's, in a few lines."""

import importlib.util
import lzma
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest

from prelim.errors import InputError, Refused
from prelim.images.radiograph import InputConfig, Radiograph, read_radiograph

STRANGERS = Path(__file__).resolve().parents[5] / "shared" / "data" / "strangers"
STRANGE_FILES = sorted(path for path in STRANGERS.glob("*.dcm*")) if STRANGERS.is_dir() else []

# The public test files of pydicom, which are in its package, and of pydicom-data.
PUBLIC_FILES = sorted(
    path
    for name, folder in (("pydicom", "data/test_files"), ("data_store", "data"))
    for path in (Path(importlib.util.find_spec(name).submodule_search_locations[0]) / folder).rglob("*.dcm")  # type: ignore[union-attr,index]
)
# Cut short, with other bytes in place of their own, or not what is called an image: dcmtk renders none of them.
DAMAGED = {
    "JPEG2000-embedded-sequence-delimiter.dcm",
    "MR_truncated.dcm",
    "rtplan_truncated.dcm",
    "no_meta.dcm",
}
ANY = InputConfig(
    modalities=("CR", "CT", "DX", "IO", "MG", "MR", "NM", "OT", "PT", "PX", "RF", "RG", "RTDOSE", "SC", "US", "XA")
)


def content(path: Path) -> bytes:
    """Return a file, unpacked."""
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def rendered(name: str) -> np.ndarray:
    """Return the gray, (rows, columns) in [0, 1], of the linear window 2048 / 4096 of a file of 12 bits."""
    made = pydicom.dcmread(STRANGERS / name) if name.endswith("dcm") else pydicom.dcmread(_open(name))
    return np.clip(made.pixel_array / 4095, 0, 1)


def _open(name: str) -> lzma.LZMAFile:
    return lzma.open(STRANGERS / name)


def read(name: str) -> Radiograph:
    """Read one of the files."""
    (path,) = [path for path in STRANGE_FILES if path.name.startswith(name + ".")]
    return read_radiograph(content(path), InputConfig())


needs_strangers = pytest.mark.skipif(not STRANGE_FILES, reason=f"{STRANGERS} is not there")


@needs_strangers
@pytest.mark.parametrize("name", ["slope_0", "pi_lower", "voilut_short", "voilut_item_empty", "meta_implicit_nopre"])
def test_files_with_one_fault_are_rendered_as_their_window_says(name: str) -> None:
    """Their fault does not change the picture that the window gives."""
    expected = rendered("ds_text.dcm.xz")
    assert np.abs(read(name).pixels - expected).mean() < 0.02


@needs_strangers
@pytest.mark.parametrize("name", ["ds_comma", "ds_text", "window_NaN"])
def test_files_without_a_readable_window_are_rendered_by_percentiles(name: str) -> None:
    """They are rendered between percentiles 0.5 and 99.5, and the tag is named."""
    values = rendered("ds_text.dcm.xz")
    low, high = np.percentile(values, [0.5, 99.5])
    radiograph = read(name)
    assert np.abs(radiograph.pixels - np.clip((values - low) / (high - low), 0, 1)).max() < 0.02
    assert any("(0028,1051)" in warning for warning in radiograph.warnings)


@needs_strangers
def test_an_overshoot_is_white() -> None:
    """The lossy file is its lossless twin, within 0.02."""
    lossy, lossless = read("j2k_lossy_overshoot").pixels, read("overshoot_original").pixels
    assert np.abs(lossy - lossless).max() < 0.02


@needs_strangers
@pytest.mark.parametrize("name", ["jpg8_alloc16", "jpg_2frag_bot_per_fragment", "jpg_ext_8bit", "jpg_pad200"])
def test_untidy_codestreams_are_their_picture(name: str) -> None:
    """They hold one JPEG of the chest: its 8-bit values."""
    assert np.abs(read(name).pixels - rendered("ds_text.dcm.xz")).mean() < 0.02


@needs_strangers
def test_twelve_bit_jpeg() -> None:
    """JPEG Extended of 12 bits in 10, MONOCHROME1, with window 550 / 1024."""
    pixels = read("RG3_JPLY").pixels
    assert pixels.shape == (1760, 1760)
    # An overshoot that is cut off to its low bits is white among black, and the other way round.
    assert 0.68 < pixels.mean() < 0.71


@needs_strangers
def test_big_endian_table() -> None:
    """The VOI LUT of the knee, applied by NumPy."""
    with _open("bigendian_voilut.dcm.xz") as file:
        made = pydicom.dcmread(file)
    table = np.frombuffer(made.VOILUTSequence[0]["LUTData"].value, dtype=">u2")
    assert np.abs(read("bigendian_voilut").pixels - table[made.pixel_array] / 16383).max() < 0.02


@needs_strangers
def test_the_others() -> None:
    """Gray as RGB is gray, oblong pixels are told, and raw data are refused by their class."""
    assert np.abs(read("rgb_grey").pixels - rendered("ds_text.dcm.xz")).mean() < 0.02
    oblong = read("aspect_nominal")
    assert oblong.spacing == (0.4, 0.2)
    assert [warning.split(":")[0] for warning in oblong.warnings] == ["anisotropic_pixels"]
    with pytest.raises(Refused, match=r"for_processing: \(0008,0016\)"):
        read("forproc_sop_only")


def with_modality(path: Path) -> bytes:
    """Return a file, with a Modality if it has none: what comes after that check is what is asked here."""
    with warnings.catch_warnings(action="ignore"):
        made, buffer = pydicom.dcmread(path, force=True), BytesIO()
        if "Modality" in made or "Rows" not in made:
            return path.read_bytes()
        made.Modality = "OT"
        made.save_as(buffer)
    return buffer.getvalue()


def outcome(path: Path) -> str:
    """Return "rendered", or the message of the refusal, or "damaged: " and the message."""
    try:
        radiograph = read_radiograph(with_modality(path), ANY)
    except Refused as error:
        return str(error)
    except InputError as error:
        return f"damaged: {error}"
    return "rendered" if 0 <= radiograph.pixels.min() < radiograph.pixels.max() <= 1 else "wrong"


@pytest.mark.parametrize("path", PUBLIC_FILES, ids=lambda path: path.name)
def test_public_files_are_rendered_or_refused_by_name(path: Path) -> None:
    """No public test file is called damaged but those that are; others are refused by name, or rendered."""
    found = outcome(path)
    assert found.startswith("damaged: ") == (path.name in DAMAGED), found
    assert found != "wrong"
    assert found.split(":")[0].isidentifier()
