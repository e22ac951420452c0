"""What computes a report besides its archive: the processor, and the libraries that the archive does not have."""

import contextlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8")
"""Flags of /proc/cpuinfo that decide which kernels a library uses."""

LIBRARIES = (
    *("torch", "numpy", "numba", "llvmlite", "onnxruntime", "onnxruntime-gpu", "openvino", "tokenizers", "llguidance"),
    "safetensors",
    *("pillow", "imagecodecs", "simplejpeg", "tifffile", "pydicom", "python-gdcm"),
)
"""Distributions between the bytes of an image and the bits of a report."""


def read_cpuinfo() -> dict[str, str]:
    """The first value of each field of /proc/cpuinfo; empty on a system that has no such file."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    return fields


def describe_processor(device: str = "cpu") -> str:
    """Name of the processor and, of a CPU, those of INSTRUCTIONS that it has, and those that decoding is forced to.

    device : "cpu", or PyTorch's name of a GPU
    """
    if device != "cpu":
        import torch

        return str(torch.cuda.get_device_name(device))
    # Imports PyTorch too.
    from prelim.kernels.instructions import FORCED_BY

    forced = os.environ.get(FORCED_BY)
    fields = read_cpuinfo()
    known = fields.get("flags", "").split()
    name = fields.get("model name") or platform.processor() or platform.machine()
    return " ".join(
        [name, *(flag for flag in INSTRUCTIONS if flag in known), *([f"{FORCED_BY}={forced}"] if forced else [])]
    )


def library_versions() -> dict[str, str]:
    """Version of Python and of each of LIBRARIES that is installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
