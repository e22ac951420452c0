"""Runs compiled functions on PyTorch's OpenMP team, whose idle threads spin as long as GOMP_SPINCOUNT says."""

import ctypes
from typing import Any

import torch

from prelim.kernels import OPENMP


def _function(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(ctypes.CDLL(str(OPENMP)), name)
    function.restype, function.argtypes = result, arguments
    return function


_parallel = _function("GOMP_parallel", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
barrier = _function("GOMP_barrier", None)
thread_number = _function("omp_get_thread_num", ctypes.c_int)
team_size = _function("omp_get_num_threads", ctypes.c_int)


def run(function: Any, arguments: int) -> None:
    """Call a numba cfunc with one address on all threads, as `torch.get_num_threads` counts them."""
    _parallel(function.address, arguments, torch.get_num_threads(), 0)
