"""A worker says where it computes."""

import logging

import pytest
import torch

from handlers.device import choose_device, warn_of_gpu
from tests.handlers.frontend import events


@pytest.mark.parametrize(
    ("gpu_id", "usable", "device"), [(None, True, "cpu"), (None, False, "cpu"), (1, True, "cuda:1"), (0, False, "cpu")]
)
def test_device_is_the_one_that_torchserve_gave(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, gpu_id: int | None, usable: bool, device: str
) -> None:
    """Where PyTorch can use it; otherwise the log says which one it cannot use."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)

    assert choose_device(gpu_id) == device

    lines = [line["reason"] for line in events(caplog, "no_gpu")]
    assert len(lines) == (gpu_id is not None and not usable)
    assert all("GPU 0" in line for line in lines)


@pytest.mark.parametrize(
    ("device", "encoder", "precision", "said"),
    [
        ("cpu", "cpu", "int8_dynamic", []),
        ("cuda:0", "cuda:0", "bf16", []),
        ("cuda:0", "cpu", "bf16", ["encoder_on_cpu"]),
        ("cuda:0", "cuda:0", "int8_dynamic", ["slow_precision"]),
    ],
)
def test_what_a_gpu_does_not_do_is_said(
    caplog: pytest.LogCaptureFixture, device: str, encoder: str, precision: str, said: list[str]
) -> None:
    """Images that are encoded on the CPU, and a precision that is made for CPUs."""
    caplog.set_level(logging.INFO)

    warn_of_gpu(device, encoder, precision)

    assert [name for name in ("encoder_on_cpu", "slow_precision") if events(caplog, name)] == said
