"""What runs vision.onnx and connector.onnx, as model.yaml says: images together where that changes no bit."""

import math
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from prelim.archive.encoder_config import EncoderConfig
from prelim.encoding.onnx_session import OnnxSession
from prelim.encoding.openvino_session import OpenVinoNetwork

TOGETHER = 4
"""Images that OpenVINO encodes faster together than one by one. ONNX Runtime does not (docs/decisions/0018, 0060)."""

LARGEST_TOGETHER = 3 * 384**2
"""Values of an image up to which several are encoded together. Larger ones have rows enough to keep a core busy alone,
and several of them take gigabytes.
"""


class Session(Protocol):
    """A network with one input and one output, float32; the first dimension of both is the batch.

    input_shape, output_shape : without the batch, 0 where a size varies
    device : where it runs
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    device: str

    def run(self, batch: Tensor) -> Tensor:
        """The network's output for a batch, on its device; nothing writes over it later."""


class ImageSession:
    """A network whose output for an image has the same bits alone and in any batch, on this machine.

    Several images are computed together only if noise has given the same bits so as one by one, at every place and with
    other neighbors. Kernels choose the order of their sums by shapes and never by values, and among thousands of sums
    of noise another order would show.

    together : computes `size` images together, if that is proven; None: there is nothing to try
    """

    def __init__(self, alone: Session, together: Session | None = None, size: int = TOGETHER) -> None:
        self.input_shape, self.output_shape, self.device = alone.input_shape, alone.output_shape, alone.device
        self.together = 1
        self._alone = self._several = alone
        if together is not None and _same_bits(alone, together, size):
            self.together, self._several = size, together

    def run(self, batch: Tensor) -> Tensor:
        """The network's output for a batch."""
        whole = len(batch) - len(batch) % self.together
        outputs = [self._several.run(batch[i : i + self.together]) for i in range(0, whole, self.together)]
        outputs += [self._alone.run(image[None]) for image in batch[whole:]]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def open_vision(
    path: Path, encoder: EncoderConfig, device: str = "cpu", threads: int = 1, *, packed: bool = False
) -> ImageSession:
    """The vision encoder of a file.

    device : of OnnxSession, which runs the file on a GPU, whatever runs it on a CPU
    packed : of OnnxSession; OpenVINO always has a copy of its own

    Raises ArchiveError as the sessions do.
    """
    if encoder.runtime == "openvino" and device == "cpu":
        network = OpenVinoNetwork(path, threads, encoder.precision)
        alone = network.compile()
        small = math.prod(alone.input_shape) <= LARGEST_TOGETHER
        return ImageSession(alone, network.compile(TOGETHER) if small else None)
    return ImageSession(OnnxSession(path, device, threads, packed=packed))


def open_connector(
    path: Path, encoder: EncoderConfig, device: str = "cpu", threads: int = 1, *, packed: bool = False
) -> ImageSession:
    """The connector of a file, for one image at a time; arguments and errors are those of `open_vision`."""
    if encoder.runtime == "openvino" and not encoder.is_exact("connector") and device == "cpu":
        return ImageSession(OpenVinoNetwork(path, threads, encoder.connector).compile())
    return ImageSession(OnnxSession(path, device, threads, packed=packed))


def _same_bits(alone: Session, together: Session, size: int) -> bool:
    """Whether a batch gives images of noise the bits that they have alone; each image is at two places."""
    shape = alone.input_shape
    contrast = np.geomspace(1, 0.1, size, dtype=np.float32).reshape(-1, *[1] * len(shape))
    noise = torch.from_numpy(contrast * np.random.default_rng(0).standard_normal((size, *shape), dtype=np.float32))
    wanted = torch.cat([alone.run(image[None]) for image in noise])
    # No bit is NaN, which equals nothing.
    return torch.equal(together.run(noise), wanted) and torch.equal(together.run(noise.flip(0)), wanted.flip(0))
