"""Runs compiled functions on PyTorch's OpenMP team, whose idle threads spin as long as GOMP_SPINCOUNT says."""

import ctypes
from typing import Any

import llvmlite.binding as llvm
import torch
from numba import types
from numba.core.typing import signature

from prelim.kernels import OPENMP
from prelim.kernels.kept import Kernel

_OPENMP = ctypes.CDLL(str(OPENMP))


def _function(name: str, result: Any) -> Any:
    """A function for numba, which finds it by a name of ours; an address would be of this process only."""
    symbol = f"prelim_{name}"
    llvm.add_symbol(symbol, ctypes.cast(getattr(_OPENMP, name), ctypes.c_void_p).value)
    return types.ExternalFunction(symbol, signature(result))


_parallel = _OPENMP.GOMP_parallel
_parallel.restype = None
_parallel.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
barrier = _function("GOMP_barrier", types.void)
thread_number = _function("omp_get_thread_num", types.intc)
team_size = _function("omp_get_num_threads", types.intc)


def run(kernel: Kernel, arguments: int) -> None:
    """Call a kernel with one address on all threads, as `torch.get_num_threads` counts them."""
    _parallel(kernel.address, arguments, torch.get_num_threads(), 0)
