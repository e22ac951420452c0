"""What the machine can do at best, measured, and the time that a decoding step must therefore take.

    python -m benchmarks.decode.floor

Source of the bound: Williams, Waterman, Patterson, "Roofline", 2009: a step takes at least its bytes over the memory
bandwidth, and at least its operations over the matrix throughput.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.models.shapes import Shape, Work

_REPETITIONS = 8
_BUFFER_BYTES = 1 << 29
"""Many times the last cache."""
_SIDE = 2048
"""Of the square matrices; large enough that their product is bound by arithmetic."""


@dataclass(frozen=True)
class Machine:
    """Best of several measurements with all threads.

    read, copy : memory bandwidth in bytes a second; a copy counts what is read and what is written
    operations : multiplications and additions a second of a matrix product, by the type of its elements
    """

    read: float
    copy: float
    operations: Mapping[str, float]

    @property
    def bandwidth(self) -> float:
        """The best bandwidth seen, bytes a second."""
        return max(self.read, self.copy)

    def best(self, other: "Machine") -> "Machine":
        """The better of two measurements, figure by figure."""
        operations = {kind: max(value, other.operations[kind]) for kind, value in self.operations.items()}
        return Machine(max(self.read, other.read), max(self.copy, other.copy), operations)


@dataclass(frozen=True)
class Cost:
    """What one number takes in a precision.

    weight    : bytes of a weight; scales are counted for 4 bits, where they are not negligible
    scores    : the same of the layer that scores words
    key_value : bytes of an element of the cache
    product   : type in which matrices are multiplied at best, a key of `Machine.operations`
    """

    weight: float
    scores: float
    key_value: float
    product: str


COSTS: Mapping[str, Cost] = {
    "fp32": Cost(4, 4, 4, "fp32"),
    "bf16": Cost(2, 2, 2, "bf16"),
    "int8": Cost(1, 1, 2, "int8"),
    # Blocks of 64 weights with one scale, itself in 8 bits; words are scored in 16 (Dettmers et al., QLoRA, 2023).
    "nf4": Cost(0.5 + 1 / 64, 2, 2, "bf16"),
}


@dataclass(frozen=True)
class Floor:
    """Seconds that one step takes at least, and which of the two bounds it is: "bandwidth" or "arithmetic"."""

    seconds: float
    bound: str


def floor(shape: Shape, work: Work, machine: Machine, precision: str, *, images: int, beams: int, steps: int) -> Floor:
    """The floor of one step, averaged over `steps` steps after the prefix.

    Weights are read once for all rows, the prefix once for all beams of an image, later columns by each beam its own.
    """
    cost = COSTS[family(precision)]
    rows = images * beams
    prefix, image = (shape.image_tokens + shape.prompt, 0) if shape.is_prefix else (1, shape.image_tokens)
    # Before the first of these steps one column of each beam is written, before the last as many as there are steps.
    own = (steps + 1) / 2
    cache = images * (prefix * work.key_value + image * work.image_column) + rows * own * work.key_value
    moved = (work.matrix - work.scores) * cost.weight + work.scores * cost.scores + cache * cost.key_value
    # Of every row: one multiplication and addition a weight, and one for every element of the cache that it looks at.
    attended = (prefix + own) * work.key_value + image * work.image_column
    operations = 2 * rows * (work.matrix + attended)
    read, computed = moved / machine.bandwidth, operations / machine.operations[cost.product]
    return Floor(max(read, computed), "bandwidth" if read >= computed else "arithmetic")


def family(precision: str) -> str:
    """The key of COSTS that a precision of a peer belongs to: "int8_dynamic" is a kind of int8."""
    return precision.partition("_")[0]


def measure_machine() -> Machine:
    """Measure; takes some seconds."""
    buffer = torch.ones(_BUFFER_BYTES // 4)
    target = torch.empty_like(buffer)
    read = _BUFFER_BYTES / _best(buffer.sum)
    copy = 2 * _BUFFER_BYTES / _best(lambda: target.copy_(buffer))
    operations = {kind: 2 * _SIDE**3 / min(map(_best, products)) for kind, products in _products().items()}
    return Machine(read, copy, operations)


def _products() -> dict[str, tuple[Callable[[], Tensor], ...]]:
    """Matrix products by the type of their elements; where there are several kernels, all of them."""
    matrix = torch.randn(_SIDE, _SIDE)
    half = matrix.bfloat16()
    bytes_ = torch.randint(-128, 128, (_SIDE, _SIDE), dtype=torch.int8)
    weight = torch.quantize_per_tensor(matrix, 0.05, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(weight, None)
    return {
        "fp32": (lambda: matrix @ matrix.T,),
        "bf16": (lambda: half @ half.T,),
        # FBGEMM with prepacked weights (quantising its input is in it, a two-thousandth), and oneDNN.
        "int8": (
            lambda: torch.ops.quantized.linear_dynamic(matrix, packed),
            lambda: torch._int_mm(bytes_, bytes_.T),
        ),
    }


def _best(function: Callable[[], Tensor]) -> float:
    """Seconds of the fastest of some calls, after one that is not counted."""
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
