"""Where a worker computes, and what it says of that when it starts."""

import torch

from handlers.journal import log
from prelim.decoders.precision import ON_A_GPU


def choose_device(gpu_id: int | None) -> str:
    """PyTorch's name of the GPU that TorchServe has given this worker, else "cpu"; the log says why, if it gave one."""
    if gpu_id is None:
        return "cpu"
    if torch.cuda.is_available():
        return f"cuda:{gpu_id}"
    build = f"was built for CUDA {torch.version.cuda}" if torch.version.cuda else "is a build without CUDA"
    log("no_gpu", reason=f"TorchServe assigned GPU {gpu_id}, which PyTorch cannot use; PyTorch {build}")
    return "cpu"


def warn_of_gpu(device: str, encoder_device: str, precision: str) -> None:
    """Say what a worker that decodes on a GPU does not do there, or does slowly."""
    if device == "cpu":
        return
    if encoder_device == "cpu":
        log("encoder_on_cpu", reason="ONNX Runtime cannot use CUDA here; onnxruntime-gpu and its CUDA libraries can")
    if precision not in ON_A_GPU:
        log("slow_precision", precision=precision, faster_on_a_gpu=", ".join(ON_A_GPU))
