"""Which packages `make install` takes on which machine; nothing is installed here."""

import importlib.util
import re
from pathlib import Path

import pytest

from launcher import install
from launcher.environment import ROOT

LOCKED = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(encoding="utf-8")))


def test_locked_set_for_a_cpu_leaves_out_what_torch_does_not_load() -> None:
    """Triton, cuSOLVER and the GPU build of ONNX Runtime are left out; its CPU build has the same version."""
    left_out = {name for name in LOCKED if install.NEVER_ON_CPU.fullmatch(name)}

    assert {"triton", "nvidia-cusolver", "onnxruntime-gpu", "cuda-bindings"} <= left_out
    assert not left_out & {"torch", "torchvision", "nvidia-cublas", "nvidia-cudnn-cu13"}
    cpu = (ROOT / "requirements-cpu.lock").read_text(encoding="utf-8")
    assert cpu.startswith(f"onnxruntime=={LOCKED['onnxruntime-gpu']} ")


@pytest.mark.parametrize(
    "case",
    [
        ("auto", True, True, "with CUDA: about"),
        ("cuda", False, False, "with CUDA: about"),
        ("auto", False, True, "CPU builds of PyTorch: about"),
        ("auto", False, False, "parts of CUDA are needed: about"),
        ("cpu", True, False, "parts of CUDA are needed: about"),
    ],
)
def test_choice_and_size_are_printed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: tuple[str, bool, bool, str],
) -> None:
    """What is installed follows from the GPU, the index and TORCH, and is said before it begins."""
    wanted, gpu, reachable, said = case
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr("sys.argv", ["install.py", wanted, "0"])
    monkeypatch.setattr(install, "make_environments", lambda _: None)
    monkeypatch.setattr(install, "has_gpu", lambda: gpu)
    monkeypatch.setattr(install, "answers", lambda _: reachable)
    monkeypatch.setattr(install, "install", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(install, "compile_bytecode", lambda *_: calls.append(("bytecode",)))
    monkeypatch.setattr(install, "without", lambda names: names.pattern)
    monkeypatch.setattr(install, "size_gb", lambda _: 1.0)

    assert install.main() == 0
    assert said in capsys.readouterr().out
    assert any("--torch-backend" in call for call in calls) == ("CPU builds of" in said)
    assert any("requirements.lock" in call for call in calls) == ("with CUDA" in said)
    assert calls[-1] == ("bytecode",)


@pytest.mark.parametrize("package", ["torch", "transformers", "onnxruntime", "ts"])
def test_packages_are_installed_with_their_bytecode(package: str) -> None:
    """Under PYTHONDONTWRITEBYTECODE, only the installation can have written it."""
    spec = importlib.util.find_spec(package)

    assert spec is not None
    assert spec.cached is not None
    assert Path(spec.cached).is_file()


def test_unknown_choice_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """TORCH=gpu is answered with what is allowed."""
    monkeypatch.setattr("sys.argv", ["install.py", "gpu", "0"])

    assert install.main() == 2
    assert "allowed: auto, cuda, cpu" in capsys.readouterr().err


def test_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C says how to go on; `make` then does not take the environment for a finished one."""

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["install.py", "auto", "0"])
    monkeypatch.setattr(install, "make_environments", interrupt)

    assert install.main() == 130
    assert capsys.readouterr().err == "interrupted; `make install` continues\n"
