"""What runs vision.onnx: every runtime gives the features of an image alone, in any batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prelim.archive.archive import VISION
from prelim.archive.encoder_config import AUTO, EXACT, FASTEST_FIRST, RUNTIMES, EncoderConfig
from prelim.decoders.precision import FASTEST_FIRST as DECODERS
from prelim.encoding import openvino_session
from prelim.encoding.network_session import TOGETHER, ImageSession, open_vision
from prelim.encoding.onnx_session import OnnxSession
from prelim.encoding.openvino_session import OpenVinoNetwork
from prelim.errors import ArchiveError

IMAGES = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(0)).cumsum(2) / 8


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.1)])
def test_openvino_computes_the_same(tiny_archive: Path, precision: str, tolerance: float) -> None:
    """The shape is that of ONNX Runtime, and the features are nearly those."""
    exact = OnnxSession(tiny_archive / VISION)
    session = OpenVinoNetwork(tiny_archive / VISION, 1, precision).compile(len(IMAGES))
    wanted, found = exact.run(IMAGES), session.run(IMAGES)
    assert (session.input_shape, session.output_shape) == (exact.input_shape, exact.output_shape)
    assert found.dtype == torch.float32
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize("precision", RUNTIMES["openvino"])
def test_features_are_those_of_an_image_alone(tiny_archive: Path, precision: str) -> None:
    """In all bits: in any batch, after other images, in another session, and by several threads."""
    config = EncoderConfig("openvino", precision)
    first, second, third = (
        open_vision(tiny_archive / VISION, config, "cpu", threads, packed=True) for threads in (1, 1, 2)
    )
    alone = [first.run(image[None])[0] for image in IMAGES]
    for batch in (second.run(IMAGES.flip(0)).flip(0), third.run(IMAGES)):
        assert torch.equal(torch.stack(alone), batch)
    assert first.together in (1, TOGETHER)


class Sums:
    """A network that sums the values of an image, forward or backward, and notes its batches."""

    input_shape, output_shape, device = (1000,), (1,), "cpu"

    def __init__(self, *, backward: bool = False) -> None:
        self.sizes: list[int] = []
        self._step = -1 if backward else 1

    def run(self, batch: Tensor) -> Tensor:
        """The sums of the images."""
        self.sizes.append(len(batch))
        return torch.from_numpy(batch.numpy()[:, :: self._step].cumsum(axis=1)[:, -1:].copy())


def test_images_are_together_where_no_bit_changes() -> None:
    """In as few batches as there can be, but alone if sums in a batch have another order on this machine."""
    images = torch.randn(7, 1000, generator=torch.Generator().manual_seed(1))
    for backward, sizes in ((False, [3, 3]), (True, [])):
        alone, together = Sums(), Sums(backward=backward)
        session = ImageSession(alone, together, 3)
        alone.sizes.clear()
        together.sizes.clear()
        assert torch.equal(session.run(images), Sums().run(images))
        assert (together.sizes, session.together) == (sizes, 1 if backward else 3)
        assert alone.sizes == [1] * (7 - sum(sizes))


def test_openvino_is_for_archives_that_ask_for_it(tiny_archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others do not import it; where it is missing, the message says what asks for it and how to do without."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    open_vision(tiny_archive / VISION, EXACT, "cpu", 1, packed=True).run(IMAGES)
    with pytest.raises(ArchiveError, match=r"encoder\.runtime: openvino, which is not installed here.*onnxruntime"):
        open_vision(tiny_archive / VISION, EncoderConfig("openvino"), "cpu", 1, packed=True)


def test_openvino_reports_nothing(tiny_archive: Path, tmp_path: Path) -> None:
    """Its package sends a message when it is imported, if it finds openvino_telemetry."""
    (tmp_path / "openvino_telemetry").mkdir()
    (tmp_path / "openvino_telemetry" / "__init__.py").write_text("raise SystemExit('telemetry')", encoding="utf-8")
    program = "from prelim.encoding.openvino_session import import_openvino; print(import_openvino().__name__)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{tmp_path}:{Path(openvino_session.__file__).parents[2]}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "openvino\n"


def test_signals_are_handled_after_networks_were_freed(tiny_archive: Path) -> None:
    """In a process of its own, because a stack for signal handlers that is not there ends it without a message."""
    program = (
        "import os, pathlib, signal, sys\n"
        "from prelim.encoding.openvino_session import OpenVinoNetwork\n"
        "sessions = [OpenVinoNetwork(pathlib.Path(sys.argv[1])).compile() for _ in range(2)]\n"
        "while sessions: sessions.pop(0)\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled'))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_archive / VISION)],
        env={"PYTHONPATH": str(Path(openvino_session.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "handled\n")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """As with ONNX Runtime."""
    (tmp_path / VISION).write_bytes(b"no network")
    with pytest.raises(ArchiveError, match=r"vision\.onnx cannot be loaded by OpenVINO"):
        OpenVinoNetwork(tmp_path / VISION)


def test_choices() -> None:
    """Every kind of processor has an order of what each runtime has; wrong words are answered with the right ones."""
    assert FASTEST_FIRST.keys() == DECODERS.keys()
    for orders in FASTEST_FIRST.values():
        assert orders.keys() == RUNTIMES.keys()
        assert all({*order} <= {*RUNTIMES[runtime]} - {"fp32"} for runtime, order in orders.items())
    with pytest.raises(ArchiveError, match=r"encoder\.runtime is 'tvm'; allowed: onnxruntime, openvino"):
        EncoderConfig("tvm")
    with pytest.raises(ArchiveError, match=r"encoder\.precision is 'bf16'; allowed with onnxruntime: fp32, int8, auto"):
        EncoderConfig("onnxruntime", "bf16")
    with pytest.raises(ArchiveError, match=r"encoder\.connector is 'int4'; allowed with openvino: fp32, bf16, int8"):
        EncoderConfig("openvino", connector="int4")
    assert [bool(EncoderConfig(precision=precision).of_features) for precision in ("fp32", AUTO, "int8")] == [0, 0, 1]
    assert EncoderConfig(connector="int8").of_features == {}
