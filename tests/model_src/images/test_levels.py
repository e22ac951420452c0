"""Which levels are a marker, which components are gray, and what decoding may cost, each at its limit."""

import json
import os
import resource
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import psutil
import pytest

from prelim.errors import InputError, Refused
from prelim.images import decoding_process
from prelim.images.decoding_child import set_limits
from prelim.images.decoding_process import DecodingProcess
from prelim.images.dicom import encapsulated
from prelim.images.dicom.encapsulated import decode_encapsulated
from prelim.images.dicom.pixels import gray_of
from prelim.images.dicom.rendering import read_gray_scale
from prelim.images.gray_levels import _without_marker, _without_top
from prelim.images.input_config import WORKING_MEMORY, InputConfig
from prelim.images.radiograph import read_radiograph
from tests.dicom_files import make_dicom, phantom
from tests.model_src.images.dicom.test_header_values import header, values

EIGHT = {"bits_allocated": 8, "bits_stored": 8, "high_bit": 7}
COLOR = {"photometric": "RGB", "samples_per_pixel": 3}


def occurring(**of_level: int) -> np.ndarray:
    """How often each of 256 levels occurs; L5=3: level 5 three times."""
    counts = np.zeros(256, dtype=np.int64)
    for name, count in of_level.items():
        counts[int(name[1:])] = count
    return counts


@pytest.mark.parametrize(
    ("counts", "marker"),
    [
        (occurring(L3=5, L5=5, L200=90, L180=10), 200),
        (occurring(L3=5, L5=5, L200=89, L180=11), None),
        # 128 is in the upper half, 127 is not.
        (occurring(L3=5, L5=5, L127=99, L200=9, L128=1), 200),
        (occurring(L3=5, L5=5, L200=89, L128=11), None),
        (occurring(L3=5, L127=99, L128=1), 128),
        # What is left needs two levels.
        (occurring(L3=5, L5=5, L255=9), 255),
        (occurring(L3=5, L255=9), None),
        (occurring(L255=9), None),
        (occurring(L3=5, L5=5), None),
    ],
)
def test_a_marker_holds_nine_tenths_of_the_upper_half(counts: np.ndarray, marker: int | None) -> None:
    """Its level does not count then."""
    expected = counts.copy()
    if marker is not None:
        expected[marker] = 0
    assert _without_marker(np.arange(256.0), counts).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("samples", "kept"),
    [
        # The upper half of 8 to 80 begins at 44.
        ([8, 20] + [44] + [80] * 9, [8, 20, 44]),
        ([8, 20] + [44] + [80] * 8, None),
        ([8, 20] + [43.9] + [80] * 8, [8, 20, 43.9]),
        ([8, 20] + [45, 79] + [80] * 17, None),
        ([8, 20] + [45, 79] + [80] * 18, [8, 20, 45, 79]),
        # What is left needs two levels.
        ([8, 8] + [80] * 9, None),
        ([80] * 9, None),
        ([-80, -40, 7], [-80, -40]),
    ],
)
def test_a_marker_in_samples_of_no_known_range(samples: list[float], kept: list[float] | None) -> None:
    """The same for the highest level, of the range that the samples have."""
    found = _without_top(np.array(samples, dtype=np.float32))
    np.testing.assert_allclose(found, samples if kept is None else kept, rtol=1e-6)


def colors(*levels: tuple[int, int, int], bits: int = 8) -> np.ndarray:
    """48 x 40 pixels: these, and gray in the rest."""
    pixels = np.full((48, 40, 3), 40 << bits - 8, dtype=np.uint8 if bits == 8 else np.uint16)
    pixels.reshape(-1, 3)[: len(levels)] = levels
    return pixels


@pytest.mark.parametrize("bits", [8, 12])
def test_colors_of_a_hundredth_of_the_pixels(bits: int) -> None:
    """Of 1,920 pixels 19 may have components more than 24 of 256 levels apart, and any number of them 24."""
    of = header(**COLOR, **(EIGHT if bits == 8 else {}))
    one = 1 << bits - 8
    apart, near = (40 * one, 40 * one, 65 * one), (40 * one, 64 * one, 40 * one)
    assert gray_of(colors(*[apart] * 19, *[near] * 1901, bits=bits), of).shape == (48, 40)
    with pytest.raises(Refused, match="the pixels have colors"):
        gray_of(colors(*[apart] * 20, bits=bits), of)


def test_a_tint_near_the_middle_is_no_chroma() -> None:
    """Levels that could be gray with a tint or luma with neutral chroma are taken for what the file says: colors."""
    tinted = np.broadcast_to(np.array([120, 130, 140], dtype=np.uint8), (48, 40, 3))
    luma = round(0.299 * 120 + 0.587 * 130 + 0.114 * 140)
    assert (gray_of(np.ascontiguousarray(tinted), header(**COLOR, **EIGHT)) == luma).all()


@pytest.mark.parametrize(
    ("changes", "slope", "intercept", "warned"),
    [
        ({"slope": (1e14,)}, 1e14, 0, False),
        ({"slope": (1e14 + 1,)}, 1, 0, True),
        ({"slope": (-1e14 - 1,)}, 1, 0, True),
        ({"slope": (1e-14,)}, 1e-14, 0, False),
        ({"slope": (-0.99e-14,)}, 1, 0, True),
        ({"intercept": (-1e14,)}, 1, -1e14, False),
        ({"intercept": (-1e14 - 1,)}, 1, 0, True),
    ],
)
def test_numbers_of_the_modality_step(changes: dict[str, Any], slope: float, intercept: float, warned: bool) -> None:
    """Up to 1e14, and a slope from 1e-14 on."""
    said: list[str] = []
    scale = read_gray_scale(values(**changes), 12, said)
    assert (scale.slope, scale.intercept, bool(said)) == (slope, intercept, warned)


@pytest.mark.parametrize("samples", [1, 3])
def test_time_for_jpeg_2000(monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
    """A fifth of a second for a million samples."""
    asked: list[float] = []
    monkeypatch.setattr(encapsulated, "allow_cpu_seconds", asked.append)
    pixels = np.repeat(phantom(bits=8).astype(np.uint8)[..., None], samples, axis=2)
    stream = imagecodecs.jpeg2k_encode(pixels.squeeze(), codecformat="j2k", reversible=True)
    of = header(**EIGHT, **(COLOR if samples == 3 else {}))
    found = decode_encapsulated(stream, of, "1.2.840.10008.1.2.4.90")
    assert np.array_equal(found.pixels, pixels)
    assert asked == [pytest.approx(0.2e-6 * 48 * 40 * samples)]


def test_what_a_child_may_use() -> None:
    """700 MB over what the process has, the CPU seconds that are left, and no file of its memory."""
    assert (WORKING_MEMORY, decoding_process.WAIT_S) == (700 * 2**20, 120)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        set_limits(1.5)
        limits = [resource.getrlimit(name) for name in (resource.RLIMIT_AS, resource.RLIMIT_CORE)]
        found = [pages * resource.getpagesize(), *limits, signal.getitimer(signal.ITIMER_PROF)[0]]
        os.write(writer, json.dumps(found).encode())
        os._exit(0)
    os.waitpid(child, 0)
    had, memory, core, seconds = json.loads(os.read(reader, 1000))
    os.close(reader)
    os.close(writer)
    assert abs(memory[0] - had - WORKING_MEMORY) < 8 * 2**20
    assert (memory[0], core) == (memory[1], [0, 0])
    assert 1.4 < seconds <= 1.51


def test_no_descriptor_stays_open() -> None:
    """Neither here nor in the process that forks the decoders, whatever becomes of a file."""
    files = [make_dicom(), make_dicom(Modality="CT"), b"\x89PNG\r\n\x1a\n"]

    def read() -> int:
        for data in files * 2:
            with suppress(InputError):
                read_radiograph(data, InputConfig())
        own, count = psutil.Process(), 0
        for process in (own, *own.children(recursive=True)):
            with suppress(psutil.AccessDenied):  # in a sandbox
                count += process.num_fds()
        return count

    assert read() == read()


def test_a_forked_process_lets_go_of_the_decoder() -> None:
    """Its end of the socket is closed, or the decoder would not notice that its own user has ended."""
    process = DecodingProcess()
    ours, theirs = socket.socketpair()
    with theirs:
        process._control = ours
        process.leave_to_parent()
        theirs.settimeout(5)
        assert theirs.recv(1) == b""
    assert process._control is None
    process.leave_to_parent()
