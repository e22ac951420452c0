"""What hospital IT gets wrong is named when the bridge starts, in one line and not in a traceback."""

import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.__main__ import main

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
    "is not a TrueType font": WEB | {"report": {"pdf": True, "fonts": ["none.ttf"]}},
    "TAKEN on 127.0.0.1 cannot be used": WEB | {"hook": {"port": "TAKEN"}},
    "store_scp.port TAKEN on 127.0.0.1 cannot": SCP | {"store_scp": {"peers": ["XRAY1"], "port": "TAKEN"}},
    "port TAKEN on": {"state": "state", "drafts": {"port": "TAKEN"}},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_ends_the_start(
    tmp_path: Path, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, and the setting in the message; nothing is left running."""
    # Other tests run in this process.
    monkeypatch.setattr("bridge.__main__.silence_libraries", lambda: None)
    monkeypatch.setattr("bridge.__main__.signal.signal", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = yaml.safe_dump(MISTAKES[message]).replace("TAKEN", str(port))
        (tmp_path / "bridge.yaml").write_text(text)
        assert main([str(tmp_path / "bridge.yaml")]) == 2
    assert message.replace("TAKEN", str(port)) in capsys.readouterr().err
