"""The gateway's settings, its keys, and TLS."""

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import LaunchError
from launcher.gateway.keys import add_key, check_keys, read_token
from launcher.gateway.settings import Settings, as_host
from tests.gateway.conftest import open_site, write_certificate
from tests.gateway.recorder import Recorder

COMMITTED = Path(__file__).resolve().parents[2] / "deploy" / "nginx" / "gateway.yaml"


def test_committed_settings_are_the_defaults() -> None:
    """And stay on loopback."""
    assert Settings.read(COMMITTED) == Settings()


@pytest.mark.parametrize(
    ("name", "host"),
    [
        *(("Reports.Test.", "reports.test"), ("10.0.0.1", "10.0.0.1"), ("a_b", "a_b")),
        *(("::1", "[::1]"), ("[::1]", "[::1]"), ("[2001:DB8:0::1]", "[2001:db8::1]")),
    ],
)
def test_a_name_is_written_as_the_host_of_a_request(name: str, host: str) -> None:
    """In small letters, without the last dot, an address of IPv6 in brackets and short."""
    assert as_host(name) == host


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("listen: 0.0.0.0:8443", "not loopback: set tls and keys"),
        ("listen_grpc: 192.0.2.1:8444", "not loopback: set tls and keys"),
        ("listen: '8080; include /etc/shadow'", "listen is"),
        ("listen: 8080", "listen is"),
        ("names: [a, 'b; return 200']", "names is"),
        ("names: []", "names is"),
        *((f"names: ['{name}']", "without ports") for name in ("a:80", "[a]", "[::1", "fe80::1%lo", "a..b", "a@b", "")),
        ("names: localhost", "names is 'localhost'; allowed: a list"),
        ("routes: missing.conf", "routes is 'missing.conf'; allowed: a list"),
        ("routes: [1]", r"routes is \[1\]; allowed: names of files"),
        ("keys: 5", "keys is 5; allowed: a file name"),
        ("listen: \udcff", "cannot be read: UnicodeDecodeError"),
        ("model: demo/1.0;", "model is"),
        ("burst: 0", "burst is 0; allowed: 1 to 10000"),
        ("burst: '1; x'", "burst is"),
        ("open_requests: true", "open_requests is"),
        ("server_requests: 0", "server_requests is 0; allowed: 1 to 10000"),
        ("lisen: 127.0.0.1:1", "unknown setting lisen"),
        ("tls: {certificate: missing.pem, key: missing.pem}", "is not a file"),
        ("tls: {certificate: missing.pem}", "tls is not"),
        ("routes: [missing.conf]", "is not a file"),
        ("drafts: yes please", "drafts is 'yes please'; allowed: own"),
        ("drafts: '127.0.0.1:1; x'", "drafts is"),
        ("{drafts: '127.0.0.1:8191', drafts_token: missing}", "is not a file"),
        ("{hosts: {addresses: [10.0.0.1]}, drafts: null}", "hosts is not"),
        ("{hosts: {addresses: 10.0.0.1, name: a, ca: f, key_file: f}, drafts: null}", "hosts.addresses is '10.0.0.1'"),
        ("{hosts: {addresses: [], name: a, ca: site.yaml, key_file: site.yaml}}", r"hosts.addresses is \[\]"),
        ("{hosts: {addresses: [a.b], name: a, ca: site.yaml, key_file: site.yaml}}", "allowed: a list of IP addresses"),
        ("{hosts: {addresses: [10.0.0.1], name: 'a; b', ca: site.yaml, key_file: site.yaml}}", "hosts.name is"),
        ("{hosts: {addresses: [10.0.0.1], name: a, ca: site.yaml, key_file: site.yaml, port: 0}}", "hosts.port is 0"),
        ("{hosts: {addresses: [10.0.0.1], name: a, ca: missing, key_file: site.yaml}}", "hosts.ca: .* is not a file"),
        ("{hosts: {addresses: [10.0.0.1], name: a, ca: site.yaml, key_file: site.yaml}}", "drafts is own"),
        ("{shadow: {address: '10.0.0.1:8090', model: demo, share: 10}}", "shadow.address is '10.0.0.1:8090'"),
        ("{shadow: {address: '127.0.0.1:1; x', model: demo, share: 10}}", "shadow.address is"),
        ("{shadow: {address: '127.0.0.1:1', model: 'a; b', share: 10}}", "shadow.model is"),
        ("{shadow: {address: '127.0.0.1:1', model: demo, share: 0}}", "shadow.share is 0"),
        ("{shadow: {address: '127.0.0.1:1', model: demo, share: 101}}", "shadow.share is 101"),
        ("{shadow: {address: '127.0.0.1:1'}}", "shadow is not"),
        ("[1]", "not a mapping"),
        ("listen: [", "cannot be read"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, message: str) -> None:
    """Before nginx sees them: a value with its syntax in it is refused."""
    file = tmp_path / "site.yaml"
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(LaunchError, match=message):
        Settings.read(file)


def test_a_token_that_is_none_is_named(tmp_path: Path) -> None:
    """Of the site's bridge: the gateway would send requests that all get 401."""
    file = tmp_path / "token"
    for contents, message in ((b"\xff", "cannot be read"), (b"\n", "is empty")):
        file.write_bytes(contents)
        with pytest.raises(LaunchError, match=message):
            read_token(file)


@pytest.mark.parametrize("name", ["default", "include"])
def test_a_word_of_nginx_is_no_client(tmp_path: Path, name: str) -> None:
    """In the list of keys it would mean something else, and nginx would refuse all keys."""
    with pytest.raises(LaunchError, match="not default or include"):
        add_key(tmp_path / "keys", name)


def test_a_client_that_is_twice_in_the_file_is_named(tmp_path: Path) -> None:
    """As after two lists of keys were joined: nginx would refuse all keys."""
    add_key(tmp_path / "keys", "tests")
    (tmp_path / "keys").write_text((tmp_path / "keys").read_text() * 2)
    with pytest.raises(LaunchError, match="has the client tests twice"):
        check_keys(tmp_path / "keys")


def test_keys_are_kept_as_hashes(tmp_path: Path) -> None:
    """The file does not contain the secret and is private; a name is used once."""
    file = tmp_path / "keys"
    first, second = add_key(file, "reading-room"), add_key(file, "research")
    assert first.startswith("reading-room.")
    assert file.stat().st_mode & 0o777 == 0o600
    assert all(key.partition(".")[2] not in file.read_text() for key in (first, second))
    assert len(check_keys(file)) == 2
    with pytest.raises(LaunchError, match="has a key of research"):
        add_key(file, "research")
    with pytest.raises(LaunchError, match="allowed: 1 to 32"):
        add_key(file, "a b")


def test_file_of_keys_is_checked(tmp_path: Path) -> None:
    """Nginx would run other directives in it; and others must not add keys."""
    file = tmp_path / "keys"
    add_key(file, "a")
    file.write_text(file.read_text() + "include /etc/passwd;\n")
    with pytest.raises(LaunchError, match="line 2"):
        check_keys(file)
    file.unlink()
    with pytest.raises(LaunchError, match="cannot be read"):
        check_keys(file)
    add_key(file, "a")
    file.chmod(0o660)
    with pytest.raises(LaunchError, match="chmod 600"):
        check_keys(file)


@pytest.mark.gateway
def test_tls_is_modern(tmp_path: Path) -> None:
    """TLS 1.2 and 1.3 are spoken, 1.1 and plain HTTP are not."""
    tls = write_certificate(tmp_path)
    recorder = Recorder()
    site = open_site(tmp_path, recorder, tls=tls)

    def connect(version: ssl.TLSVersion) -> str | None:
        context: Any = ssl.create_default_context(cafile=tls.certificate)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        with socket.create_connection(site.address) as plain:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                secure.sendall(b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                assert b"Strict-Transport-Security" in secure.recv(4096)
                return str(secure.version())

    with site.nginx:
        assert connect(ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
        assert connect(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with pytest.warns(DeprecationWarning, match="TLSv1_1"), pytest.raises(ssl.SSLError):
            connect(ssl.TLSVersion.TLSv1_1)
        status, _, answer = site.ask("POST", "/predictions/demo", b"x")
        assert (status, answer["error"]["code"]) == (400, 400)
    assert recorder.seen == []
    recorder.close()
