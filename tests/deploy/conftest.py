"""A bundle that takes seconds to install: one tiny package, and a launcher that accepts any archive but one."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.bundle import INSTALLER, SCRIPT, copy_files, fetch_wheels, write_sums
from deploy.fill_environment import make_pip

CHECK = """\
import sys, tiny
from pathlib import Path
texts = {path.name: path.read_text() for path in Path("model_store").iterdir()}
sys.exit("model.mar: refused" if "forged" in texts.values() else 0)
"""


class FakeBundle:
    """A bundle in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run its install.sh, with an index that nobody answers at."""
        environment = os.environ | {"PYTHON": sys.executable, "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
        command = [self.folder / "install.sh", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def write_wheel(folder: Path, version: str) -> Path:
    """A wheel of the package `tiny`, whose only module knows its version; and its lock."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"tiny-{version}.dist-info"
    files = {
        "tiny.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    wheel = folder / f"tiny-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for name, text in (files | {f"{info}/RECORD": record}).items():
            file.writestr(name, text)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (folder / "tiny.lock").write_text(f"tiny=={version} --hash=sha256:{digest}\n", encoding="utf-8")
    return wheel


@pytest.fixture(scope="session")
def pip(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """pip, in an environment that takes seconds to make."""
    return make_pip(tmp_path_factory.mktemp("tools"))


@pytest.fixture
def make_bundle(tmp_path: Path, pip: list[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], FakeBundle]:
    """Makes bundles of a version, with an archive that says the version."""
    for module in ("bundle", "fill_environment"):
        monkeypatch.setattr(f"deploy.{module}.make_pip", lambda _: pip)

    def make(version: str) -> FakeBundle:
        folder, source = tmp_path / f"bundle {version}", tmp_path / f"source {version}"
        wheel = write_wheel(source, version)
        copy_files((*INSTALLER, "launcher/__init__.py", "launcher/install.py", "terminal"), folder / "tree")
        (folder / "tree" / "launcher" / "__main__.py").write_text(CHECK, encoding="utf-8")
        fetch_wheels([["--no-index", "--find-links", str(source), "-r", str(source / "tiny.lock")]], folder / "wheels")
        assert [path.name for path in (folder / "wheels").glob("*.whl")] == [wheel.name]
        (folder / "archives").mkdir()
        (folder / "archives" / "model.mar").write_text(version, encoding="utf-8")
        (folder / "bundle.json").write_text(json.dumps({"version": version, "target": "gpu"}), encoding="utf-8")
        (folder / "install.sh").write_text(SCRIPT, encoding="utf-8")
        (folder / "install.sh").chmod(0o755)
        write_sums(folder)
        return FakeBundle(folder)

    return make
