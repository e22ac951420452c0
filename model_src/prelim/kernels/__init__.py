"""Decoding steps compiled for the processor at hand: one call a step, one team of threads, integers where they suffice.

Written in Python, and compiled by numba when a worker loads its model. Where it can't be, decoders go on with PyTorch's
operations: docs/decisions/0012-compiled-steps.md. This file imports nothing that compiles.
"""

import os
import platform
import stat
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

GROUP = 64
"""Neighboring inputs that share a scale where they are integers, so that a large one coarsens only these."""

NF4_BLOCK = 64
"""Neighboring weights of four bits that share a scale. Source: Dettmers et al., "QLoRA", 2023, section 3."""

FOUR_BITS = (-127, -96, -75, -59, -45, -32, -20, -9, 2, 13, 25, 38, 52, 69, 90, 119)
"""What the sixteen numbers of four bits stand for, in units of their group: those with the smallest squared error for
normal numbers. Source: Lloyd, "Least Squares Quantization in PCM", 1982."""

OPENMP = Path(torch.__file__).parent / "lib" / "libgomp.so.1"
"""The threads that PyTorch's operations run on."""


KEPT_IN = "PRELIM_KERNELS"
"""Variable of the environment: the folder in which compiled kernels are kept, see prelim.kernels.kept."""


def _why_not_kept(folder: str) -> str | None:
    """Why compiled kernels cannot be kept there: what is in the folder is executed, so nobody else may write in it."""
    try:
        found = Path(folder).stat()
    except OSError as error:
        return f"{KEPT_IN} is {folder}: {error.strerror}"
    if stat.S_ISDIR(found.st_mode) and found.st_uid in (0, os.geteuid()) and not found.st_mode & 0o022:
        return None
    return f"{KEPT_IN} is {folder}, which is not a folder in which only its owner may write"


@cache
def unavailable() -> str | None:
    """Why nothing can be compiled here, None where it can."""
    if platform.machine() not in ("aarch64", "arm64") and not torch.cpu._is_avx2_supported():
        return "the processor has no AVX2"
    if not OPENMP.is_file():
        return f"PyTorch has no {OPENMP.name}"
    if (folder := os.environ.get(KEPT_IN)) and (reason := _why_not_kept(folder)):
        return reason
    from numba.core import config

    # With these numba writes code for another processor than the one that its instructions are chosen for here, and
    # LLVM then ends the process.
    settings = {
        "NUMBA_DISABLE_JIT": config.DISABLE_JIT,
        "NUMBA_CPU_NAME": config.CPU_NAME,
        "NUMBA_CPU_FEATURES": config.CPU_FEATURES,
    }
    for name, value in settings.items():
        if value:
            return f"{name} is set to {value!r}; unset it"
    if not config.ENABLE_AVX and platform.machine() not in ("aarch64", "arm64"):
        return "NUMBA_ENABLE_AVX is set to 0; unset it"
    return None


def packs(dtype: torch.dtype) -> bool:
    """Whether this processor has kernels for packed weights: float32, bfloat16, int8, or uint8 for two of four bits."""
    has_numbers = {
        torch.float32: torch.cpu._is_avx512_supported,
        torch.bfloat16: torch.cpu._is_avx512_bf16_supported,
        torch.int8: torch.cpu._is_vnni_supported,
        torch.uint8: torch.cpu._is_vnni_supported,
    }.get(dtype)
    return has_numbers is not None and has_numbers() and torch.cpu._is_avx512_supported() and unavailable() is None


def rotated(x: Tensor) -> Tensor:
    """Tensor of float32, shape (..., inputs), inputs a multiple of GROUP, each group rotated; twice gives x again."""
    matrix = torch.ones(1, 1)
    while len(matrix) < GROUP:
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)])
    return (x.unflatten(-1, (-1, GROUP)) @ (matrix.to(x.device) / GROUP**0.5)).flatten(-2)


def family() -> str:
    """The kind of processor, by what is compiled for it: a key of `prelim.decoders.precision.FASTEST_FIRST`."""
    if packs(torch.int8):
        return "x86-64 with AVX512-VNNI"
    return "with compiled steps" if unavailable() is None else "without compiled steps"


def fits(weight: Tensor) -> bool:
    """Whether this processor has a kernel for these weights, shape (outputs, inputs), when they are packed.

    Of four bits, two are in one of uint8: shape (outputs, inputs / 2).
    """
    inputs = weight.shape[1] * (2 if weight.dtype == torch.uint8 else 1)
    return weight.device.type == "cpu" and inputs % GROUP == 0 and packs(weight.dtype)
