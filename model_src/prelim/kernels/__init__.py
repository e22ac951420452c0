"""Decoding steps compiled for the processor at hand: one call a step, one team of threads, integers where they suffice.

Written in Python, and compiled by numba when a worker loads its model. Where the processor lacks the
instructions, decoders go on with PyTorch's operations: docs/decisions/0012-compiled-steps.md. This file imports nothing
that compiles.
"""

from pathlib import Path

import torch
from torch import Tensor

GROUP = 64
"""Neighbouring inputs that share a scale where they are integers, so that a large one coarsens only these."""

OPENMP = Path(torch.__file__).parent / "lib" / "libgomp.so.1"
"""The threads that PyTorch's operations run on."""


def fits(weight: Tensor) -> bool:
    """Whether this processor has kernels for weights of shape (outputs, inputs), of int8, bfloat16 or float32."""
    has_numbers = {
        torch.float32: torch.cpu._is_avx512_supported,
        torch.bfloat16: torch.cpu._is_avx512_bf16_supported,
        torch.int8: torch.cpu._is_vnni_supported,
    }.get(weight.dtype)
    return (
        has_numbers is not None
        and has_numbers()
        and torch.cpu._is_avx512_supported()
        and weight.device.type == "cpu"
        and weight.shape[1] % GROUP == 0
        and OPENMP.is_file()
    )
