"""OpenVINO: one exported network with one input and one output, on a CPU."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from prelim.encoding.onnx_session import Array
from prelim.errors import ArchiveError

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}
"""Precision -> what OpenVINO computes in, apart from products of 8 bits that the file itself has."""


class OpenVinoSession:
    """A network exported by export.export_onnx, compiled for a batch of one: its bits are those of one image alone.

    path      : the .onnx file
    threads   : threads inside one operator
    precision : a key of _HINTS; bf16 is computed as fp32 by processors without it

    Raises ArchiveError when OpenVINO is not installed, and when the file is not a network with one input and one
    output.
    """

    def __init__(self, path: Path, threads: int = 1, precision: str = "fp32") -> None:
        openvino = import_openvino()
        core = openvino.Core()
        hint = _HINTS[precision]
        if hint == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            hint = "f32"
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # Other workers and the decoder's threads run on the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            model = core.read_model(path)
        except RuntimeError as error:
            raise ArchiveError(f"{path} cannot be loaded by OpenVINO: {error}") from error
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise ArchiveError(
                f"{path} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; expected one of each"
            )
        model.reshape([1, *list(model.inputs[0].partial_shape)[1:]])
        self.output_shape: tuple[int, ...] = tuple(model.outputs[0].shape[1:])
        self._request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(self, batch: Array) -> Array:
        """The network's output for a batch, its first dimension the batch in and out."""
        return np.concatenate([self._run(batch[i : i + 1]) for i in range(len(batch))])

    def _run(self, image: Array) -> Array:
        self._request.infer([np.ascontiguousarray(image)])
        # A copy, because the next image is written over it.
        return self._request.get_output_tensor(0).data.astype(np.float32, copy=True)


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
