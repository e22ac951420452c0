"""The public test files of pydicom against dcmtk: what dcmtk renders is not damaged, and looks the same here."""

import shutil
import subprocess
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from prelim.errors import InputError, Refused, UnreadableInput
from prelim.images.radiograph import InputConfig, Radiograph, read_radiograph
from tests.model_src.images.dicom.test_strangers import PUBLIC_FILES

# One reads JPEG, the other JPEG-LS; both read what is not compressed, and RLE.
RENDERERS = [program for program in ("dcmj2pnm", "dcml2pnm") if shutil.which(program)]
# The file's VOI LUT, its window, or the range of its values.
VOI_OPTIONS = (("+Wl", "1"), ("+Wi", "1"), ("+Wm",))


def as_radiograph(path: Path) -> bytes | None:
    """Return the file as computed radiography, so that its pixels are read whatever it is; None if pydicom fails."""
    try:
        with warnings.catch_warnings(action="ignore"):
            made = pydicom.dcmread(path, force=True)
            made.Modality = "CR"
            made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
            made.BurnedInAnnotation = "NO"
            buffer = BytesIO()
            made.save_as(buffer)
    except Exception:  # noqa: BLE001 - whatever pydicom makes of a damaged file
        return None
    return buffer.getvalue()


def render_by_dcmtk(path: Path, folder: Path) -> tuple[np.ndarray, bool] | None:
    """Return the gray of dcmtk, (rows, columns) in [0, 1], and whether the file itself says how; None if it fails."""
    output = folder / "out.pnm"
    for options in VOI_OPTIONS:
        for program in RENDERERS:
            command = [program, "--write-16-bit-pnm", "--no-overlays", *options, path, output]
            done = subprocess.run(command, capture_output=True, check=False, timeout=60)
            if done.returncode == 0 and output.exists() and output.stat().st_size > 20:
                gray = np.asarray(Image.open(output)).astype(np.float64)
                # Pillow reads colors of 16 bits as 8.
                gray = gray / 65535 if gray.ndim == 2 else gray.mean(axis=-1) / 255
                return gray, options != ("+Wm",)
    return None


@pytest.mark.skipif(not RENDERERS, reason="dcmtk's dcmj2pnm is not installed")
@pytest.mark.parametrize("path", PUBLIC_FILES, ids=lambda path: path.name)
def test_dcmtk_renders_the_same(path: Path, tmp_path: Path) -> None:
    """A file that dcmtk renders is rendered like it, or refused for what it shows, and never as damaged."""
    data = as_radiograph(path)
    if data is None:
        assert render_by_dcmtk(path, tmp_path) is None
        return
    radiograph: Radiograph | None = None
    refusal: InputError | None = None
    try:
        radiograph = read_radiograph(data, InputConfig())
    except Refused:
        return
    except InputError as error:
        refusal = error
    rendered = render_by_dcmtk(path, tmp_path)
    if rendered is None:
        return
    assert not isinstance(refusal, UnreadableInput), f"{refusal}; dcmtk renders it"
    assert radiograph is not None
    gray, by_file = rendered
    stored_as_color = any(warning.startswith("gray_as_color") for warning in radiograph.warnings)
    if not by_file and not stored_as_color:
        # Without a window the percentiles are the ends of the scale here, and the extremes in dcmtk.
        low, high = np.percentile(gray, [0.5, 99.5], method="inverted_cdf")
        gray = np.clip((gray - low) / (high - low), 0, 1)
    assert radiograph.pixels.shape == gray.shape
    assert np.percentile(np.abs(radiograph.pixels - gray), 99) < 0.02
