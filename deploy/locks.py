"""Write the locks of an image without a GPU from the one with a GPU; run by `make locks`.

python -m deploy.locks
"""

from deploy.fill_environment import LOCKS
from launcher.install import CUDA, NEVER_ON_CPU, ROOT, TORCH, read_lock


def main() -> None:
    """Split the packages of gpu.lock; ONNX Runtime comes from requirements-cpu.lock."""
    own, torch = read_lock(ROOT / "requirements-cpu.lock"), {}
    for name, lines in read_lock(LOCKS / "gpu.lock").items():
        if not CUDA.fullmatch(name) and not TORCH.fullmatch(name):
            own[name] = lines
        elif not NEVER_ON_CPU.fullmatch(name):
            torch[name] = lines
    (LOCKS / "cpu.lock").write_text("".join(own[name] for name in sorted(own)), encoding="utf-8")
    (LOCKS / "cpu-torch.lock").write_text("".join(torch.values()), encoding="utf-8")


if __name__ == "__main__":
    main()
