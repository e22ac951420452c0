"""The library installs as a wheel, alone, and the README's five lines write a report with it."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("model_src", "pyproject.toml", "README.md", "LICENSE")
BUILD = "from setuptools import build_meta; build_meta.build_wheel('dist')"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the files that it needs by the backend that `pip wheel .` calls."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    (folder / "dist").mkdir()
    subprocess.run([sys.executable, "-c", BUILD], cwd=folder, check=True, capture_output=True)
    (built,) = (folder / "dist").glob("prelim-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel]
    subprocess.run(install, check=True, capture_output=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # The folder named in a .pth file is searched, but its own .pth files are not read: this checkout stays unseen.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python


def test_wheel_holds_the_library_and_its_license(wheel: Path) -> None:
    """Only the package `prelim`, with the license; nothing of the programs around it."""
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()

    assert {name.split("/")[0].split("-")[0] for name in names} == {"prelim"}
    assert "prelim/report_generator.py" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_five_lines_of_the_readme_write_a_report(python: Path, demo_mar: Path, tmp_path: Path) -> None:
    """The README's example, in an environment that has only the wheel and its dependencies, gives the answer shown."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", readme, re.M | re.S)
    (answer,) = re.findall(r"^```json\n(.*?)^```$", readme, re.M | re.S)
    (tmp_path / "model_store").symlink_to(demo_mar.parent)
    (tmp_path / "docs" / "images").mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "images" / "chest.jpg", tmp_path / "docs" / "images")

    code += """
import json
from dataclasses import asdict
known = {name: getattr(report, name) for name in ("finish_reason", "num_tokens", "avg_logprob", "warnings")}
known["alternatives"] = list(report.alternatives)
known["sentences"] = [asdict(sentence) for sentence in report.sentences]
known["sections"] = {"findings": report.findings, "impression": report.impression}
print(json.dumps(known))
"""
    done = subprocess.run([python, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    printed, values = done.stdout.splitlines()
    shown, given = json.loads(answer), json.loads(values)
    assert printed == f"UNVERIFIED {shown['report']}"
    # All but what is of the archive, and times, which are of a machine.
    description = yaml.safe_load((ROOT / "models" / "demo" / "model.yaml").read_text(encoding="utf-8"))
    [said], [found] = shown.pop("sentences"), given.pop("sentences")
    assert (said["text"], said["confirm"]) == (found["text"], found["confirm"])
    assert said["confidence"] == pytest.approx(found["confidence"], abs=0.01)
    assert shown.pop("avg_logprob") == pytest.approx(given.pop("avg_logprob"), abs=1e-4)
    assert {name: shown[name] for name in given} == given
    assert shown["model"]["version"] == str(description["version"])
