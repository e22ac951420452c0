"""Where ONNX Runtime runs a network."""

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from prelim.archive.archive import CONNECTOR
from prelim.encoding.onnx_session import OnnxSession

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
BUILDS = {"without CUDA": ([CPU], [CPU]), "no libraries": ([CUDA, CPU], [CPU]), "CUDA": ([CUDA, CPU], [CUDA, CPU])}
"""Build of ONNX Runtime -> the providers that it has, and those that a session gets if it wants all."""


@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cpu", None)])
@pytest.mark.parametrize("build", BUILDS)
def test_a_worker_s_gpu_is_used_where_it_can_be(
    tiny_archive: Path, monkeypatch: pytest.MonkeyPatch, device: str, number: int | None, build: str
) -> None:
    """By the names that PyTorch has for GPUs; otherwise the network runs on the CPU, and says so."""
    available, gotten = BUILDS[build]
    wanted: list[Any] = []

    class Session(ort.InferenceSession):
        def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
            wanted.extend(providers)
            super().__init__(path, options, providers=[CPU])

        def get_providers(self) -> list[str]:
            return gotten if CUDA in wanted[0] else [CPU]

    monkeypatch.setattr(ort, "get_available_providers", lambda: available)
    monkeypatch.setattr(ort, "InferenceSession", Session)

    session = OnnxSession(tiny_archive / CONNECTOR, device)

    on_gpu = number is not None and CUDA in available
    assert wanted == ([(CUDA, {"device_id": number}), CPU] if on_gpu else [CPU])
    assert session.device == (device if on_gpu and CUDA in gotten else "cpu")
