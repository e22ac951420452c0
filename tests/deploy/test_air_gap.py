"""A real bundle on a machine that has only loopback: installed, serving, upgraded, rolled back."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.bundle import write_sums
from launcher.environment import ROOT
from launcher.sample_radiograph import sample_radiograph
from tests.deploy.namespaces import USER, Program, loopback_only

pytestmark = [pytest.mark.image, pytest.mark.timeout(3600)]

SYSTEM_PYTHON = "/usr/bin/python3.11"
CLIENT = [ROOT / ".venv" / "bin" / "python", "-m", "prelim_client"]


@pytest.fixture(scope="module")
def machine() -> Iterator[Path]:
    """A folder of several gigabytes that every user can read."""
    with tempfile.TemporaryDirectory(prefix="prelim-machine-", dir=os.environ.get("MACHINE")) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def bundles(machine: Path, tiny_mar: Path) -> tuple[Path, Path]:
    """The bundle of `make bundle`, and a later one, which has another archive too."""
    first, second = machine / "bundle 1", machine / "bundle 2"
    command = [ROOT / ".venv" / "bin" / "python", "-m", "deploy.bundle", first, "--archives", "model_store/demo.mar"]
    subprocess.run(command, cwd=ROOT, check=True)
    subprocess.run(["cp", "--archive", "--link", first, second], check=True)
    shutil.copy(tiny_mar, second / "archives")
    described = json.loads((first / "bundle.json").read_text(encoding="utf-8"))
    for name in ("bundle.json", "SHA256SUMS"):
        (second / name).unlink()
    (second / "bundle.json").write_text(json.dumps(described | {"version": "99.0"}), encoding="utf-8")
    write_sums(second)
    return first, second


def serve(network: list[str], folder: Path, state: Path, output: Path) -> Program:
    """Start the current release as an ordinary user, as a service manager does."""
    state.mkdir(exist_ok=True)
    os.chown(state, USER, USER)
    as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs", "env"]
    settings = ["PATH=/usr/bin:/bin", f"HOME={state}", f"PRELIM_FOLDER={state}"]
    clean = ["--ignore-environment", f"--chdir={folder / 'current'}", *settings]
    return Program([*network, *as_user, *clean, ".venv/bin/python", "-m", "launcher", "serve"], output)


def test_install_serve_upgrade_roll_back(bundles: tuple[Path, Path], machine: Path, tmp_path: Path) -> None:
    """Every step runs in a network namespace that has only loopback; each release serves its own archives."""
    first, second = bundles
    folder, state = machine / "opt", machine / "state"
    image = tmp_path / "chest.dcm"
    image.write_bytes(sample_radiograph())
    python = os.environ | {"PYTHON": SYSTEM_PYTHON}
    steps = (
        ([first / "install.sh", folder], {"demo"}),
        ([second / "install.sh", folder], {"demo", "tiny"}),
        ([second / "install.sh", "--rollback", folder], {"demo"}),
    )
    with loopback_only() as network:
        for number, (command, models) in enumerate(steps):
            subprocess.run([*network, *command], env=python, check=True)
            server = serve(network, folder, state, tmp_path / f"{number}.log")
            try:
                for model in models:
                    server.wait_for(f"/predictions/{model}")
                assert server.said.count("ready at ") == len(models)
                key = ["--key-file", state / "key_file.json", "--url", "http://127.0.0.1:8080"]
                for model in models:
                    report = [*network, *CLIENT, image, "--model", model, *key]
                    done = subprocess.run(report, cwd=ROOT, capture_output=True, text=True, check=False)
                    assert done.stdout.startswith("UNVERIFIED"), done.stderr
                assert server.terminate() == 0
            finally:
                server.kill()
    assert len(list((folder / "releases").iterdir())) == 2
