"""Decoders see no network, no other process and no file but Python, where bubblewrap can be used."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from prelim.images import sandbox
from prelim.images.decoding_process import SOURCE, DecodingProcess
from prelim.images.radiograph import InputConfig, render
from prelim.images.sandbox import sandboxed
from tests.dicom_files import make_dicom

LOOK = """
import os, socket, sys
path, port, pid, bound, descriptor = sys.argv[1:]
def tried(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "possible"
print(tried(lambda: open(path).read()))
print(tried(lambda: open(os.path.join(bound, "written"), "w")))
print(tried(lambda: open("/tmp/written", "w")))
print(tried(lambda: socket.create_connection(("127.0.0.1", int(port)), 5)))
print(tried(lambda: os.kill(int(pid), 0)))
print(tried(lambda: open(f"/proc/{pid}/environ").read()))
print(tried(lambda: open(f"/proc/{pid}/mem", "rb").read()))
print(tried(lambda: open(f"/proc/{pid}/fd/{descriptor}").read()))
print(sorted(name for _, name in socket.if_nameindex()))
"""


@pytest.fixture
def options() -> None:
    """Skips where there is no sandbox."""
    if sandboxed((), SOURCE) == []:
        pytest.skip("bubblewrap is not installed, or may not be used here; `make test-deploy` installs it")


def test_nothing_can_be_reached(options: None, tmp_path: Path) -> None:
    """Neither files, nor the network, nor the process that uses the decoders."""
    secret = tmp_path / "key_file.json"
    secret.write_text("key", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as server, secret.open() as opened:
        port, pid = server.getsockname()[1], os.getpid()
        arguments = [str(secret), f"{port}", f"{pid}", str(SOURCE), f"{opened.fileno()}"]
        command = (sys.executable, "-I", "-c", LOOK, *arguments)
        outside = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        inside = subprocess.run(sandboxed(command, SOURCE), capture_output=True, text=True, check=True)
    Path(SOURCE, "written").unlink()
    Path("/tmp/written").unlink()  # noqa: S108 - what the script writes
    assert outside[:5] == ["possible"] * 5
    files, (written, temporary), others = (
        inside.stdout.splitlines()[part] for part in (slice(1), slice(1, 3), slice(3, None))
    )
    # /tmp is there, and cannot be written, where the code is below it.
    assert (written, temporary) in {("OSError", "FileNotFoundError"), ("OSError", "OSError")}
    assert [*files, *others] == [
        "FileNotFoundError",
        "ConnectionRefusedError",
        "ProcessLookupError",
        *["PermissionError"] * 3,
        "['lo']",
    ]


def test_pixels_are_those_without_a_sandbox(options: None) -> None:
    """And `close` leaves no process of it."""
    process = DecodingProcess()
    pixels = process.decode(make_dicom(), "DICOM", InputConfig())[1]
    assert (pixels == render(make_dicom(), "DICOM", InputConfig()).pixels).all()
    assert process._process is not None
    started = psutil.Process(process._process.pid)
    family = [started, *started.children(recursive=True)]
    assert len(family) > 1
    process.close()
    assert psutil.wait_procs(family, timeout=20)[1] == []


@pytest.mark.parametrize("program", [None, "#!/bin/sh\nexit 1\n", "#!/no/such/program\n"])
def test_machine_without_bubblewrap_decodes_as_before(
    program: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is missing, may make no namespaces (containers), or cannot be run."""
    if program is not None:
        (tmp_path / "bwrap").write_text(program, encoding="utf-8")
        (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox._options.cache_clear()
    assert sandboxed(("decode", "this"), SOURCE) == ["decode", "this"]
    sandbox._options.cache_clear()
