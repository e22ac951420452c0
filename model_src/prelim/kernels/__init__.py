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

from prelim.kernels import instructions

GROUP = 64
"""Neighboring inputs that share a scale where they are integers, so that a large one coarsens only these."""

ROWS_TOGETHER = 192
"""Rows, such as tokens of a prefix, that share one reading of weights from memory where there are many."""

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
    if instructions.chosen() is None:
        return instructions.why_none()
    if not OPENMP.is_file():
        return f"PyTorch has no {OPENMP.name}"
    if (folder := os.environ.get(KEPT_IN)) and (reason := _why_not_kept(folder)):
        return reason
    from numba.core import config

    # With these numba writes code for another processor than the one that its instructions are chosen for here, and
    # LLVM then ends the process. Where instructions are forced, prelim.kernels.kept sets two of them.
    cpu, features = instructions.restricted_to() or (None, None)
    settings = {
        "NUMBA_DISABLE_JIT": (config.DISABLE_JIT, None),
        "NUMBA_CPU_NAME": (config.CPU_NAME, cpu),
        "NUMBA_CPU_FEATURES": (config.CPU_FEATURES, features),
    }
    for name, (value, ours) in settings.items():
        if value and value != ours:
            return f"{name} is set to {value!r}; unset it"
    if not config.ENABLE_AVX and platform.machine() not in ("aarch64", "arm64"):
        return "NUMBA_ENABLE_AVX is set to 0; unset it"
    return None


def packs(dtype: torch.dtype) -> bool:
    """Whether this processor has kernels for packed weights: float32, bfloat16, int8, or uint8 for two of four bits."""
    chosen = instructions.chosen()
    if chosen is None or unavailable() is not None:
        return False
    if dtype in (torch.int8, torch.uint8):
        return chosen.integers is not None
    return dtype in (torch.float32, torch.bfloat16)


def rotated(x: Tensor) -> Tensor:
    """Tensor of float32, shape (..., inputs), inputs a multiple of GROUP, each group rotated; twice gives x again."""
    matrix = torch.ones(1, 1)
    while len(matrix) < GROUP:
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)])
    return (x.unflatten(-1, (-1, GROUP)) @ (matrix.to(x.device) / GROUP**0.5)).flatten(-2)


GPU = "GPU"
"""The kind of processor of all GPUs."""


def family(device: str = "cpu") -> str:
    """The kind of processor, by what is compiled for it: a key of `prelim.decoders.precision.FASTEST_FIRST`.

    device : PyTorch's name
    """
    if device != "cpu":
        return GPU
    chosen = instructions.chosen()
    return "without compiled steps" if chosen is None or unavailable() is not None else chosen.family


def fits(weight: Tensor) -> bool:
    """Whether this processor has a kernel for these weights, shape (outputs, inputs), when they are packed.

    Of four bits, two are in one of uint8: shape (outputs, inputs / 2).
    """
    inputs = weight.shape[1] * (2 if weight.dtype == torch.uint8 else 1)
    return weight.device.type == "cpu" and inputs % GROUP == 0 and packs(weight.dtype)
