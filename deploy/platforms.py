"""Look for a wheel of every locked package on every platform and Python; nothing is installed.

python -m deploy.platforms

On each, the requirements of pyproject.toml resolve to exactly what the markers of requirements.lock leave there. It
asks the package index, so it is `make test-platforms` and no test.
"""

import os
import re
import subprocess
import sys

from packaging.markers import Marker

from launcher.install import ROOT, UV

LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
DARWIN = {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"}

PLATFORMS = {
    "x86_64-manylinux_2_36": {**LINUX, "platform_machine": "x86_64"},
    "aarch64-manylinux_2_36": {**LINUX, "platform_machine": "aarch64"},
    "aarch64-apple-darwin": {**DARWIN, "platform_machine": "arm64"},
}
"""As uv names them -> what markers ask. Debian 12 has glibc 2.36; OpenVINO on aarch64 needs 2.35."""

PYTHONS = ("3.11", "3.12", "3.13")

MACOS = "14.0"
"""The oldest that PyTorch has wheels for."""

SOURCES_ONLY = {"yattag": "", "gevent": "aarch64-apple-darwin, Python 3.11"}
"""Packages without a wheel, and where; "" is everywhere. The first is of Python alone, the other is for load tests."""

NOT_LOCKED = ("openvino-telemetry",)
"""What `make locks` leaves out."""

PIN = re.compile(r"(?m)^([\w.-]+==[^\s;\\]+)(?: ; (.*?))?(?: \\)?$")


def main() -> None:
    """Print a line for each platform and Python; exit code 1 if one lacks something."""
    faults = 0
    for platform in PLATFORMS:
        for python in PYTHONS:
            built, fault = check(platform, python)
            said = f"a wheel of every locked package but {', '.join(built)}"
            print(f"{platform}, Python {python}: {fault or said}", flush=True)
            faults += bool(fault)
    sys.exit(faults > 0)


def locked(platform: str, python: str) -> set[str]:
    """`name==version` of what the lock installs on a platform."""
    environment = {
        **PLATFORMS[platform],
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "python_version": python,
        "python_full_version": f"{python}.0",
    }
    lines = PIN.findall((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    return {pin for pin, marker in lines if not marker or Marker(marker).evaluate(environment)}


def check(platform: str, python: str) -> tuple[list[str], str]:
    """Packages that are built from sources there, and what is wrong with the lock; "" if nothing is."""
    built = [name for name, where in SOURCES_ONLY.items() if where in f"{platform}, Python {python}"]
    command = [str(UV / "uv"), "pip", "compile", "pyproject.toml", "--constraints", "requirements.lock"]
    command += ["--all-extras", "--group", "dev", "--quiet", "--no-header", "--no-annotate"]
    command += ["--python-platform", platform, "--python-version", python, "--only-binary", ":all:"]
    command += [word for name in built for word in ("--no-binary", name)]
    command += [word for name in NOT_LOCKED for word in ("--no-emit-package", name)]
    macos = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": MACOS}
    done = subprocess.run(command, cwd=ROOT, env=macos, capture_output=True, text=True, check=False)
    if done.returncode:
        return built, done.stderr.strip()
    found, pinned = {pin for pin, _ in PIN.findall(done.stdout)}, locked(platform, python)
    surplus = [f"not in the lock: {pin}" for pin in sorted(found - pinned)]
    return built, "; ".join([*surplus, *(f"not needed: {pin}" for pin in sorted(pinned - found))])


if __name__ == "__main__":
    main()
