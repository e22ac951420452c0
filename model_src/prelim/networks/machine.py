"""Measured peak performance of the machine, for lower bounds of times.

Source of such bounds: Williams, Waterman, Patterson, "Roofline", 2009: a step takes at least its bytes over the memory
bandwidth, and at least its operations over the matrix throughput.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

PRODUCTS: Mapping[str, str] = {"fp32": "fp32", "bf16": "bf16", "int8": "int8", "int4": "int8", "nf4": "bf16"}
"""Family of precisions -> fastest type for its matrix products, a key of `Machine.operations`."""

_REPETITIONS = 8
_BUFFER_BYTES = 1 << 29
"""Bytes of the buffer, many times the last-level cache."""
_SIDE = 2048
"""Side of the square matrices, large enough that their product is bound by arithmetic."""


@dataclass(frozen=True)
class Machine:
    """Peak performance, the best of several measurements with all threads.

    read, copy : memory bandwidth in bytes a second; a copy counts bytes read and bytes written
    operations : multiplications and additions a second of a matrix product, by the type of its elements
    """

    read: float
    copy: float
    operations: Mapping[str, float]

    @property
    def bandwidth(self) -> float:
        """The best bandwidth seen, bytes a second."""
        return max(self.read, self.copy)

    def rate(self, precision: str) -> float:
        """Operations a second of the fastest products of a precision."""
        return self.operations[PRODUCTS[family(precision)]]

    def best(self, other: "Machine") -> "Machine":
        """The better of two measurements, figure by figure."""
        operations = {kind: max(value, other.operations[kind]) for kind, value in self.operations.items()}
        return Machine(max(self.read, other.read), max(self.copy, other.copy), operations)


def family(precision: str) -> str:
    """The family of a precision: "int8_dynamic" is a kind of int8."""
    return precision.partition("_")[0]


def measure_machine(kinds: Collection[str] = ("fp32", "bf16", "int8")) -> Machine:
    """Measure the machine, in some seconds.

    kinds : types of products to measure, values of PRODUCTS
    """
    # Imported here because PyTorch takes seconds to import, and most users read results.
    import torch

    with torch.inference_mode():
        buffer = torch.ones(_BUFFER_BYTES // 4)
        target = torch.empty_like(buffer)
        read = _BUFFER_BYTES / _best(buffer.sum)
        copy = 2 * _BUFFER_BYTES / _best(lambda: target.copy_(buffer))
        operations = {kind: 2 * _SIDE**3 / min(map(_best, _products(kind))) for kind in kinds}
    return Machine(read, copy, operations)


def _products(kind: str) -> tuple[Callable[[], Any], ...]:
    """Matrix products of elements of a type, with every available kernel."""
    import torch

    matrix = torch.randn(_SIDE, _SIDE)
    if kind != "int8":
        cast = matrix if kind == "fp32" else matrix.bfloat16()
        return (lambda: cast @ cast.T,)
    # numba takes a second to import, and only this needs it.
    from prelim.kernels import GROUP, fits
    from prelim.kernels.product import packed_product

    bytes_ = torch.randint(-128, 128, (_SIDE, _SIDE), dtype=torch.int8)
    units = torch.ones(_SIDE, _SIDE // GROUP, dtype=torch.bfloat16)
    ours = [packed_product(bytes_, units, None)] if fits(bytes_) else []
    # oneDNN, and our own kernel (includes quantizing its input, 1/2000 of the time).
    return (lambda: torch._int_mm(bytes_, bytes_.T), *(partial(product, matrix) for product in ours))


def _best(function: Callable[[], Any]) -> float:
    """Seconds of the fastest of several calls, after a warm-up."""
    function()
    seconds = []
    for _ in range(_REPETITIONS):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
