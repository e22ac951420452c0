"""gRPC through the gateway: one method of a server that notes what it is called."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.gateway.conftest import TORCHSERVE_KEY, Site, open_site, write_certificate
from tests.gateway.recorder import Recorder

pytestmark = pytest.mark.gateway

SERVICE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService"
PREDICTIONS = f"{SERVICE}/Predictions"
MANAGEMENT = "/org.pytorch.serve.grpc.management.ManagementAPIsService"
CLOSED = (
    *(f"{SERVICE}/{method}" for method in ("Ping", "StreamPredictions", "StreamPredictions2", "predictions")),
    *(f"{MANAGEMENT}/{method}" for method in ("RegisterModel", "UnregisterModel", "ListModels", "ScaleWorker")),
    *("/", "/predictions/demo", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
    *("/inference.GRPCInferenceService/ModelInfer", f"{PREDICTIONS}/", f"/{PREDICTIONS}", f"{PREDICTIONS}?a=b"),
    *(f"{SERVICE}/%50redictions", f"{MANAGEMENT}/ListModels/../..{PREDICTIONS}", f"/.{PREDICTIONS}"),
)


@dataclass
class Called(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A server's only handler: takes every method, notes its metadata, and answers with the request."""

    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    entered: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.go_on.set()

    def service(self, details: Any) -> Any:
        """Return what serves this call."""
        self.seen.append((details.method, dict(details.invocation_metadata)))

        def answer(request: bytes, context: Any) -> bytes:
            self.entered.set()
            self.go_on.wait(20)
            return request

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def called() -> Iterator[Called]:
    """The handler of a server that runs."""
    handler = Called()
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=(handler,))
    handler.port = server.add_insecure_port("127.0.0.1:0")  # type: ignore[attr-defined]
    server.start()
    yield handler
    server.stop(None)


@pytest.fixture
def start(called: Called, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Starts a gateway in front of it, with changed settings."""
    recorder = Recorder()
    sites: list[Site] = []

    def start(**changes: Any) -> Site:
        sites.append(open_site(tmp_path, recorder, upstream_grpc=called.port, **changes))  # type: ignore[attr-defined]
        return sites[-1]

    yield start
    for site in sites:
        site.nginx.stop()
    recorder.close()


def call(site: Site, body: bytes = b"x", path: str = PREDICTIONS, key: str | None = None, **metadata: str) -> bytes:
    """The answer to a call. Raises grpc.RpcError."""
    options = [("grpc.enable_http_proxy", 0)]
    if site.settings.tls is None:
        channel = grpc.insecure_channel(site.settings.listen_grpc, options)
    else:
        credentials = grpc.ssl_channel_credentials(site.settings.tls.certificate.read_bytes())
        channel = grpc.secure_channel(site.settings.listen_grpc, credentials, options)
    given = [("authorization", f"Bearer {site.key if key is None else key}"), *metadata.items()]
    with channel:
        answer: bytes = channel.unary_unary(path)(body, metadata=given, timeout=20)
        return answer


def failure(site: Site, *arguments: Any, **options: Any) -> grpc.StatusCode:
    """The status of a call that fails."""
    with pytest.raises(grpc.RpcError) as failed:
        call(site, *arguments, **options)
    return failed.value.code()


def test_predictions_pass_with_torchserves_key(start: Callable[..., Site], called: Called) -> None:
    """Whole, also large ones; the client's key stays here."""
    site = start()
    body = bytes(range(256)) * 8000
    assert call(site, body, protocol="REST") == body
    ((method, metadata),) = called.seen
    assert method == PREDICTIONS
    assert (metadata["authorization"], metadata["protocol"]) == (f"Bearer {TORCHSERVE_KEY}", "gRPC")
    assert site.key.partition(".")[2] not in str(metadata)


def test_tls(start: Callable[..., Site], called: Called, tmp_path: Path) -> None:
    """With the certificate of the settings."""
    assert call(start(tls=write_certificate(tmp_path))) == b"x"


def test_other_methods_never_reach_the_server(start: Callable[..., Site], called: Called) -> None:
    """Neither of other services nor by another spelling of the path."""
    site = start()
    assert {path: failure(site, path=path) for path in CLOSED} == dict.fromkeys(CLOSED, grpc.StatusCode.UNIMPLEMENTED)
    assert called.seen == []


@pytest.mark.parametrize("key", ["", "tests", "tests." + 43 * "a", TORCHSERVE_KEY])
def test_without_a_key_nothing_reaches_the_server(start: Callable[..., Site], called: Called, key: str) -> None:
    """UNAUTHENTICATED, also with TorchServe's own."""
    assert failure(start(), key=key) is grpc.StatusCode.UNAUTHENTICATED
    assert called.seen == []


def test_fast_client_is_slowed_down(start: Callable[..., Site], called: Called) -> None:
    """Over its rate its calls are RESOURCE_EXHAUSTED, which is 429 over HTTP."""
    site = start(requests_per_second=1, burst=1)
    codes = []
    for _ in range(4):
        try:
            call(site)
        except grpc.RpcError as error:
            codes.append(error.code())
    assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_large_message_is_refused(start: Callable[..., Site], called: Called) -> None:
    """Over the size that HTTP has."""
    with pytest.raises(grpc.RpcError) as refused:
        call(start(), bytes(64 * 2**20 + 1000))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "too large" in refused.value.details()
    assert called.seen == []


def test_large_metadata_is_refused_for_good(start: Callable[..., Site], called: Called) -> None:
    """UNAVAILABLE would be tried again by clients."""
    site = start()
    for size in (9000, 60_000):
        assert failure(site, large=size * "a") is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure(site, **{f"large{i}": 4000 * "a" for i in range(10)}) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert called.seen == []


def test_an_unfinished_message_never_reaches_the_server(start: Callable[..., Site], called: Called) -> None:
    """It is read whole before the server sees anything of the call."""
    site, sent = start(), threading.Event()

    def messages() -> Iterator[bytes]:
        yield bytes(100_000)
        sent.set()
        threading.Event().wait(1)

    with grpc.insecure_channel(site.settings.listen_grpc, [("grpc.enable_http_proxy", 0)]) as channel:
        metadata = [("authorization", f"Bearer {site.key}")]
        answer = channel.stream_unary(PREDICTIONS).future(messages(), metadata=metadata, timeout=20)
        assert sent.wait(20)
        time.sleep(0.5)
        assert called.seen == []
        answer.cancel()


def test_headers_that_mean_something_to_a_server_stay_here(start: Callable[..., Site], called: Called) -> None:
    """Those of TorchServe's HTTP interface, and those that say who asks."""
    call(start(), explain="True", describe="True", url_path="x", cookie="x", **{"x-forwarded-for": "x"})
    ((_, metadata),) = called.seen
    assert {"explain", "describe", "url_path", "cookie", "x-forwarded-for"}.isdisjoint(metadata)


def test_overload_is_unavailable(start: Callable[..., Site], called: Called) -> None:
    """While TorchServe has as many requests as it is set to have, others may try again later."""
    site = start(server_requests=1)
    called.go_on.clear()
    with futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(call, site)
        assert called.entered.wait(20)
        assert failure(site) is grpc.StatusCode.UNAVAILABLE
        called.go_on.set()
        assert first.result() == b"x"
    assert call(site) == b"x"


def test_server_that_is_down_is_unavailable(start: Callable[..., Site], tmp_path: Path) -> None:
    """As over HTTP, where it is 503."""
    recorder = Recorder()
    recorder.close()
    site = open_site(tmp_path, recorder)
    with site.nginx:
        assert failure(site) is grpc.StatusCode.UNAVAILABLE
