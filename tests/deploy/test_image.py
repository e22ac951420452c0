"""The image, built from a clean checkout: its command runs as an ordinary user on a read-only root, and answers."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import prelim
from launcher.environment import ROOT
from launcher.sample_radiograph import sample_radiograph
from tests.deploy.namespaces import USER, Program, in_container, loopback_only

pytestmark = [pytest.mark.image, pytest.mark.timeout(3600)]

IMAGE = f"prelim:{prelim.__version__}-cpu"
CLIENT = [ROOT / ".venv" / "bin" / "python", "-m", "prelim_client"]
CURL = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*"]


def run(command: list[str | Path], at: Path = ROOT) -> str:
    """Run a command to its end; what it prints."""
    done = subprocess.run(command, cwd=at, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


@dataclass
class Image:
    """The files of an image, and what it says of its command."""

    root: Path
    config: dict[str, Any]
    layers: str


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The CPU image of the last commit; a finished build is taken up again from buildah's storage."""
    checkout = tmp_path_factory.mktemp("clean") / "checkout"
    run(["git", "clone", "--quiet", ROOT, checkout])
    layers = run(["sh", "deploy/image/build.sh", "cpu", os.environ.get("BASE", "bootstrap")], checkout)
    container = run(["buildah", "from", "--pull-never", IMAGE])
    try:
        config = json.loads(run(["buildah", "inspect", "--type", "image", IMAGE]))["OCIv1"]["config"]
        yield Image(Path(run(["buildah", "mount", container])), config, layers)
    finally:
        run(["buildah", "rm", container])


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The container's /tmp."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@contextmanager
def started(  # noqa: PLR0917 - places and a command
    image: Image, temporary: Path, network: list[str], command: list[str], output: Path, first: Program | None = None
) -> Iterator[Program]:
    """A container of the image in a network, with the archives of `make archive`; see `in_container`."""
    inside = in_container(image.root, temporary, ROOT / "model_store", image.config, command, first)
    program = Program([*network, *inside], output)
    try:
        yield program
    finally:
        program.kill()


def test_command_of_the_image_answers(image: Image, temporary: Path, tmp_path: Path) -> None:
    """A report from the server and, through the gateway in a second container, a report and DICOM documents.

    They share /tmp, processes and the network, which has only loopback, as the containers of a pod do.
    """
    assert image.config["User"] == f"{USER}:{USER}"
    command, site = image.config["Cmd"], "http://127.0.0.1:8088"
    gateway_command = [command[0], "-m", "launcher.gateway", "serve"]
    dicom = tmp_path / "chest.dcm"
    dicom.write_bytes(sample_radiograph())
    with loopback_only() as network, started(image, temporary, network, command, tmp_path / "log") as server:
        server.wait_for("ready at http://127.0.0.1:8080/predictions/demo")
        assert set(server.main.uids()) == {USER}

        keys = temporary / "prelim" / "key_file.json"
        report = [*network, *CLIENT, dicom, "--url", "http://127.0.0.1:8080", "--key-file", keys]
        assert run(report).startswith("UNVERIFIED")

        with started(image, temporary, network, gateway_command, tmp_path / "gateway.log", server) as gateway:
            gateway.wait_for(f"open {site}")
            curl = [*network, *CURL]
            answer = run([*curl, "--upload-file", dicom, "-X", "POST", f"{site}/predictions/demo"])
            assert json.loads(answer)["status"] == "UNVERIFIED"
            for kind, content in (("sr", b"UNVERIFIED"), ("pdf", b"%PDF")):
                document = tmp_path / kind
                run([*curl, "-F", f"image=@{dicom}", f"{site}/drafts/{kind}", "--output", document])
                assert document.read_bytes()[128:132] == b"DICM"
                assert content in document.read_bytes()
            assert gateway.terminate() == 0

        assert server.terminate() == 0
        assert "the server has been stopped" in server.said
    assert not keys.exists()


def test_nothing_else_can_be_written(image: Image, temporary: Path, tmp_path: Path) -> None:
    """The root and the archives are read-only, the user is not root, and no program gives him more rights."""
    touch = "touch /opt/prelim/x /var/lib/prelim/model_store/x /etc/x 2>&1"
    command = ["sh", "-c", f"id -u; {touch}; find / -xdev -perm /6000 -type f 2>/dev/null"]
    with loopback_only() as network, started(image, temporary, network, command, tmp_path / "log") as shell:
        shell.wait(60)
        user, *refused = shell.said.strip().splitlines()

    assert user == str(USER)
    assert len(refused) == 3
    assert all("Read-only file system" in line for line in refused)


def test_image_is_as_small_as_documented(image: Image) -> None:
    """The sizes in docs/container.md are those of this build, within a tenth."""
    megabytes = float(image.layers.splitlines()[-1].split()[0])
    text = (ROOT / "docs" / "container.md").read_text(encoding="utf-8")
    (documented,) = [line for line in text.splitlines() if line.startswith("| image, cpu")]

    assert abs(megabytes / 1000 - float(documented.split("|")[2].split()[0])) < 0.1 * megabytes / 1000
