"""What hospital IT gets wrong is named when the bridge starts, in one line and not in a traceback."""

import contextlib
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.__main__ import main
from bridge.configuration.section import ConfigError
from bridge.dicom.identity import SiteKey
from bridge.store.queue import Queue

WEB: dict[str, Any] = {"state": "state", "dicomweb": {"url": "http://127.0.0.1:1"}}
SCP: dict[str, Any] = {
    "state": "state",
    "store_scp": {"peers": ["XRAY1"], "port": 0},
    "store_scu": {"host": "127.0.0.1", "port": 1, "ae_title": "PACS"},
}
TLS = {"certificate": "none.pem", "key": "none.pem", "ca": "none.pem"}
MISTAKES: dict[str, dict[str, Any]] = {
    "password cannot be read": WEB | {"dicomweb": {"url": "http://x", "user": "a", "password_file": "password"}},
    "token cannot be read": WEB | {"hook": {"port": 0, "token_file": "token"}},
    "store_scp.tls: certificate, key and ca must be PEM": SCP | {"store_scp": SCP["store_scp"] | {"tls": TLS}},
    "store_scu.tls: certificate, key and ca must be PEM": SCP | {"store_scu": SCP["store_scu"] | {"tls": TLS}},
    "none.pem cannot be read as certificates": WEB | {"dicomweb": {"url": "https://x", "ca_file": "none.pem"}},
    "the state folder": WEB | {"state": "bridge.yaml/state"},
    "bridge.yaml cannot be used": WEB | {"state": "bridge.yaml"},
    "is not a TrueType font": WEB | {"report": {"pdf": True, "fonts": ["none.ttf"]}},
    "TAKEN on 127.0.0.1 cannot be used": WEB | {"hook": {"port": "TAKEN"}},
    "store_scp.port TAKEN on 127.0.0.1 cannot": SCP | {"store_scp": {"peers": ["XRAY1"], "port": "TAKEN"}},
    "signed.port TAKEN on 127.0.0.1 cannot": WEB | {"signed": {"port": "TAKEN"}},
    "port TAKEN on": {"state": "state", "drafts": {"port": "TAKEN"}},
    "folder/queue.sqlite cannot be opened": WEB | {"state": "folder"},
    "empty is not a token or a password": WEB | {"hook": {"port": 0, "token_file": "empty"}},
    "lines is not a token or a password": WEB | {"fhir": {"url": "http://x", "token_file": "lines"}},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_ends_the_start(
    tmp_path: Path, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, and the setting in the message; nothing is left running."""
    # Other tests run in this process.
    monkeypatch.setattr("bridge.__main__.silence_libraries", lambda: None)
    monkeypatch.setattr("bridge.__main__.signal.signal", lambda *_: None)
    (tmp_path / "folder" / "queue.sqlite").mkdir(parents=True)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "lines").write_text("a\nb\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = yaml.safe_dump(MISTAKES[message]).replace("TAKEN", str(port))
        (tmp_path / "bridge.yaml").write_text(text)
        assert main([str(tmp_path / "bridge.yaml")]) == 2
    assert message.replace("TAKEN", str(port)) in capsys.readouterr().err


def test_a_locked_queue_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `sqlite3` at another terminal, or a backup program, for the command line too."""
    monkeypatch.setattr("bridge.store.database.LOCKED_S", 0.0)
    (tmp_path / "bridge.yaml").write_text(yaml.safe_dump(WEB))
    Queue(tmp_path / "state" / "queue.sqlite").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "queue.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert main(["queue", str(tmp_path / "bridge.yaml"), "pause"]) == 1
    assert capsys.readouterr().err == "another program has locked queue.sqlite; end it and try again\n"


@pytest.mark.parametrize("contents", ["", "zz", "ab" * 8])
def test_a_site_key_that_is_not_one_ends_the_start(tmp_path: Path, contents: str) -> None:
    """An empty key, which a full disk can leave, would make every pseudonym guessable."""
    path = tmp_path / "site.key"
    path.write_text(contents)
    with pytest.raises(ConfigError, match="is not a site key"):
        SiteKey.load(path)


def test_copies_that_cannot_be_written_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`deidentify` before the first start of the bridge, with a file instead of a folder for the copies."""
    config = tmp_path / "bridge.yaml"
    config.write_text(yaml.safe_dump(WEB))
    assert main(["deidentify", str(config), "x.dcm", "--out", str(config)]) == 2
    assert "the folder of --out cannot be used" in capsys.readouterr().err
