"""Tensors in files: safetensors, written tensor by tensor and read memory-mapped."""

import ctypes
import json
import math
import mmap
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
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

BLOCK = 2**24
"""Numbers of a tensor that are converted at once."""

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

    make   : gives it, of this shape and dtype
    blocks : gives it in blocks of rows, where these take less memory than the whole; see `by_rows`
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]
    blocks: Callable[[], Iterator[Tensor]] | None = None


Weights = Mapping[str, Tensor | LazyTensor]
"""By name."""


def materialize(tensor: Tensor | LazyTensor) -> Tensor:
    """A tensor, whether it is there already or not."""
    return tensor.make() if isinstance(tensor, LazyTensor) else tensor


def row_blocks(tensor: Tensor) -> Iterator[Tensor]:
    """Its rows in blocks of BLOCK numbers or a few less, of a multiple of 64 rows; numbers alone in one."""
    if not tensor.ndim:
        yield tensor
    else:
        rows = max(BLOCK // max(math.prod(tensor.shape[1:]), 1) // 64 * 64, 64)
        for start in range(0, max(len(tensor), 1), rows):
            yield tensor[start : start + rows]


def write_weights(path: Path, weights: Weights, mapped: Sequence[Tensor] = ()) -> None:
    """Write tensors as safetensors, one after another: of lazy or memory-mapped ones only one is in memory.

    mapped : tensors of a file, of which these are made; what was read of them is now and then taken out of memory

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
        begin, read = file.tell(), 0
        # In the order in which they are given, so that what is made of the same tensors is made together.
        for name, tensor in weights.items():
            file.seek(begin + header[name]["data_offsets"][0])
            for block in _checked_blocks(name, tensor):
                written = file.write(block.reshape(-1).view(torch.uint8).numpy().data)
                bar.update(written)
                read += written
                if read >= _LET_GO_AFTER:
                    read = 0
                    let_go(*mapped)
    let_go(*mapped)
    part.replace(path)


def _checked_blocks(name: str, tensor: Tensor | LazyTensor) -> Iterator[Tensor]:
    """A tensor in blocks of rows that can be written. Raises ArchiveError as `write_weights` does."""
    in_blocks = isinstance(tensor, LazyTensor) and tensor.blocks
    shape: tuple[int, ...] = ()
    for block in in_blocks() if in_blocks else row_blocks(materialize(tensor)):
        shape = (sum(shape[:1]) + len(block), *block.shape[1:]) if block.ndim else ()
        if block.dtype != tensor.dtype:
            break
        if block.is_floating_point() and not block.isfinite().all():
            raise ArchiveError(f"{name} has NaN or infinite values: its file is damaged, or its training diverged")
        yield block.detach().cpu().contiguous()
    if (shape, block.dtype) != (tensor.shape, tensor.dtype):
        raise ArchiveError(f"{name} was materialized as {block.dtype} {shape}, declared otherwise")


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


_LET_GO_AFTER = 2**27
"""Bytes that are written before pages of what they were made of leave memory."""

_PAGE_OUT = 21
"""Linux' MADV_PAGEOUT, which Python has no name for."""


def let_go(*tensors: Tensor) -> None:
    """Take tensors' pages out of memory where they are those of a file: reading them again brings them back.

    For what has been copied, and is not read again soon. Where the system cannot do it, nothing happens.
    """
    for tensor in tensors:
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
