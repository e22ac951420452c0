"""Where ONNX Runtime runs a network."""

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
import torch

from prelim.archive.archive import CONNECTOR, VISION
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


def test_bound_memory_has_the_bits_of_copies(tiny_archive: Path) -> None:
    """Batches of any size, one after the other, give what arrays give; later runs, and writes to a batch, change none.

    An output is read after its session has gone, and after others of its size were freed.
    """
    for file in (VISION, CONNECTOR):
        session = OnnxSession(tiny_archive / file)
        plain, shape = session._session, session.input_shape
        name = plain.get_inputs()[0].name
        batches = [torch.randn(size, *shape, generator=torch.Generator().manual_seed(size)) for size in (1, 3, 2, 3, 1)]
        wanted = [torch.from_numpy(plain.run(None, {name: batch.numpy()})[0]) for batch in batches]

        reused, found = torch.empty(3, *shape), []
        for batch in batches:
            reused[: len(batch)] = batch
            found.append(session.run(reused[: len(batch)]))
            session.run(reused)
        # The same values where their memory has gaps.
        found += [session.run(batch.mT.contiguous().mT) for batch in batches]
        del session, plain

        assert all(map(torch.equal, found, wanted * 2))
        assert len({output.data_ptr() for output in found}) == len(found)
        found[0].zero_()
        assert torch.equal(found[1], wanted[1])


def test_nothing_is_copied_to_other_memory(tiny_archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network reads the batch where it is, and its output is the tensor that the caller gets: on a GPU both too."""
    bound: list[Any] = []

    class Binding(ort.IOBinding):
        """Notes what is bound."""

        def bind_input(self, *given: Any) -> None:
            bound.append(given)
            super().bind_input(*given)

        def get_outputs_as_ortvaluevector(self) -> Any:
            outputs = super().get_outputs_as_ortvaluevector()
            bound.append(outputs[0].data_ptr())
            return outputs

    def bind(session: ort.InferenceSession) -> Binding:
        return Binding(session)

    monkeypatch.setattr(ort.InferenceSession, "io_binding", bind)
    session = OnnxSession(tiny_archive / CONNECTOR)
    batch = torch.ones(2, *session.input_shape)

    output = session.run(batch)

    (_, device, number, _, shape, pointer), found = bound
    assert (device, number, shape, pointer) == ("cpu", 0, tuple(batch.shape), batch.data_ptr())
    assert found == output.data_ptr()
