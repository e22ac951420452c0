"""The launcher on a real TorchServe: in a clone whose path has a space, with a proxy that does not answer."""

import json
import re
import signal
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from launcher.archives import check_archive
from launcher.ports import free_ports, replace_ports
from launcher.process import find_server
from prelim_client.answers import read_key
from prelim_client.http_client import HttpClient
from tests.archives import rewrite
from tests.launcher.conftest import Clone
from tests.tiny_model import png

pytestmark = pytest.mark.server


def client(clone: Clone, timeout: float = 120) -> HttpClient:
    """A client of the clone's server."""
    return HttpClient(f"http://127.0.0.1:{clone.ports[0]}", read_key(clone.key_file), "tiny", timeout)


def test_start_status_report(shared_clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is started once, serves and tells where it is."""
    clone = shared_clone
    clone.launch("stop")
    started = clone.launch("start")
    assert started.returncode == 0, started.stderr
    url = f"http://127.0.0.1:{clone.ports[0]}/predictions/tiny"
    sha256 = check_archive(clone.archive).sha256
    assert f"ready at {url} (report: curl " in started.stdout
    assert sha256 in started.stdout

    running, keys = find_server(clone.temporary), clone.key_file.read_bytes()
    again = clone.launch("start")
    assert (again.returncode, clone.key_file.read_bytes()) == (1, keys)
    assert running is not None
    assert f"runs already (process {running.pid})" in again.stderr

    assert not [log.name for log in (clone.folder / "logs").glob("*.log") if log.stat().st_mode & 0o077]
    image = clone.folder / "chest.png"
    image.write_bytes(png())
    where = f"--url http://127.0.0.1:{clone.ports[0]} --model tiny"
    report = clone.shell(f".venv/bin/python -m prelim_client chest.png {where}")
    assert report.stdout.startswith("UNVERIFIED"), report.stderr
    over_grpc = clone.shell(
        f".venv/bin/python -m prelim_client chest.png --grpc --model tiny --url 127.0.0.1:{clone.ports[3]}"
    )
    assert over_grpc.stdout.startswith("UNVERIFIED"), over_grpc.stderr
    for name, proxy in clone.environment.items():
        if name.lower().endswith("_proxy"):
            monkeypatch.setenv(name, proxy)
    assert client(clone).report(png())["model"]["sha256"] == sha256
    assert clone.launch("status").returncode == 0


def test_a_second_clone_is_refused(running: Clone, make_clone: Callable[..., Clone]) -> None:
    """On the same ports, before it does anything; its `torchserve --stop` stops nobody."""
    second = make_clone(running.ports)
    keys = running.key_file.read_bytes()

    refused = second.launch("start")
    stopped = second.shell("source ./env.sh && torchserve --stop")

    assert refused.returncode == 1
    assert f"port {running.ports[0]} on 127.0.0.1 cannot be used" in refused.stderr
    assert "inference_address in config.properties" in refused.stderr
    assert not second.key_file.exists()
    assert "not currently running" in stopped.stdout
    assert running.key_file.read_bytes() == keys
    assert client(running).report(png())["status"] == "UNVERIFIED"


def test_leftovers_of_a_crash_are_removed(running: Clone) -> None:
    """What a killed server has unpacked is gone after the next start, and so is its pid file."""
    killed = find_server(running.temporary)
    assert killed is not None

    def unpacked() -> set[Path]:
        # Next to each lies the lock of its worker.
        return {path for path in (running.temporary / "models").iterdir() if path.is_dir()}

    before = unpacked()
    assert len(before) == 1
    killed.kill()

    assert running.launch("start").returncode == 0

    assert len(unpacked()) == len(unpacked() - before) == 1
    assert client(running).report(png())["status"] == "UNVERIFIED"


def test_stop_drains_and_leaves_nothing_behind(running: Clone) -> None:
    """Every request that was asked before is answered."""
    clone = running
    answers: list[object] = []
    asking = [
        threading.Thread(target=lambda seed=seed: answers.append(client(clone).report(png(seed), num_beams=16)))
        for seed in range(12)
    ]
    for thread in asking:
        thread.start()
    time.sleep(0.3)
    stopped = clone.launch("stop")
    for thread in asking:
        thread.join()
    assert stopped.returncode == 0, stopped.stderr
    assert len(answers) == len(asking)
    assert find_server(clone.temporary) is None
    assert clone.leftovers() == []
    assert clone.launch("status").returncode == 1
    assert clone.launch("stop").returncode == 0


def test_queue_is_measured_once(clone: Clone) -> None:
    """The first start measures and loads again; the next one knows. A second start leaves the keys of the first alone.

    That one is in the same folder, with other ports and another temporary folder.
    """
    measured = clone.launch("start", "--queue", "0")
    assert measured.returncode == 0, measured.stderr
    places = int(re.search(r"at most (\d+) requests may wait", measured.stdout)[1])  # type: ignore[index]
    (described,) = json.loads(
        requests.get(
            f"http://127.0.0.1:{clone.ports[1]}/models/tiny",
            headers={"Authorization": f"Bearer {read_key(clone.key_file, 'management')}"},
            timeout=30,
        ).content
    )
    assert described["jobQueueStatus"]["remainingCapacity"] == places
    assert clone.launch("stop").returncode == 0
    assert clone.leftovers() == []

    again = clone.launch("start", "--queue", "0")
    assert again.returncode == 0, again.stderr
    assert "may wait" not in again.stdout
    keys = clone.key_file.read_bytes()
    config = clone.folder / "config.properties"
    config.write_text(replace_ports(config.read_text(encoding="utf-8"), free_ports(5)), encoding="utf-8")
    other = clone.folder / "tmp"
    other.mkdir()
    second = clone.shell(f"TMPDIR='{other}' .venv/bin/python -m launcher start --queue 100")
    assert second.returncode == 1
    assert "runs already" in second.stderr
    assert clone.key_file.read_bytes() == keys


def test_torchserve_by_itself_keeps_working(clone: Clone) -> None:
    """`torchserve --start` after `source env.sh` serves; the launcher sees it, and either of the two stops it."""
    clone.shell("source ./env.sh && torchserve --start --ncs > out.txt 2>&1 < /dev/null")
    deadline = time.monotonic() + 120
    while clone.launch("status").returncode and time.monotonic() < deadline:
        time.sleep(1)

    assert client(clone).report(png())["status"] == "UNVERIFIED"
    assert clone.launch("start").returncode == 1
    assert clone.launch("stop").returncode == 0
    assert find_server(clone.temporary) is None
    assert clone.leftovers() == []


def test_damaged_archive_is_refused_before_it_is_unpacked(clone: Clone) -> None:
    """One added file and one flipped bit, and no process is started; the message names the file."""
    with zipfile.ZipFile(clone.archive) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(clone.archive, "w") as archive:
        for name, contents in (files | {"json.py": b"raise SystemExit('executed')"}).items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, contents)

    refused = clone.launch("start")

    assert refused.returncode == 1
    assert "json.py is not in manifest.json" in refused.stderr
    assert not (clone.folder / "logs").exists()
    assert clone.leftovers() == []


def test_model_that_does_not_load_ends_the_start(clone: Clone) -> None:
    """The exit code is 1, the reason is the handler's, and no server is left."""

    def change(folder: Path) -> None:
        path = folder / "model-config.yaml"
        path.write_text(path.read_text(encoding="utf-8").replace("heartbeat_s:", "heartbeats:"), encoding="utf-8")

    rewrite(clone.archive, change)

    failed = clone.launch("start")

    assert failed.returncode == 1, failed.stdout
    assert "tiny cannot be loaded: model-config.yaml: prelim has the unknown key 'heartbeats'" in failed.stderr
    assert find_server(clone.temporary) is None
    assert clone.leftovers() == []


@pytest.mark.parametrize("command", ["start", "serve"])
def test_interrupt_leaves_nothing_behind(clone: Clone, command: str) -> None:
    """Ctrl-C while the models load ends the server too."""
    launcher = clone.popen(command)
    deadline = time.monotonic() + 60
    while find_server(clone.temporary) is None and time.monotonic() < deadline:
        time.sleep(0.1)

    launcher.send_signal(signal.SIGINT)
    output, _ = launcher.communicate(timeout=60)

    assert launcher.returncode == 130
    assert output.endswith("interrupted\n")
    assert find_server(clone.temporary) is None
    assert clone.leftovers() == []


def test_foreground_server_ends_with_ctrl_c(clone: Clone) -> None:
    """`serve` prints where the server is and its log, and waits for open requests when it is interrupted."""
    launcher = clone.popen("serve")
    assert launcher.stdout is not None
    for line in launcher.stdout:
        if line.startswith("ready at "):
            break
    answers: list[object] = []
    asking = threading.Thread(target=lambda: answers.append(client(clone).report(png(), num_beams=16)))
    asking.start()
    time.sleep(0.1)
    launcher.send_signal(signal.SIGINT)
    output, _ = launcher.communicate(timeout=120)
    asking.join()

    assert launcher.returncode == 0
    assert output.endswith("the server has been stopped\n")
    assert len(answers) == 1
    assert clone.leftovers() == []


def test_make_targets_and_settings(clone: Clone) -> None:
    """`make -n` names the launcher; an archive is built again when it is asked for with other settings."""
    for target in ("serve", "start", "stop", "status"):
        assert f"-m launcher {target}" in clone.shell(f"make -n {target} MODEL=tiny").stdout
    (clone.folder / "models" / "tiny").mkdir(parents=True)
    (clone.folder / "models" / "tiny" / "model.yaml").touch()
    builder = clone.folder / "builder"
    builder.write_text('#!/bin/sh\necho "$@" >> builds.txt; touch model_store/tiny.mar\n', encoding="utf-8")
    builder.chmod(0o755)
    (clone.folder / "bin").mkdir()
    builder.rename(clone.folder / "bin" / "python")
    for options in ("", "", "SLOTS=4", "SLOTS=4", "SLOTS=4 WORKERS=2"):
        assert clone.shell(f"make archive MODEL=tiny BIN=bin {options}").returncode == 0

    builds = (clone.folder / "builds.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("--slots ")[1] for line in builds] == ["8 --workers 1", "4 --workers 1", "4 --workers 2"]
    assert json.dumps(builds).count("models/tiny") == 3


def test_demo_runs_behind_a_proxy_in_a_path_with_a_space(clone: Clone) -> None:
    """Four reports over HTTP and gRPC, and no server afterwards."""
    done = clone.shell(".venv/bin/python -m launcher.demo --model tiny")

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\nUNVERIFIED: ") == 4
    assert done.stdout.endswith("the server has been stopped\n")
