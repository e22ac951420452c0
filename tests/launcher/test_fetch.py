"""Archives are downloaded before a server starts, and only those with the expected hash are kept."""

import hashlib
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from launcher.archives import PUBLIC_KEY
from launcher.errors import LaunchError
from launcher.fetch import fetch, fetch_signature, main, parse_source, parse_sources

CONTENTS = 3 * 2**20 * b"a"
SHA256 = hashlib.sha256(CONTENTS).hexdigest()


class Archives(BaseHTTPRequestHandler):
    """Has demo.mar with a signature, and the half of half.mar."""

    def do_GET(self) -> None:
        """Answer, and count."""
        Archives.asked += 1
        if self.path not in {"/demo.mar", "/demo.mar.sig", "/half.mar"}:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENTS)))
        self.end_headers()
        self.wfile.write(CONTENTS[: len(CONTENTS) // 2] if self.path == "/half.mar" else CONTENTS)

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    asked = 0


@pytest.fixture
def url() -> Iterator[str]:
    """Where the archives are."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Archives)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Archives.asked = 0
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_archive_is_downloaded_once(url: str, tmp_path: Path) -> None:
    """A second start finds it; a damaged file is replaced."""
    target = fetch(f"{url}/demo.mar", SHA256, tmp_path / "store")
    assert target.read_bytes() == CONTENTS
    assert fetch(f"{url}/demo.mar", SHA256, tmp_path / "store") == target
    assert Archives.asked == 1
    target.write_bytes(b"damaged")
    assert fetch(f"{url}/demo.mar", SHA256, tmp_path / "store").read_bytes() == CONTENTS


@pytest.mark.parametrize(
    ("name", "sha256", "message"),
    [
        ("demo.mar", 64 * "0", f"has sha256 {SHA256}, expected 0000"),
        ("half.mar", SHA256, "cannot be downloaded"),
        ("other.mar", SHA256, r"cannot be downloaded \(HTTPError, status 404\)"),
    ],
    ids=["hash", "half", "missing"],
)
def test_wrong_archive_leaves_no_file(url: str, name: str, sha256: str, message: str, tmp_path: Path) -> None:
    """Also where a file of that name was: another version is not served instead."""
    (tmp_path / name).write_bytes(b"version of before")
    with pytest.raises(LaunchError, match=message):
        fetch(f"{url}/{name}", sha256, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["demo.mar", "https://h/demo.mar", f"ftp://h/a.mar={SHA256}", "https://h/a.mar=abc"])
def test_wrong_source_is_named(text: str) -> None:
    """With what is allowed."""
    with pytest.raises(LaunchError, match="allowed: URL=SHA256"):
        parse_source(text)


def test_two_archives_of_one_name_are_refused() -> None:
    """Before anything is downloaded: the second would be served, under the name of both."""
    with pytest.raises(LaunchError, match=r"2 archives are called x\.mar"):
        parse_sources([f"https://a/x.mar={SHA256}", f"https://a/y.mar={SHA256}", f"https://b/c/x.mar={SHA256}"])


def test_command(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code says whether all archives are there; nothing prints a password in a URL."""
    monkeypatch.setattr(sys, "argv", ["fetch", str(tmp_path), f"{url}/demo.mar={SHA256}"])
    assert main() == 0
    secret = url.replace("//", "//user:secret@")
    monkeypatch.setattr(sys, "argv", ["fetch", str(tmp_path), f"{secret}/other.mar={SHA256}"])
    assert main() == 1
    printed = capsys.readouterr()
    assert "secret" not in printed.out + printed.err


def test_signature_comes_with_its_archive(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where signatures are wanted; one that is missing is a failure by name."""
    monkeypatch.setenv(PUBLIC_KEY, "archives.pub")
    monkeypatch.setattr(sys, "argv", ["fetch", str(tmp_path), f"{url}/demo.mar={SHA256}"])
    assert main() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.mar", "demo.mar.sig"]
    with pytest.raises(LaunchError, match=r"other\.mar\.sig cannot be downloaded"):
        fetch_signature(f"{url}/other.mar", tmp_path)
