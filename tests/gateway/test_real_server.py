"""The gateway in front of the real TorchServe: HTTP, gRPC, OpenAI's format, and what TorchServe has seen of attacks."""

import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from launcher.gateway.gateway import Gateway
from launcher.local_server import LocalServer
from launcher.sample_radiograph import sample_radiograph
from prelim_client.answers import ReportError
from prelim_client.grpc_client import GrpcClient
from prelim_client.http_client import HttpClient
from tests.gateway.conftest import Site
from tests.gateway.test_routes import CLOSED
from tests.gateway.test_smuggling import FRAMINGS, HIDDEN, LINES
from tests.tiny_model import CONFIG


@contextlib.contextmanager
def open_upload(gateway: Gateway, key: str, image: bytes) -> Iterator[Callable[[], None]]:
    """A request of whose body a part has been sent; yields what sends the rest. Its report must come."""
    host, _, port = gateway.settings.listen.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    connection.putrequest("POST", f"/predictions/{CONFIG.name}")
    connection.putheader("Authorization", f"Bearer {key}")
    connection.putheader("Content-Length", str(len(image)))
    connection.endheaders(image[:1000])
    yield lambda: connection.send(image[1000:])
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["status"]) == (200, "UNVERIFIED")
    connection.close()


pytestmark = [pytest.mark.gateway, pytest.mark.server]


def test_reports_are_those_of_the_server(server: LocalServer, gateway: Gateway, key: tuple[Path, str]) -> None:
    """Over HTTP, streamed, over gRPC and in OpenAI's format, with the gateway's key instead of TorchServe's."""
    image = sample_radiograph()
    direct = HttpClient(server.url, server.key(), CONFIG.name).report(image)["report"]
    through = HttpClient(gateway.url, key[1], CONFIG.name)
    assert through.report(image)["report"] == direct
    *pieces, last = through.stream(image)
    assert "".join(piece["text"] for piece in pieces) == last["report"] == direct
    with GrpcClient(gateway.settings.listen_grpc, key[1], CONFIG.name) as client:
        assert client.report(image)["report"] == direct
    with pytest.raises(ReportError, match="NotAnImage"):
        through.report(b"not an image")


def test_grpc_needs_a_key_and_has_one_method(gateway: Gateway, key: tuple[Path, str]) -> None:
    """UNAUTHENTICATED without a key; StreamPredictions does not pass."""
    with GrpcClient(gateway.settings.listen_grpc, "tests.wrong", CONFIG.name) as client:
        with pytest.raises(grpc.RpcError) as refused:
            client.report(b"x")
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with GrpcClient(gateway.settings.listen_grpc, key[1], CONFIG.name) as client:
        with pytest.raises(grpc.RpcError) as refused:
            client.stream_predictions(b"x")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "part",
    [
        'form-data; name="image"\r\nContent-Type: image/png; charset=nosuch',
        'form-data; name="image"\r\nContent-Type: image/png; charset=',
        "form-data; name=\"image\"; filename*=nosuch''a.png",
        'form-data; name="image"\r\nContent-Type: multipart/mixed',
        "form-data",
        'attachment; name="image"',
    ],
)
def test_form_with_a_part_that_cannot_be_read(
    server: LocalServer, gateway: Gateway, key: tuple[Path, str], part: str
) -> None:
    """TorchServe answers 403 or 500 before a worker knows of it: a fault of the client, which is asked about once."""
    log = server.folder / "logs" / "access.log"
    before = len(log.read_text(encoding="utf-8").splitlines())
    form = f"--b\r\nContent-Disposition: {part}\r\n\r\nx\r\n--b--\r\n".encode()
    address = gateway.settings.listen.rpartition(":")
    connection = http.client.HTTPConnection(address[0], int(address[2]), timeout=60)
    headers = {"Authorization": f"Bearer {key[1]}", "Content-Type": "Multipart/Form-Data; Boundary=b"}
    connection.request("POST", f"/predictions/{CONFIG.name}", form, headers)
    response = connection.getresponse()
    error = json.loads(response.read())["error"]
    connection.close()
    assert (response.status, error["type"]) == (400, "UnreadableForm")
    assert len(log.read_text(encoding="utf-8").splitlines()) <= before + 1


def test_access_log_of_torchserve_shows_no_attack(server: LocalServer, gateway: Gateway, key: tuple[Path, str]) -> None:
    """Of smuggled requests and closed paths it has nothing; of the rest exactly the requests that were answered."""
    host, _, port = gateway.settings.listen.rpartition(":")
    log = server.folder / "logs" / "access.log"

    def logged() -> list[str]:
        return log.read_text(encoding="utf-8").splitlines()

    class Attack(Site):
        """A site whose server does not record."""

        @property
        def address(self) -> tuple[str, int]:
            return host, int(port)

    site = Attack(None, gateway.folder, gateway.settings, key[1], None)  # type: ignore[arg-type]
    before = len(logged())
    for path in CLOSED:
        assert site.ask("POST", path, b"x")[0] in (400, 403, 404, 405)
        assert site.ask("GET", path)[0] in (400, 403, 404, 405)
    answered = 0
    line = f"POST /predictions/{CONFIG.name} HTTP/1.1".encode()
    head = f"\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key[1]}\r\n".encode()
    attacks = [line + head + headers + b"\r\n" + body for headers, body in FRAMINGS.values()]
    attacks += [
        odd.replace(b"/demo", f"/{CONFIG.name}".encode()) + head + b"Content-Length: 1\r\n\r\nx" + HIDDEN
        for odd in LINES.values()
    ]
    attacks += [line + head + f"X: {size * 'a'}\r\n\r\n".encode() for size in (9000, 100_000)]
    for attack in attacks:
        received = site.send(attack)
        # The one byte of an allowed request is not an image.
        answered += b"NotAnImage" in received or b"there is no image" in received
    HttpClient(gateway.url, key[1], CONFIG.name).report(sample_radiograph())
    new = logged()[before:]
    assert all(line["route"].startswith(("POST", "gRPC")) or not line["route"] for line in map(json.loads, new))
    assert not any("/models" in line or "GET" in line for line in new)
    assert len(new) == answered + 1


def test_changed_key_of_torchserve_is_followed(server: LocalServer, gateway: Gateway, key: tuple[Path, str]) -> None:
    """A renewed key invalidates the old one; the gateway reads the new one, and its clients keep theirs."""
    client = HttpClient(gateway.url, key[1], CONFIG.name)
    assert not gateway.follow()
    old = server.key()
    server.renew_key()
    assert server.key() != old
    assert gateway.follow()
    image = sample_radiograph()
    with pytest.raises(ReportError, match="400"):
        HttpClient(server.url, old, CONFIG.name).report(image)
    for _ in range(200):
        try:
            assert client.report(image)["status"] == "UNVERIFIED"
            break
        except ReportError:
            # nginx has not read the new key yet.
            continue
    else:
        pytest.fail("the gateway still sends the old key")


def test_renewed_key_costs_no_request(server: LocalServer, gateway: Gateway, key: tuple[Path, str]) -> None:
    """Over HTTP and gRPC, with an upload that had begun before and ends after the renewal has."""
    image = sample_radiograph()
    done = threading.Event()
    old = server.key()

    def ask(report: Callable[[bytes], Any]) -> int:
        count = 0
        while not done.is_set():
            assert report(image)["status"] == "UNVERIFIED"
            count += 1
        return count

    client = HttpClient(gateway.url, key[1], CONFIG.name)
    with GrpcClient(gateway.settings.listen_grpc, key[1], CONFIG.name) as over_grpc, ThreadPoolExecutor(6) as users:
        asking = [users.submit(ask, report) for report in 3 * [client.report, over_grpc.report]]
        try:
            with open_upload(gateway, key[1], image) as finish:
                users_key = threading.Timer(1, finish)
                users_key.start()
                gateway.renew_key()
                users_key.join()
            for _ in range(3):
                gateway.renew_key()
        finally:
            done.set()
        assert min(asked.result() for asked in asking) > 0
    assert server.key() != old
    server.renew_key("management")
    assert server.models() == [CONFIG.name]


def test_page_is_told_the_models(gateway: Gateway, key: tuple[Path, str]) -> None:
    """And where the samples are."""
    host, _, port = gateway.settings.listen.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port))
    connection.request("GET", "/config.json")
    page = json.loads(connection.getresponse().read())
    assert (page["models"], page["needs_key"]) == ([CONFIG.name], True)
    for sample in page["samples"]:
        connection.request("GET", f"/{sample['file']}")
        assert len(connection.getresponse().read()) > 1000
    connection.close()
