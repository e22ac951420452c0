"""What the process that decodes images is given, and how it answers."""

import os

import numpy as np
import pytest

import prelim
from prelim.images.decoding_child import write_radiograph
from prelim.images.decoding_process import SOURCE, DecodingProcess, memory_file, read_reply
from prelim.images.radiograph import Radiograph
from prelim.images.sandbox import sandboxed


def test_child_imports_this_package() -> None:
    """From where it lies, also without an environment that has it."""
    assert (SOURCE / "prelim" / "__init__.py").samefile(prelim.__file__)


def test_only_the_own_child_is_in_a_sandbox() -> None:
    """And only where this machine has one; another command runs as it is."""
    assert DecodingProcess().is_sandboxed == (sandboxed((), SOURCE) != [])
    assert not DecodingProcess(("python",)).is_sandboxed


@pytest.mark.parametrize("extra", range(4))
def test_pixels_of_a_reply_are_aligned(extra: int) -> None:
    """A header of any length comes before them; NumPy computes slower with numbers that are not aligned."""
    pixels = np.arange(12, dtype=np.float32).reshape(3, 4)
    reply = memory_file(b"")

    write_radiograph(os.dup(reply), Radiograph(pixels, (0.1, 0.1), "CR", "PA", ("w" * extra,)))
    header, found = read_reply(reply, "PNG")

    assert np.array_equal(found, pixels)
    assert found.flags.aligned
    assert (header["warnings"], header["view"]) == (["w" * extra], "PA")
