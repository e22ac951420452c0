"""A vision encoder on a GPU: its features compared with those of a CPU, and what it costs that they stay there."""

from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.timing import each


def encoder(path: Path, device: str) -> dict[str, Any]:
    """Features of noise; times of an image are in milliseconds.

    path   : vision.onnx
    device : as PyTorch names it
    """
    try:
        from prelim.encoding.onnx_session import OnnxSession
    except ImportError as error:
        return {"left out": f"{error}; install onnxruntime-gpu"}
    session, place = OnnxSession(path, device), torch.device(device)
    if session.device == "cpu" and place.type != "cpu":
        return {"left out": "ONNX Runtime has no CUDA here; install onnxruntime-gpu"}
    pixels = torch.randn(1, *(side or 224 for side in session.input_shape), generator=torch.Generator().manual_seed(0))
    wanted, first = OnnxSession(path).run(pixels), session.run(pixels)
    # A second run, in memory that the first must not share.
    session.run(-pixels)
    found = first.cpu()
    ways = {
        "stays": lambda: session.run(pixels),
        "through the host": lambda: session.run(pixels).cpu().to(place),
    }
    return {
        "device": str(first.device),
        "largest difference": float((found - wanted).abs().max() / wanted.abs().max()),
        "MB": round(first.nbytes / 2**20, 3),
        **{f"{name} ms": round(each(way, place, 10) * 1e3, 3) for name, way in ways.items()},
    }
