"""Stored pixel values -> gray, by one table over all values that can be stored.

The gray scale of PS3.4 N.2 (Modality LUT, VOI LUT, Presentation LUT) maps every stored value on its own, and a
radiograph stores at most 16 bits: so the chain is computed once for each of at most 65536 values, in float64, and the
pixels are looked up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prelim.errors import Refused
from prelim.images.contrast import minmax_equalize, scale_between, weighted_percentiles

# Entries of 12 bits in a table of 16 are below a 16th of its range.
CONTRADICTION = 16


@dataclass(frozen=True)
class LookupTable:
    """A Modality LUT (PS3.3 C.11.1.1) or VOI LUT (PS3.3 C.11.2.1.1).

    first   : the input value that maps to the first entry
    entries : (n,) float64, the output values
    bits    : of the output range, as declared by (0028,3002) LUT Descriptor
    """

    first: int
    entries: np.ndarray
    bits: int

    def look_up(self, values: np.ndarray) -> np.ndarray:
        """Map values, any shape; those outside of the table take its first or last entry, as PS3.3 requires."""
        index = np.rint(np.clip(values - self.first, 0, len(self.entries) - 1)).astype(np.intp)
        return self.entries[index]


def _linear(values: np.ndarray, center: float, width: float) -> np.ndarray:
    if width == 1:
        # PS3.3 C.11.2.1.2.1: the ramp has no length, what remains is a threshold.
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _linear_exact(values: np.ndarray, center: float, width: float) -> np.ndarray:
    return np.clip((values - center) / width + 0.5, 0, 1)


def _sigmoid(values: np.ndarray, center: float, width: float) -> np.ndarray:
    # Beyond 700 the exponential overflows, and the result is 0 or 1 long before.
    return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))


VOI_FUNCTIONS = {"LINEAR": _linear, "LINEAR_EXACT": _linear_exact, "SIGMOID": _sigmoid}
"""(0028,1056) VOI LUT Function -> (values, center, width) -> gray in [0, 1], as PS3.3 C.11.2.1.2 and C.11.2.1.3."""


@dataclass(frozen=True)
class Window:
    """(0028,1050) Window Center, (0028,1051) Window Width, (0028,1056) VOI LUT Function, of PS3.3 C.11.2.1.2.

    function : a key of VOI_FUNCTIONS
    """

    center: float
    width: float
    function: str = "LINEAR"

    @property
    def is_usable(self) -> bool:
        """Whether the width is allowed: PS3.3 C.11.2.1.2 wants 1 and more for LINEAR, more than 0 for the others."""
        return self.width >= 1 if self.function == "LINEAR" else self.width > 0

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Map values to [0, 1]."""
        return VOI_FUNCTIONS[self.function](values, self.center, self.width)


@dataclass(frozen=True)
class GrayScale:
    """Everything of a DICOM header that decides how a stored value looks.

    padding  : lowest and highest stored value that is no image, or None (PS3.3 C.7.5.1.1.2)
    modality : the Modality LUT; None: `slope` and `intercept`
    voi      : the first VOI LUT, else the first window, else None
    invert   : by (2050,0020) Presentation LUT Shape, else by MONOCHROME1
    """

    bits_stored: int
    signed: bool
    invert: bool
    slope: float = 1.0
    intercept: float = 0.0
    padding: tuple[int, int] | None = None
    modality: LookupTable | None = None
    voi: LookupTable | Window | None = None


def gray_table(scale: GrayScale, counts: np.ndarray, render: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The gray of every storable code, and warnings.

    counts : (2 ** bits_stored,) int, how many pixels have each code; a code is the stored value without its sign, so
             that a signed -1 is the highest code

    table  : (2 ** bits_stored,) float32 in [0, 1], high is white; padding is black

    Raises Refused (422) if all pixels are padding.
    """
    codes = np.arange(2**scale.bits_stored, dtype=np.float64)
    values = np.where(codes >= codes.size / 2, codes - codes.size, codes) if scale.signed else codes
    is_padding = np.zeros(codes.size, dtype=bool)
    if scale.padding is not None:
        is_padding = (values >= scale.padding[0]) & (values <= scale.padding[1])
    if not counts[~is_padding].any():
        raise Refused("only_padding: all pixels have the (0028,0120) Pixel Padding Value; allowed: an image")
    values = scale.modality.look_up(values) if scale.modality else values * scale.slope + scale.intercept
    if render == "minmax_equalize":
        # The recipe knows no padding: what the training images show as a border is shown here too.
        return minmax_equalize(values, counts, scale.invert).astype(np.float32), ()
    warnings: tuple[str, ...] = ()
    padded = is_padding & (counts > 0)
    counts = np.where(is_padding, 0, counts)
    if isinstance(scale.voi, LookupTable):
        entries = scale.voi.look_up(values)
        highest = _output_maximum(scale.voi)
        if highest != 2**scale.voi.bits - 1:
            warnings = ("voi_lut: entries of the VOI LUT contradict the bits of (0028,3002); scaled by the entries",)
        gray = np.clip(entries / highest, 0, 1)
    elif isinstance(scale.voi, Window):
        gray = scale.voi.apply(values)
    else:
        gray = scale_between(values, *weighted_percentiles(values, counts))
        warnings = ("no_window: the file has no usable window; scaled by percentiles 0.5 to 99.5",)
    # About the declared range, here [0, 1]; about the maximum of the image, the contrast would depend on the patient.
    gray = 1 - gray if scale.invert else gray
    if scale.invert and (gray[padded] == 1).any():
        # In MONOCHROME1 the lowest value is also the densest bone and metal.
        warnings += (
            "padding: pixels of (0028,0120) Pixel Padding Value are shown black; the gray scale has white there",
        )
    return np.where(is_padding, 0, gray).astype(np.float32), warnings


def _output_maximum(table: LookupTable) -> float:
    """The top of a VOI LUT's range: by its declared bits, unless its entries contradict them.

    Files exist that declare 16 bits for 12-bit entries, which would be black, and 8 bits for 16-bit entries. Entries
    that use only a part of their bits do not contradict them: they are meant to be dark.
    """
    declared = 2**table.bits - 1
    highest = float(table.entries.max())
    if declared / CONTRADICTION < highest <= declared:
        return float(declared)
    return float(2 ** max(1, int(highest).bit_length()) - 1)
