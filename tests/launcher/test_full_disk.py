"""No file that a start writes may be missing without a message: each fails in turn, on a folder without a server."""

import errno
import itertools
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher import __main__ as launcher
from launcher import console, fetch, process
from launcher import server as server_module
from launcher.archives import check_store
from launcher.environment import FOLDER
from launcher.errors import LaunchError
from launcher.gateway.keys import add_key
from launcher.gateway.waiting_room import WAITING, WaitingRoom
from launcher.local_server import CONFIG
from tests.failing_files import failing_file

CODES = (errno.ENOSPC, errno.EROFS, errno.EACCES)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a server whose TorchServe is ready at once, and was left by a crash; its archives are not checked."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "server"))
    monkeypatch.setattr(launcher, "read_environment", lambda: {"TMPDIR": str(tmp_path / "tmp")})
    monkeypatch.setattr(launcher, "check_store", lambda store, other_code: [])
    monkeypatch.setattr(server_module, "check_java", lambda environment: None)
    monkeypatch.setattr(server_module, "check_free", lambda addresses: None)
    monkeypatch.setattr(server_module, "find_in_folder", lambda folder: None)
    started = SimpleNamespace(stdin=None, poll=lambda: None, wait=lambda seconds=None: 0, pid=2**30)
    monkeypatch.setattr(server_module.subprocess, "Popen", lambda *_, **__: started)
    return tmp_path


def leave(folder: Path) -> None:
    """What the crash has left."""
    shutil.rmtree(folder / "server", ignore_errors=True)
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    (folder / "server" / "logs").mkdir(parents=True)
    (folder / "tmp" / "models").mkdir(parents=True)
    (folder / "tmp" / "gateway" / "_errors").mkdir(parents=True)
    for left in ("server/key_file.json", "server/logs/console.log", f"tmp/{process.CONFIG}", "tmp/.ts.sock.9000"):
        (folder / left).touch()


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a command."""
    monkeypatch.setattr(sys, "argv", ["launcher", *arguments])
    return launcher.main()


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_start_without_a_file_ends_with_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    """Or does without, as without its log; nothing is a traceback, and the way out is said."""
    refused = 0
    for number in itertools.count():
        leave(folder)
        with failing_file(folder, number, code) as failing:
            ended = run(monkeypatch, "start", "--queue", "8")
        said = capsys.readouterr().err
        if failing.count <= number:
            break
        assert ended in (0, 1)
        if ended:
            refused += 1
            assert re.fullmatch(rf"(PRELIM_FOLDER is )?{folder}/\S+ .*cannot be used \({os.strerror(code)}\).*\n", said)
    # Folders and links, the lock, what was left, settings, console.
    assert refused >= 8


def test_status_needs_no_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that no server runs, where nothing can be written either."""
    leave(folder)
    run(monkeypatch, "status")
    with failing_file(folder / "tmp", 0, errno.EROFS) as failing:
        assert run(monkeypatch, "status") == 1
    assert failing.count == 0
    assert not process.is_launching(folder / "tmp")


def test_missing_settings_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As any file."""
    leave(folder)
    monkeypatch.setattr(launcher, "CONFIG", CONFIG.with_name("missing.properties"))
    assert run(monkeypatch, "start") == 1
    assert "missing.properties cannot be used (No such file or directory)" in capsys.readouterr().err


def test_archive_that_cannot_be_read_is_named(tiny_mar: Path, tmp_path: Path) -> None:
    """Whichever part of it."""
    shutil.copy(tiny_mar, tmp_path)
    with failing_file(tmp_path, -1, errno.EACCES, reads=True) as all_of_them:
        check_store(tmp_path)
    for number in range(all_of_them.count):
        with failing_file(tmp_path, number, errno.EACCES, reads=True):
            with pytest.raises(LaunchError, match=r"tiny\.mar.*Permission denied"):
                check_store(tmp_path)


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: add_key(folder / "keys", "clinic"),
        lambda folder: fetch.fetch("http://127.0.0.1:9/a.mar", 64 * "0", folder / "store"),
    ],
    ids=["key", "download"],
)
def test_other_commands_name_their_files(tmp_path: Path, write: Callable[[Path], object]) -> None:
    """Keys of clients, and downloads."""
    with failing_file(tmp_path, 0, errno.ENOSPC), pytest.raises(LaunchError, match=f"{tmp_path}.*make room"):
        write(tmp_path)


def test_console_goes_on_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output is lost, and read: a server that cannot print would stop; with room again it is kept."""
    chunks = iter([b"0", b"1", b"2", b""])
    monkeypatch.setattr(console.os, "read", lambda descriptor, size: next(chunks))
    with failing_file(tmp_path, 1, errno.ENOSPC):
        console.keep(0, tmp_path / "console.log")
    assert (tmp_path / "console.log").read_bytes() == b"02"


def test_nobody_waits_where_the_sign_cannot_be_written(tmp_path: Path) -> None:
    """Neither if the waiting room cannot be opened, nor if it cannot be closed."""
    room = WaitingRoom(tmp_path)
    try:
        with failing_file(tmp_path, 0, errno.ENOSPC), pytest.raises(OSError, match="No space"):
            room.close_in()
        assert room._may_go.is_set()
        room.close_in()
        with failing_file(tmp_path, 0, errno.EROFS):
            room.let_go()
        assert room._may_go.is_set()
        assert (tmp_path / WAITING).exists()
    finally:
        room.close()
