"""Fill an environment with the locked packages, and cut it to what serving needs.

python3.11 -m deploy.fill_environment /opt/prelim/.venv --target cpu

It runs on machines that have only Python 3.11, so only with the standard library. Every file is checked against the
hashes of a lock. The locks are in deploy/image:

gpu.lock       : everything
cpu.lock       : without PyTorch and without CUDA
cpu-torch.lock : the PyTorch build that has CUDA, with those NVIDIA libraries that `import torch` loads. With
                 --torch-index, an index of CPU builds, and --torch-sha256, the CPU build replaces it.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from launcher.install import compile_bytecode
from terminal.arguments import CommandLine

LOCKS = Path(__file__).resolve().parent / "image"
TARGETS = ("cpu", "gpu")
WHEELS_LOCK = "requirements.lock"
"""Lock of a folder of wheels, next to them."""

IMPORTED = "import bitsandbytes, numba, onnxruntime, torch"
"""The packages whose libraries are kept where a process that imports them has them in its memory."""

LIBRARIES = ("nvidia/**/*", "torch/lib/*", "bitsandbytes/*.so")
"""Files that stay only if they are loaded without a GPU. CUDA's packages have headers and device code too."""

UNUSED = ("**/tests", "torch/include", "torch/share", "pydicom/data/test_files")
"""What no program of this project reads."""

ONE_OF = {"torch/bin": "torch_shm_manager", "data_store/data": "RG1_UNCR.dcm"}
"""Folder -> the only file of it that is read: by `import torch`, and as the sample of the page."""


class InstallError(Exception):
    """The installation cannot go on. The message says why and what to do."""

    for_users = True


def main() -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("folder", type=Path, help="of the environment; must not exist")
    parser.add_argument("--target", choices=TARGETS, required=True)
    add_torch_options(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as tools:
        locked = locked_packages(arguments.target, Path(tools), arguments.torch_index, arguments.torch_sha256)
        fill(arguments.folder, locked, cut=arguments.target == "cpu")


def add_torch_options(parser: CommandLine) -> None:
    """Add the options that say where PyTorch's CPU build comes from."""
    parser.add_argument("--torch-index", default="", help="index of CPU builds of PyTorch")
    parser.add_argument("--torch-sha256", default="", help="of the wheel in that index")


def locked_packages(target: str, folder: Path, torch_index: str, torch_sha256: str) -> list[list[str]]:
    """Arguments for pip, one list for each call, that name all packages of a target.

    folder : for a lock of the CPU build

    Raises InstallError for an index without a hash, and for a hash that is not one.
    """
    if target == "gpu":
        return [["-r", str(LOCKS / "gpu.lock")]]
    own = ["-r", str(LOCKS / "cpu.lock")]
    if not torch_index:
        return [own, ["-r", str(LOCKS / "cpu-torch.lock")]]
    if not re.fullmatch("[0-9a-f]{64}", torch_sha256):
        raise InstallError(
            f"torch_sha256 is {torch_sha256!r}; allowed: the 64 hexadecimal digits that the index has for the wheel"
        )
    found = re.search(r"(?m)^torch==(\S+)", (LOCKS / "cpu-torch.lock").read_text(encoding="utf-8"))
    if found is None:
        raise InstallError("deploy/image/cpu-torch.lock has no torch")
    lock = folder / "torch.lock"
    lock.write_text(f"torch=={found[1]}+cpu --hash=sha256:{torch_sha256}\n", encoding="utf-8")
    return [own, ["--index-url", torch_index, "-r", str(lock)]]


def fill(folder: Path, locked: Sequence[Sequence[str]], *, wheels: Path | None = None, cut: bool = False) -> None:
    """Make an environment and install packages into it.

    locked : arguments for pip; ignored if there are wheels, which have their own lock
    wheels : take packages from this folder, and from no index, whatever the machine's settings of pip say
    cut    : remove what serving on a CPU does not need

    Raises InstallError, with pip's reason.
    """
    environment = dict(os.environ)
    if wheels is not None:
        locked = [["--no-index", "--find-links", str(wheels), "-r", str(wheels / WHEELS_LOCK)]]
        environment = {name: value for name, value in environment.items() if not name.startswith("PIP_")}
        environment["PIP_CONFIG_FILE"] = os.devnull
    run([sys.executable, "-m", "venv", "--without-pip", str(folder)], "the environment could not be made")
    python = folder / "bin" / "python"
    with tempfile.TemporaryDirectory() as tools:
        pip = make_pip(Path(tools))
        for packages in locked:
            install = ["install", "--no-deps", "--require-hashes", "--no-compile", "--quiet", *packages]
            run([*pip, "--python", str(python), *install], "the packages could not be installed", environment)
    site = find_site(folder)
    # What an editable installation does: the code of this project is next to the environment.
    (site / "prelim.pth").write_text("../../../../model_src\n../../../../client\n", encoding="utf-8")
    if cut:
        remove_unused(site, loaded_files(python))
        loaded_files(python)
    compile_bytecode(python, folder / "lib")


def make_pip(folder: Path) -> list[str]:
    """The command of the pip that comes with Python, in an environment of its own. Raises InstallError without it."""
    run([sys.executable, "-m", "venv", str(folder)], "Python has no pip; Debian has it in the package python3-venv")
    return [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]


def find_site(folder: Path) -> Path:
    """The site-packages of an environment."""
    (site,) = folder.glob("lib/python3*/site-packages")
    return site


def loaded_files(python: Path) -> set[Path]:
    """Files that are in the memory of a process that has imported what serving imports.

    Raises InstallError if an import fails.
    """
    code = f"{IMPORTED}; print(open('/proc/self/maps').read())"
    maps = run([str(python), "-I", "-c", code], "the packages cannot be imported")
    return {Path(found) for found in re.findall(r"(?m)^\S+ \S+ \S+ \S+ \S+ +(/.+)$", maps)}


def remove_unused(site: Path, loaded: Collection[Path]) -> None:
    """Remove libraries that are not loaded, and what nothing reads.

    loaded : as the process sees them: without symbolic links
    """
    for pattern in LIBRARIES:
        for path in site.glob(pattern):
            kept = path.is_dir() or path.suffix == ".py" or path.resolve() in loaded or "license" in path.name.lower()
            if not kept:
                path.unlink()
    for pattern in UNUSED:
        for folder in list(site.glob(pattern)):
            shutil.rmtree(folder)
    for name, kept_name in ONE_OF.items():
        for path in site.joinpath(name).glob("*"):
            if path.is_file() and path.name != kept_name:
                path.unlink()


def run(
    command: Sequence[str], fault: str, environment: Mapping[str, str] | None = None, at: Path | None = None
) -> str:
    """Run a command to its end; what it prints. Raises InstallError with the end of what it said if it fails."""
    done = subprocess.run(command, env=environment, cwd=at, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InstallError(f"{fault}:\n{(done.stdout + done.stderr).strip()[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
