"""Measured peak performance of the machine, and the resulting minimum time of a decoding step.

    python -m benchmarks.decode.floor

Source of the bound: Williams, Waterman, Patterson, "Roofline", 2009: a step takes at least its bytes over the memory
bandwidth, and at least its operations over the matrix throughput.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.machine import Machine
from benchmarks.models.shapes import Shape, Work
from prelim.kernels import GROUP, fits

_REPETITIONS = 8
_BUFFER_BYTES = 1 << 29
"""Bytes of the buffer, many times the last-level cache."""
_SIDE = 2048
"""Side of the square matrices, large enough that their product is bound by arithmetic."""


@dataclass(frozen=True)
class Cost:
    """Cost of one number in a precision.

    weight    : bytes of a weight; scales are counted only for 4 bits, where they are not negligible
    scores    : the same for the output layer
    key_value : bytes of an element of the KV cache
    product   : fastest type for matrix products, a key of `Machine.operations`
    """

    weight: float
    scores: float
    key_value: float
    product: str


COSTS: Mapping[str, Cost] = {
    "fp32": Cost(4, 4, 4, "fp32"),
    "bf16": Cost(2, 2, 2, "bf16"),
    "int8": Cost(1, 1, 2, "int8"),
    # Blocks of 64 weights with one 8-bit scale; the output layer has 16 bits (Dettmers et al., QLoRA, 2023).
    "nf4": Cost(0.5 + 1 / 64, 2, 2, "bf16"),
}


@dataclass(frozen=True)
class Floor:
    """Minimum seconds of one step, and the bound that applies: "bandwidth" or "arithmetic"."""

    seconds: float
    bound: str


def floor(shape: Shape, work: Work, machine: Machine, precision: str, *, images: int, beams: int, steps: int) -> Floor:
    """The floor of one step, averaged over `steps` steps after the prefix.

    Weights are read once for all rows, the prefix once for all beams of an image, later columns once per beam.
    """
    cost = COSTS[family(precision)]
    rows = images * beams
    prefix, image = (shape.image_tokens + shape.prompt, 0) if shape.is_prefix else (1, shape.image_tokens)
    # Each beam has one column before the first of these steps, and `steps` columns before the last.
    own = (steps + 1) / 2
    cache = images * (prefix * work.key_value + image * work.image_column) + rows * own * work.key_value
    moved = (work.matrix - work.scores) * cost.weight + work.scores * cost.scores + cache * cost.key_value
    # Each row: one multiplication and one addition for each weight and for each element of the cache that it reads.
    attended = (prefix + own) * work.key_value + image * work.image_column
    operations = 2 * rows * (work.matrix + attended)
    read, computed = moved / machine.bandwidth, operations / machine.operations[cost.product]
    return Floor(max(read, computed), "bandwidth" if read >= computed else "arithmetic")


def family(precision: str) -> str:
    """The key of COSTS that a precision of a peer belongs to: "int8_dynamic" is a kind of int8."""
    return precision.partition("_")[0]


def measure_machine() -> Machine:
    """Measure the machine, in some seconds."""
    buffer = torch.ones(_BUFFER_BYTES // 4)
    target = torch.empty_like(buffer)
    read = _BUFFER_BYTES / _best(buffer.sum)
    copy = 2 * _BUFFER_BYTES / _best(lambda: target.copy_(buffer))
    operations = {kind: 2 * _SIDE**3 / min(map(_best, products)) for kind, products in _products().items()}
    return Machine(read, copy, operations)


def _products() -> dict[str, tuple[Callable[[], Tensor], ...]]:
    """Matrix products by the type of their elements, with every available kernel."""
    matrix = torch.randn(_SIDE, _SIDE)
    half = matrix.bfloat16()
    bytes_ = torch.randint(-128, 128, (_SIDE, _SIDE), dtype=torch.int8)
    # numba takes a second to import, and only this needs it.
    from prelim.kernels.product import packed_product

    units = torch.ones(_SIDE, _SIDE // GROUP, dtype=torch.bfloat16)
    ours = [packed_product(bytes_, units, None)] if fits(bytes_) else []
    return {
        "fp32": (lambda: matrix @ matrix.T,),
        "bf16": (lambda: half @ half.T,),
        # oneDNN, and our own kernel (includes quantizing its input, 1/2000 of the time).
        "int8": (lambda: torch._int_mm(bytes_, bytes_.T), *(partial(product, matrix) for product in ours)),
    }


def _best(function: Callable[[], Tensor]) -> float:
    """Seconds of the fastest of several calls, after a warm-up."""
    function()
    seconds = []
    for _ in range(_REPETITIONS):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


if __name__ == "__main__":
    with torch.inference_mode():
        print(json.dumps(dataclasses.asdict(measure_machine())))
