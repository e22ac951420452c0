"""What runs vision.onnx, as model.yaml says."""

from pathlib import Path
from typing import Protocol

from prelim.archive.encoder_config import EncoderConfig
from prelim.encoding.onnx_session import Array, OnnxSession
from prelim.encoding.openvino_session import OpenVinoSession


class Session(Protocol):
    """A network with one input and one output; the first dimension of both is the batch.

    output_shape : without the batch
    """

    output_shape: tuple[int, ...]

    def run(self, batch: Array) -> Array:
        """The network's output for a batch."""


def open_vision(
    path: Path, encoder: EncoderConfig, device: str = "cpu", threads: int = 1, *, packed: bool = False
) -> Session:
    """The vision encoder of a file.

    device : "cpu" or "cuda", where ONNX Runtime runs the file, whatever runs it on a CPU
    packed : of OnnxSession; OpenVINO always has a copy of its own

    Raises ArchiveError as the sessions do.
    """
    if encoder.runtime == "openvino" and device == "cpu":
        return OpenVinoSession(path, threads, encoder.precision)
    return OnnxSession(path, device, threads, packed=packed)
