"""What requirements.lock installs where; wheels are looked for by `make test-platforms`."""

import re
import subprocess
from itertools import product
from typing import Any

import pytest

from deploy import platforms
from launcher.install import CUDA

PLACES = list(product(platforms.PLATFORMS, platforms.PYTHONS))
LINUX_X86 = "x86_64-manylinux_2_36"


def names(platform: str, python: str) -> set[str]:
    """Packages that are installed there."""
    return {pin.partition("==")[0] for pin in platforms.locked(platform, python)}


@pytest.mark.parametrize(("platform", "python"), PLACES)
def test_each_platform_has_one_build_of_onnx_runtime(platform: str, python: str) -> None:
    """That with CUDA where it has wheels for every Python; macOS has nothing of CUDA."""
    found = names(platform, python)

    wanted = "onnxruntime-gpu" if platform == LINUX_X86 else "onnxruntime"
    assert found & {"onnxruntime", "onnxruntime-gpu"} == {wanted}
    cuda = {name for name in found if CUDA.fullmatch(name)}
    assert bool(cuda) == ("manylinux" in platform)
    assert ("atheris" in found) == (platform == LINUX_X86)


def test_every_python_has_the_same_packages() -> None:
    """So the lock that CI installs is that of the other Pythons too."""
    for platform in platforms.PLATFORMS:
        first, *others = (platforms.locked(platform, python) for python in platforms.PYTHONS)
        assert others == [first, first]


def test_the_supported_pythons_are_those_that_are_checked() -> None:
    """`requires-python` lets in exactly these."""
    text = (platforms.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    last = platforms.PYTHONS[-1].split(".")[1]
    assert f'requires-python = ">={platforms.PYTHONS[0]},<3.{int(last) + 1}"' in text
    assert f"PYTHON_VERSION={'|'.join(platforms.PYTHONS)}" in (platforms.ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda pins: pins, ""),
        (lambda pins: [*pins, "surplus==1.0"], "not in the lock: surplus==1.0"),
        (lambda pins: [pin for pin in pins if not pin.startswith("torch==")], "not needed: torch=="),
        (lambda _: None, "no wheels"),
    ],
)
def test_what_differs_from_the_lock_is_named(monkeypatch: pytest.MonkeyPatch, change: Any, fault: str) -> None:
    """A package too many or too few, and what uv says if it finds no wheel."""
    pins = change(sorted(platforms.locked(LINUX_X86, "3.11")))
    done = subprocess.CompletedProcess([], pins is None, "\n".join(pins or []), "no wheels\n")
    monkeypatch.setattr(platforms.subprocess, "run", lambda *_, **__: done)  # type: ignore[attr-defined]

    built, found = platforms.check(LINUX_X86, "3.11")

    assert built == ["yattag"]
    assert re.match(re.escape(fault), found)
    assert bool(found) == bool(fault)
