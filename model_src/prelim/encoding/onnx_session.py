"""ONNX Runtime: one exported network with one input and one output."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from prelim.errors import ArchiveError

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

# ONNX Runtime's exceptions have no common root below Exception.
_LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.RuntimeException,
)


class OnnxSession:
    """A network exported by export.export_onnx.

    path    : the .onnx file
    device  : "cpu", or PyTorch's name of a GPU, such as "cuda:1"; afterwards where the network runs: on the CPU where
              ONNX Runtime is a build without CUDA, or does not find CUDA's libraries
    threads : threads inside one operator
    packed  : a CPU multiplies with a packed copy of the weights, which is faster and not shared with other processes

    input_shape, output_shape : without the batch, 0 where a size varies

    Input and output are PyTorch's tensors, whose memory ONNX Runtime reads, and hands over, by IO binding: on a GPU
    nothing passes the host.

    Raises ArchiveError when the file is not a network with one input and one output.
    """

    def __init__(self, path: Path, device: str = "cpu", threads: int = 1, *, packed: bool = False) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads would take the cores away from the decoder, which runs in between.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # As they are, all workers read one mapped file (docs/decisions/0009-workers-share-onnx-weights.md).
        options.add_session_config_entry("session.disable_prepacking", "0" if packed else "1")
        # The arena would keep what the largest batch so far has taken.
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(path), options, providers=_providers(device))
        except _LOAD_ERRORS as error:
            raise ArchiveError(f"{path} cannot be loaded: {error}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ArchiveError(f"{path} has {len(inputs)} inputs and {len(outputs)} outputs; expected one of each")
        self._input, self._output = inputs[0].name, outputs[0].name
        self.input_shape, self.output_shape = _sizes(inputs[0].shape[1:]), _sizes(outputs[0].shape[1:])
        self.device = device if _CUDA in self._session.get_providers() else "cpu"

    def run(self, batch: Tensor) -> Tensor:
        """The network's output for a batch, its first dimension the batch in and out.

        batch   : float32, on any device
        returns : on the session's device, in memory of its own
        """
        device = torch.device(self.device)
        batch = batch.to(device).contiguous()
        place = device.type, device.index or 0
        binding = self._session.io_binding()
        binding.bind_input(self._input, *place, np.float32, tuple(batch.shape), batch.data_ptr())
        # ONNX Runtime allocates it, which knows its shape, and frees it with the tensor.
        binding.bind_output(self._output, *place)
        _wait_for_pytorch(device)
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        output: Tensor = from_dlpack(binding.get_outputs_as_ortvaluevector()[0].to_dlpack())
        return output


def _wait_for_pytorch(device: torch.device) -> None:
    """Wait for what PyTorch still writes to the batch, and reads of outputs that have been freed.

    On a GPU, ONNX Runtime has a stream of its own, and its memory is used again without regard to PyTorch's.
    """
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def _providers(device: str) -> list[Any]:
    """What runs a network on a device, best first."""
    kind, _, number = device.partition(":")
    if kind == "cpu" or _CUDA not in ort.get_available_providers():
        return [_CPU]
    return [(_CUDA, {"device_id": int(number or 0)}), _CPU]


def _sizes(shape: list[int | str]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else 0 for size in shape)
