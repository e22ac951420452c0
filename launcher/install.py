"""Install all dependencies into .venv; run by `make install` with any Python, so only with its standard library.

python launcher/install.py auto|cuda|cpu VERSION_OF_UV VERSION_OF_PYTHON

cuda : everything in requirements.lock that is for this platform
cpu  : without CUDA. PyTorch comes from its index of CPU builds if that can be reached within seconds; otherwise the
       locked build is taken with those CUDA libraries that it needs to be imported.
auto : cuda if the machine has an NVIDIA GPU, otherwise cpu
"""

import platform
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"
UV = ROOT / "build" / "uv" / "bin"
"""Of the environment that has only uv."""

CPU_INDEX = "https://download.pytorch.org/whl/cpu/torch/"

GB_CUDA, GB_CPU_LOCKED, GB_CPU = 7.8, 6.3, 2.8
"""Sizes on disk, with bytecode: two are measured, the third is the second without CUDA and with a smaller PyTorch."""

TORCH = re.compile(r"torch|torchvision")
NEVER_ON_CPU = re.compile(r"triton|onnxruntime-gpu|cuda-.*|nvidia-(cusolver|nvtx|cuda-cccl)")
"""`import torch` loads every other CUDA library of the locked build."""
CUDA = re.compile(NEVER_ON_CPU.pattern + "|nvidia-.*")


def main() -> int:
    """Make both environments and fill .venv; the exit code."""
    wanted, version, python = sys.argv[1:]
    if wanted not in ("auto", "cuda", "cpu"):
        print(f"TORCH is {wanted!r}; allowed: auto, cuda, cpu", file=sys.stderr)
        return 2
    try:
        make_environments(version, python)
        fill_environment(wanted)
        compile_bytecode(PYTHON, ROOT / ".venv" / "lib")
    except subprocess.CalledProcessError as error:
        print(error.stderr or "", end="", file=sys.stderr)
        return error.returncode
    except KeyboardInterrupt:
        print("interrupted; `make install` continues", file=sys.stderr)
        return 130
    print(f"installed: {size_gb(ROOT / '.venv'):.1f} GB in .venv", flush=True)
    return 0


def make_environments(version: str, python: str) -> None:
    """Make build/uv and .venv; uv finds the wanted Python, or fetches it, regardless of the Python that runs this.

    What these commands print is shown only if they fail: Python's own modules answer Ctrl-C with a traceback.
    """
    for command in (
        [sys.executable, "-m", "venv", str(UV.parent)],
        [str(UV / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"uv=={version}"],
        [str(UV / "uv"), "venv", "--quiet", "--allow-existing", "--python", python, ".venv"],
    ):
        subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.PIPE, text=True)


def fill_environment(wanted: str) -> None:
    """Choose the packages, say what is chosen, install them."""
    cuda = wanted == "cuda" or (wanted == "auto" and has_gpu())
    index = not cuda and answers(CPU_INDEX)
    if cuda:
        say("with CUDA", GB_CUDA)
        install("--require-hashes", "-r", "requirements.lock")
    elif not index or not install_cpu_builds():
        say("without a GPU; PyTorch's index of CPU builds cannot be used, so parts of CUDA are needed", GB_CPU_LOCKED)
        install("--require-hashes", "-r", without(NEVER_ON_CPU), "-r", "requirements-cpu.lock")
    install("--no-build-isolation", "--editable", ".", "--editable", "client")


def install_cpu_builds() -> bool:
    """Install PyTorch's CPU builds and the locked rest; False if the index fails."""
    say("without a GPU, CPU builds of PyTorch", GB_CPU)
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    builds = [f"{name}=={version}" for name, version in re.findall(r"(?m)^(torch|torchvision)==(\S+)", lock)]
    try:
        install("--torch-backend", "cpu", *builds)
    except subprocess.CalledProcessError:
        return False
    both = re.compile(f"{CUDA.pattern}|{TORCH.pattern}")
    install("--require-hashes", "-r", without(both), "-r", "requirements-cpu.lock")
    return True


def has_gpu() -> bool:
    """Whether the driver of an NVIDIA GPU is loaded."""
    return any(Path("/proc/driver/nvidia/gpus").glob("*")) or Path("/dev/nvidia0").exists()


def answers(url: str) -> bool:
    """Whether an address answers within five seconds, through the proxy of the environment if there is one."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5):  # noqa: S310 - a constant
            return True
    except (OSError, ValueError):
        return False


def without(names: "re.Pattern[str]") -> str:
    """A copy of requirements.lock without some packages; its path."""
    packages = read_lock(ROOT / "requirements.lock")
    path = ROOT / "build" / "requirements.lock"
    path.write_text("".join(text for name, text in packages.items() if not names.fullmatch(name)), encoding="utf-8")
    return str(path)


def read_lock(file: Path) -> "dict[str, str]":
    """Package -> its lines in a lock, with version and hashes."""
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", file.read_text(encoding="utf-8"))
    return {block.partition("==")[0]: block for block in blocks if "==" in block}


def install(*arguments: str) -> None:
    """Run uv, which shows its progress. Dependencies are those of the lock."""
    subprocess.run(
        [str(UV / "uv"), "pip", "install", "--python", str(PYTHON), "--no-deps", *arguments], cwd=ROOT, check=True
    )


def compile_bytecode(python: Path, folder: Path) -> None:
    """Compile a folder once: uv does not, and a process without bytecode takes three times as long to import packages.

    Python would write it on the first import, but not under PYTHONDONTWRITEBYTECODE or for a user who may only read.
    """
    # PyTorch has a file whose syntax is that of Python 3.12, so the exit code is 1.
    subprocess.run([python, "-m", "compileall", "-qq", "-j", "0", folder], check=False)


def say(chosen: str, gigabytes: float) -> None:
    """Announce what is installed."""
    print(
        f"installing for {platform.system()} {platform.machine()}, {chosen}: about {gigabytes} GB in .venv", flush=True
    )


def size_gb(folder: Path) -> float:
    """Size of a folder's files."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink()) / 1e9


if __name__ == "__main__":
    sys.exit(main())
