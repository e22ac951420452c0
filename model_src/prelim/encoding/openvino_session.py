"""OpenVINO: one exported network with one input and one output, on a CPU."""

import functools
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prelim.errors import ArchiveError

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}
"""Precision -> what OpenVINO computes in, apart from products of 8 bits that the file itself has."""


class OpenVinoNetwork:
    """A network exported by export.export_onnx, which can be compiled for batches of several sizes.

    path      : the .onnx file
    threads   : threads inside one operator
    precision : a key of _HINTS; bf16 is computed as fp32 by processors without it

    Raises ArchiveError when OpenVINO is not installed, when the file is not a network with one input and one output,
    and for one that takes pictures of several sizes.
    """

    def __init__(self, path: Path, threads: int = 1, precision: str = "fp32") -> None:
        self._core = _core(import_openvino())
        hint = _HINTS[precision]
        if hint == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            hint = "f32"
        self._settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # Other workers and the decoder's threads run on the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            self._model = self._core.read_model(path)
        except RuntimeError as error:
            raise ArchiveError(f"{path} cannot be loaded by OpenVINO: {error}") from error
        given, found = self._model.inputs, self._model.outputs
        if len(given) != 1 or len(found) != 1:
            raise ArchiveError(f"{path} has {len(given)} inputs and {len(found)} outputs; expected one of each")
        if any(size.is_dynamic for size in list(given[0].partial_shape)[1:]):
            raise ArchiveError(f"{path} takes pictures of several sizes: set encoder.runtime to onnxruntime")

    def compile(self, images: int = 1) -> "OpenVinoSession":
        """The network for batches of so many images. Those compiled before stay, and have packed weights of their own.

        Sizes that may vary would share these, but then bits depend on the size.
        """
        self._model.reshape([images, *list(self._model.inputs[0].partial_shape)[1:]])
        shapes = (tuple(end.shape[1:]) for end in (self._model.inputs[0], self._model.outputs[0]))
        return OpenVinoSession(self._core.compile_model(self._model, "CPU", self._settings), *shapes)


class OpenVinoSession:
    """A network that OpenVINO has compiled for batches of one size; see Session."""

    device = "cpu"

    def __init__(self, compiled: Any, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
        self.input_shape, self.output_shape = input_shape, output_shape
        self._request = compiled.create_infer_request()

    def run(self, batch: Tensor) -> Tensor:
        """The network's output for a batch, its first dimension the batch in and out."""
        self._request.infer([batch.contiguous().numpy()])
        # A copy, because the next batch is written over it.
        return torch.tensor(self._request.get_output_tensor(0).data, dtype=torch.float32)


@functools.cache
def _core(openvino: Any) -> Any:
    """The process's one core, never freed.

    Each core gives the thread that makes it a stack for signal handlers, and unmaps that stack when it is freed. Of two
    cores, freed in the order they were made, the second puts the first one's stack back: the next signal that Python
    handles, such as Ctrl-C, then ends the process with SIGSEGV. Source: openvinotoolkit/openvino pull request 11894.
    """
    return openvino.Core()


def import_openvino() -> Any:
    """OpenVINO without its telemetry, which would report the import over the network.

    Raises ArchiveError where it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise ArchiveError(
            "model.yaml has encoder.runtime: openvino, which is not installed here; install the extra `openvino` of "
            "prelim, or package the model with encoder.runtime: onnxruntime"
        ) from None
    return openvino
