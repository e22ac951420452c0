"""Which packages `make install` takes on which machine; nothing is installed here."""

import importlib.util
import os
import re
import shutil
import subprocess
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
    monkeypatch.setattr("sys.argv", ["install.py", wanted, "0", "3.11"])
    monkeypatch.setattr(install, "make_environments", lambda *_: None)
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
    monkeypatch.setattr("sys.argv", ["install.py", "gpu", "0", "3.11"])

    assert install.main() == 2
    assert "allowed: auto, cuda, cpu" in capsys.readouterr().err


def test_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C says how to go on; `make` then does not take the environment for a finished one."""

    def interrupt(*_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["install.py", "auto", "0", "3.11"])
    monkeypatch.setattr(install, "make_environments", interrupt)

    assert install.main() == 130
    assert capsys.readouterr().err == "interrupted; `make install` continues\n"


@pytest.mark.parametrize(("given", "again"), [((), False), (("TORCH=auto",), False), (("TORCH=cpu",), True)])
def test_another_torch_installs_again(tmp_path: Path, given: tuple[str, ...], again: bool) -> None:
    """`make install` of what is installed does nothing, unless it is told to take another PyTorch."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv").mkdir()
    for name in ("requirements.lock", "requirements-cpu.lock", "pyproject.toml", "client/pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "launcher").mkdir()
    (tmp_path / "launcher" / "install.py").touch()
    (tmp_path / ".venv" / "installed").write_text("auto\n")
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "TORCH"}

    done = subprocess.run(
        ["make", "-n", "install", *given], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )

    assert ("launcher/install.py cpu" in done.stdout) == again
    assert again or "install.py" not in done.stdout
