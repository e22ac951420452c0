"""Every route of TorchServe's APIs with and without keys, on loopback and through the gateway; and what listens."""

import http.client
import ipaddress
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import grpc
import psutil
import pytest

from launcher.gateway.gateway import Gateway
from launcher.local_server import LocalServer
from launcher.ports import free_ports
from prelim.images.decoding_process import DECODING
from tests.gateway.conftest import open_site, write_certificate
from tests.gateway.recorder import Recorder
from tests.tiny_model import CONFIG

pytestmark = [pytest.mark.gateway, pytest.mark.server]

MODEL = CONFIG.name
CHANGES = "min_worker=1&max_worker=1"


class Route(NamedTuple):
    """One route, and what is answered.

    direct  : on its own port: without a key, with the key of another API, with its own
    through : by the gateway: without a key, with a client's key

    Statuses of HTTP, or codes of gRPC; None where the test does not ask, because that would harm the server.
    """

    method: str
    path: str
    direct: tuple[int | str | None, int | str | None, int | str | None]
    through: tuple[int | str, int | str]


INFERENCE = (
    Route("GET", "/ping", (400, 400, 200), (404, 404)),
    Route("OPTIONS", "/", (200, 200, 200), (405, 405)),
    # A description of these routes, without a key.
    Route("GET", "/api-description", (200, 200, 200), (404, 404)),
    Route("POST", f"/predictions/{MODEL}", (400, 400, 415), (401, 415)),
    Route("POST", f"/predictions/{MODEL}/1.0", (400, 400, 415), (401, 415)),
    Route("GET", f"/predictions/{MODEL}", (400, 400, 400), (401, 405)),
    Route("OPTIONS", f"/predictions/{MODEL}", (400, 400, 200), (401, 405)),
    Route("POST", f"/explanations/{MODEL}", (400, 400, 422), (405, 405)),
    Route("POST", f"/invocations?model_name={MODEL}", (400, 400, 415), (405, 405)),
    Route("POST", f"/v1/models/{MODEL}:predict", (400, 400, 415), (404, 404)),
    Route("POST", f"/v2/models/{MODEL}/infer", (400, 400, 415), (405, 405)),
    Route("POST", "/wfpredict/any", (400, 400, 404), (405, 405)),
)
MANAGEMENT = (
    Route("OPTIONS", "/", (200, 200, 200), (405, 405)),
    Route("GET", "/models", (400, 400, 200), (404, 404)),
    Route("GET", f"/models/{MODEL}", (400, 400, 200), (404, 404)),
    # Would wedge the model until a restart.
    Route("GET", f"/models/{MODEL}?customized=true", (400, 400, None), (404, 404)),
    Route("POST", "/models?url=evil.mar", (400, 400, 405), (405, 405)),
    Route("POST", "/models?url=http://127.0.0.1:9/evil.mar", (400, 400, 405), (405, 405)),
    Route("DELETE", f"/models/{MODEL}", (400, 400, 405), (405, 405)),
    Route("DELETE", f"/models/{MODEL}/1.0", (400, 400, 405), (405, 405)),
    # What the key of management can do: scaling, and the default version.
    Route("PUT", f"/models/{MODEL}?{CHANGES}", (400, 400, 202), (405, 405)),
    Route("PUT", f"/models/{MODEL}/1.0/set-default", (400, 400, 200), (405, 405)),
    Route("GET", "/workflows", (400, 400, 200), (404, 404)),
    Route("GET", "/workflows/any", (400, 400, 404), (404, 404)),
    Route("POST", "/workflows?url=evil.war", (400, 400, 404), (405, 405)),
    Route("POST", "/workflows?url=http://127.0.0.1:9/evil.war", (400, 400, 404), (405, 405)),
    Route("DELETE", "/workflows/any", (400, 400, 404), (405, 405)),
    # The management key cannot renew keys. The API key can, and would change those of these tests.
    Route("GET", "/token?type=inference", (400, 400, 400), (404, 404)),
    Route("GET", "/token?type=management", (400, 400, 400), (404, 404)),
)
METRICS = (
    # Numbers only, without a key.
    Route("GET", "/metrics", (200, 200, 200), (404, 404)),
    Route("GET", "/metrics?name[]=ts_inference_requests_total", (200, 200, 200), (404, 404)),
    Route("GET", "/models", (404, 404, 404), (404, 404)),
    Route("POST", f"/predictions/{MODEL}", (404, 404, 404), (401, 415)),
)
HTTP = {"inference": INFERENCE, "management": MANAGEMENT, "metrics": METRICS}

DENIED, UNKNOWN, NO_KEY, MISSING = "PERMISSION_DENIED", "UNIMPLEMENTED", "UNAUTHENTICATED", "NOT_FOUND"
INFERENCE_SERVICE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService"
MANAGEMENT_SERVICE = "/org.pytorch.serve.grpc.management.ManagementAPIsService"
GRPC = {
    "grpc_inference": (
        Route("", f"{INFERENCE_SERVICE}/Ping", (DENIED, DENIED, "OK"), (UNKNOWN, UNKNOWN)),
        Route("", f"{INFERENCE_SERVICE}/Predictions", (DENIED, DENIED, "INTERNAL"), (NO_KEY, "INTERNAL")),
        Route("", f"{INFERENCE_SERVICE}/StreamPredictions", (DENIED, DENIED, "INTERNAL"), (UNKNOWN, UNKNOWN)),
        Route("", f"{INFERENCE_SERVICE}/StreamPredictions2", (DENIED, DENIED, None), (UNKNOWN, UNKNOWN)),
        Route("", "/inference.GRPCInferenceService/ServerLive", (UNKNOWN, UNKNOWN, UNKNOWN), (UNKNOWN, UNKNOWN)),
        Route("", "/inference.GRPCInferenceService/ModelInfer", (UNKNOWN, UNKNOWN, UNKNOWN), (UNKNOWN, UNKNOWN)),
    ),
    "grpc_management": (
        Route("", f"{MANAGEMENT_SERVICE}/ListModels", (DENIED, DENIED, "OK"), (UNKNOWN, UNKNOWN)),
        Route("", f"{MANAGEMENT_SERVICE}/DescribeModel", (DENIED, DENIED, MISSING), (UNKNOWN, UNKNOWN)),
        Route("", f"{MANAGEMENT_SERVICE}/RegisterModel", (DENIED, DENIED, DENIED), (UNKNOWN, UNKNOWN)),
        Route("", f"{MANAGEMENT_SERVICE}/UnregisterModel", (DENIED, DENIED, DENIED), (UNKNOWN, UNKNOWN)),
        Route("", f"{MANAGEMENT_SERVICE}/ScaleWorker", (DENIED, DENIED, MISSING), (UNKNOWN, UNKNOWN)),
        Route("", f"{MANAGEMENT_SERVICE}/SetDefault", (DENIED, DENIED, MISSING), (UNKNOWN, UNKNOWN)),
    ),
}


def status(address: tuple[str, int], route: Route, key: str | None) -> int:
    """The status of a request over HTTP, with a body that is not an image where the method has one."""
    connection = http.client.HTTPConnection(*address, timeout=30)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    connection.request(route.method, route.path, b"x" if route.method in ("POST", "PUT") else None, headers)
    found = connection.getresponse().status
    connection.close()
    return found


def code(address: tuple[str, int], route: Route, key: str | None) -> str:
    """The code of a call over gRPC, whose message names a model that is not there (field 1)."""
    metadata = [("protocol", "gRPC")] + ([] if key is None else [("authorization", f"Bearer {key}")])
    with grpc.insecure_channel("{}:{}".format(*address), [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(route.path)(b"\x0a\x04none", metadata=metadata, timeout=30)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def check(
    ask: Callable[[tuple[str, int], Route, str | None], int | str],
    address: tuple[str, int],
    keys: Iterable[str | None],
    expected: Iterable[tuple[Route, tuple[int | str | None, ...]]],
) -> None:
    """Fail with all routes that are not answered as the table says."""
    keys = list(keys)
    found = []
    for route, answers in expected:
        got = tuple(
            None if answer is None else ask(address, route, key) for key, answer in zip(keys, answers, strict=True)
        )
        if got != answers:
            found.append(f"{route.method} {route.path}: {got}, expected {answers}")
    if found:
        pytest.fail("\n".join(found))


@pytest.mark.parametrize("api", [*HTTP, *GRPC])
def test_route_on_loopback(server: LocalServer, gateway: Gateway, api: str) -> None:
    """Without its own key no API answers anything but its description and metrics; with it, no code can be loaded."""
    other, own = ("inference", "management") if "management" in api else ("management", "inference")
    ask, table = (status, HTTP[api]) if api in HTTP else (code, GRPC[api])
    keys = [None, server.key(other), server.key(own)]
    check(ask, server.addresses[api], keys, [(route, route.direct) for route in table])
    assert server.models() == [MODEL]
    assert [worker["status"] for worker in server.workers(MODEL)] == ["READY"]


@pytest.mark.parametrize("api", [*HTTP, *GRPC])
def test_route_through_the_gateway(server: LocalServer, gateway: Gateway, key: tuple[Path, str], api: str) -> None:
    """Of all of them only predictions pass, and only with a key of the gateway."""
    over_grpc = api in GRPC
    listen = gateway.settings.listen_grpc if over_grpc else gateway.settings.listen
    host, _, port = listen.rpartition(":")
    ask, table = (code, GRPC[api]) if over_grpc else (status, HTTP[api])
    expected = [(route, route.through) for route in table]
    check(ask, (host, int(port)), [None, key[1]], expected)
    # TorchServe's own keys are worth nothing at the gateway.
    for name in ("inference", "management", "API"):
        check(ask, (host, int(port)), [server.key(name)], [(r, r.through[:1]) for r in table])


def listeners(process: psutil.Process) -> set[tuple[str, int]]:
    """Addresses on which a process and all that it has started accept connections, or datagrams."""
    family = [process, *process.children(recursive=True)]
    connections = [one for member in family for one in member.net_connections("inet")]
    waiting = [one for one in connections if one.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)]
    # Java's sockets are of IPv6, and bound to addresses of IPv4.
    return {(one.laddr.ip.removeprefix("::ffff:"), one.laddr.port) for one in waiting}


def reached(process: psutil.Process) -> set[tuple[str, int]]:
    """Those of the addresses that are not on loopback."""
    return {(ip, port) for ip, port in listeners(process) if not ipaddress.ip_address(ip).is_loopback}


def test_only_a_gateway_can_be_reached_from_outside(server: LocalServer, gateway: Gateway, tmp_path: Path) -> None:
    """All listening sockets of server, workers, gateway and bridge: loopback, but for a gateway with TLS and keys."""
    assert listeners(psutil.Process(server.pid)) == set(server.addresses.values())
    assert reached(psutil.Process()) == set()

    recorder = Recorder()
    ports = free_ports(2)
    listen, listen_grpc = (f"0.0.0.0:{port}" for port in ports)
    tls = write_certificate(tmp_path)
    with open_site(tmp_path, recorder, listen=listen, listen_grpc=listen_grpc, tls=tls).nginx:
        assert reached(psutil.Process()) == {("0.0.0.0", port) for port in ports}  # noqa: S104 - the gateway's
    recorder.close()


def test_sockets_in_files_are_private(server: LocalServer, gateway: Gateway) -> None:
    """Workers and the gateway's inner server listen in folders that only their user can enter."""
    for folder in (server.temporary.parent, gateway.folder):
        assert folder.stat().st_mode & 0o077 == 0, folder


def test_worker_decodes_in_a_sandbox_where_there_is_one(server: LocalServer, gateway: Gateway) -> None:
    """As it says in its log."""
    sandbox = "bubblewrap" if DECODING.is_sandboxed else "none"
    log = (server.folder / "logs" / "server.log").read_text(encoding="utf-8")
    ready = [line for line in map(json.loads, log.splitlines()) if line["event"] == "ready"]
    assert {line["sandbox"] for line in ready} == {sandbox}
