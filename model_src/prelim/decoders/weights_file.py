"""Tensors in files: safetensors, written tensor by tensor and read memory-mapped."""

import ctypes
import json
import math
import mmap
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from prelim.errors import ArchiveError, reason_of

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector of today's CPUs."""

PROGRESS_FROM = 1_000_000_000
"""Bytes from which writing weights shows how far it is."""

_SAFETENSORS_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def is_storable(dtype: torch.dtype) -> bool:
    """Whether `write_weights` can write tensors of this dtype."""
    return dtype in _SAFETENSORS_TYPES


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is made when it is written, so that not all of a large model need be in memory.

    make : gives it, of this shape and dtype
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]


Weights = Mapping[str, Tensor | LazyTensor]
"""By name."""


def materialize(tensor: Tensor | LazyTensor) -> Tensor:
    """A tensor, whether it is there already or not."""
    return tensor.make() if isinstance(tensor, LazyTensor) else tensor


def write_weights(path: Path, weights: Weights) -> None:
    """Write tensors as safetensors, one after another: of lazy or memory-mapped ones only one is in memory.

    A file that is there already is replaced at the end: some of the tensors may be mapped from it.

    Raises ArchiveError for a tensor with NaN or infinite values.
    """
    # Whole cache lines first, then the widest elements: each tensor lies where vectors of it can be read in place.
    names = sorted(
        weights, key=lambda name: (_bytes(weights[name]) % ALIGNMENT > 0, -weights[name].dtype.itemsize, name)
    )
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        tensor = weights[name]
        start, end = end, end + _bytes(tensor)
        kind = _SAFETENSORS_TYPES[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-(len(encoded) + 8) % ALIGNMENT)
    hidden = None if end >= PROGRESS_FROM else True  # None shows the bar on a terminal only
    bar = tqdm(total=end, unit="B", unit_scale=True, desc=path.name, leave=False, disable=hidden)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file, bar:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name in names:
            tensor = weights[name]
            values = materialize(tensor)
            if (values.shape, values.dtype) != (tensor.shape, tensor.dtype):
                raise ArchiveError(
                    f"{name} was materialized as {values.dtype} {tuple(values.shape)}, declared otherwise"
                )
            if values.is_floating_point() and not values.isfinite().all():
                raise ArchiveError(f"{name} has NaN or infinite values: its file is damaged, or its training diverged")
            contiguous = values.detach().cpu().contiguous()
            bar.update(file.write(contiguous.reshape(-1).view(torch.uint8).numpy().data))
    part.replace(path)


def _bytes(tensor: Tensor | LazyTensor) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, memory-mapped: processes that read the same file share its pages.

    Raises ArchiveError when the file cannot be read.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ArchiveError(f"{path} cannot be read: {reason_of(error)}") from error


_PAGE_OUT = 21
"""Linux' MADV_PAGEOUT, which Python has no name for."""


def let_go(tensor: Tensor) -> None:
    """Take a tensor's pages out of memory where they are those of a file: reading it again brings them back.

    For what has been copied, and is not read again soon. Where the system cannot do it, nothing happens.
    """
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size()
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if sys.platform == "linux" and tensor.is_contiguous() and first < last:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _PAGE_OUT)


def load_weights(module: nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    """Give a module its weights without a copy. Raises ArchiveError as `check_weights` does."""
    check_weights(module, weights, source)
    module.load_state_dict(weights, assign=True)


def check_weights(module: nn.Module, weights: Weights, source: Path) -> None:
    """Raise ArchiveError that lists missing, unknown and mis-shaped keys."""
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    faults = [f"{name} is missing" for name in expected.keys() - found.keys()]
    faults += [f"{name} is unknown" for name in found.keys() - expected.keys()]
    faults += [
        f"{name} has shape {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    if faults:
        raise ArchiveError(f"{source} does not fit model.yaml: " + "; ".join(sorted(faults)))
