"""One real chest radiograph, for the demo, load tests and benchmarks."""

import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.pixels.processing import apply_windowing


def sample_radiograph() -> bytes:
    """A PA chest radiograph as DICOM: file RG1 of the package pydicom-data, 1955 x 1841, synthetic identity.

    Raises FileNotFoundError when the package is not installed.
    """
    package = find_spec("data_store")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError(
            "the package pydicom-data, which has the sample radiograph, is not installed: run `make install`"
        )
    return Path(package.submodule_search_locations[0], "data", "RG1_UNCR.dcm").read_bytes()


def as_png(dicom: bytes) -> bytes:
    """The same picture as an 8-bit PNG, as a viewer shows it. Good for RG1: its slope is positive."""
    dataset = dcmread(io.BytesIO(dicom))
    shown = np.asarray(apply_windowing(dataset.pixel_array, dataset), dtype=np.float64)
    shown = (shown - shown.min()) / np.ptp(shown)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    file = io.BytesIO()
    Image.fromarray(np.round(255 * shown).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
