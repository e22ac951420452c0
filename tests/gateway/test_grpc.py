"""gRPC through the gateway: one method of a server that notes what it is called."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from launcher.environment import ROOT
from tests.gateway.conftest import TORCHSERVE_KEY, Site, eventually, open_site, write_certificate
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
    """A server's only handler: takes every method, notes its metadata, and answers with the request.

    failures : code and details of the next calls, in order
    """

    failures: list[tuple[grpc.StatusCode, str]] = field(default_factory=list)
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
            if self.failures:
                context.abort(*self.failures.pop(0))
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


def call(
    site: Site, body: bytes = b"x", path: str = PREDICTIONS, key: str | None = None, policy: Any = None, **metadata: str
) -> bytes:
    """The answer to a call. Raises grpc.RpcError."""
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
    if policy is not None:
        options.append(("grpc.service_config", json.dumps(policy)))
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


def test_id_is_in_the_metadata(start: Callable[..., Site], called: Called) -> None:
    """Of the answer and of an error, once; a client's is kept, and reaches the server."""
    site = start()

    def ids(call: Any) -> list[str]:
        metadata = [*(call.initial_metadata() or ()), *(call.trailing_metadata() or ())]
        return [value for name, value in metadata if name == "x-request-id"]

    def ask(key: str, *given: tuple[str, str]) -> Any:
        metadata = [("authorization", f"Bearer {key}"), *given]
        return channel.unary_unary(PREDICTIONS).with_call(b"x", metadata=metadata, timeout=20)[1]

    with grpc.insecure_channel(site.settings.listen_grpc, [("grpc.enable_http_proxy", 0)]) as channel:
        assert ids(ask(site.key, ("x-request-id", "case-7"))) == ["case-7"]
        assert called.seen[-1][1]["x-request-id"] == "case-7"
        (made,) = ids(ask(site.key, ("x-request-id", "DOE^JANE")))
        assert called.seen[-1][1]["x-request-id"] == made != "DOE^JANE"
        with pytest.raises(grpc.RpcError) as refused:
            ask("tests.wrong", ("x-request-id", "case-8"))
    assert ids(refused.value) == ["case-8"]


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


def test_log_has_the_code_of_a_refusal(start: Callable[..., Site], called: Called) -> None:
    """That of HTTP for the same, by which alerts count them."""
    site = start(server_requests=1)
    called.go_on.clear()
    with futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(call, site)
        assert called.entered.wait(20)
        failure(site)
        called.go_on.set()
        first.result()
    failure(site, key="tests")
    failure(site, path=CLOSED[0])
    failure(site, large=9000 * "a")
    assert eventually(lambda: len(site.log) == 5)
    assert sorted(json.loads(line)["code"] for line in site.log) == [200, 401, 404, 413, 503]


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


def test_other_metadata_passes_and_means_nothing(start: Callable[..., Site], called: Called) -> None:
    """As unknown headers do over HTTP (RFC 9110 section 5.1). What a request says is in its message."""
    given = {"x-prelim-num-beams": "4", "num_beams": "4", "seed": "1", "grammar": "x", "tracestate": "a=b"}
    assert call(start(), **given) == b"x"
    ((_, metadata),) = called.seen
    # nginx drops names with underscores.
    assert metadata.items() >= {name: value for name, value in given.items() if "_" not in name}.items()
    assert "num_beams" not in metadata


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


DIED = "Worker died.\norg.pytorch.serve.http.InternalServerException"
POLICY = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 2,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE"],
            },
        }
    ]
}
"""What docs/gateway.md gives for gRPC clients that are not ours."""

CODES = (grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED)
"""Of TorchServe for a worker that has died by itself, or was killed."""


def refused(site: Site) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
    """Status, details and trailing metadata of a call that fails."""
    with pytest.raises(grpc.RpcError) as failed:
        call(site)
    return failed.value.code(), failed.value.details(), dict(failed.value.trailing_metadata() or ())


@pytest.mark.parametrize("code", CODES)
def test_documented_policy_survives_a_death(start: Callable[..., Site], called: Called, code: Any) -> None:
    """A second attempt is answered; after a second death there is no third."""
    site = start()
    called.failures.append((code, DIED))
    assert call(site, policy=POLICY) == b"x"
    called.failures += [(code, DIED), (code, DIED)]
    called.seen.clear()
    assert failure(site, policy=POLICY) is code
    assert len(called.seen) == 2
    assert json.dumps(POLICY) in (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")


def test_documented_policy_does_not_defeat_limits(start: Callable[..., Site], called: Called) -> None:
    """A client over its rate is told not to try again, and does not."""
    site = start(requests_per_second=1, burst=1)
    codes = []
    for _ in range(4):
        try:
            call(site, policy=POLICY)
        except grpc.RpcError as error:
            codes.append(error.code())
    assert len(codes) >= 2
    assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert eventually(lambda: len(site.log) >= 4)
    assert len(site.log) == 4


def test_requests_of_both_protocols_count_together(tmp_path: Path, called: Called) -> None:
    """While a call is answered, a request over HTTP has no place and is refused at once."""
    recorder = Recorder()
    site = open_site(tmp_path, recorder, upstream_grpc=called.port, server_requests=1)  # type: ignore[attr-defined]
    called.go_on.clear()
    with site.nginx, futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(call, site)
        assert called.entered.wait(20)
        # Larger than what fits between two sockets.
        status, headers, contents = site.ask("POST", "/predictions/demo", bytes(4_000_000))
        assert (status, headers["retry-after"], contents["error"]["type"]) == (503, "5", "Overloaded")
        code, details, metadata = refused(site)
        assert (code, metadata["grpc-retry-pushback-ms"]) == (grpc.StatusCode.UNAVAILABLE, "5000")
        assert "overloaded" in details
        called.go_on.set()
        assert first.result() == b"x"
        assert site.ask("POST", "/predictions/demo", b"x")[0] == 200
    recorder.close()


@pytest.mark.parametrize(
    "failed",
    [
        (grpc.StatusCode.INTERNAL, "Prediction failed"),
        (grpc.StatusCode.NOT_FOUND, "no such model: caf\u00e9 100%"),
        (grpc.StatusCode.INTERNAL, DIED),
    ],
)
def test_other_errors_pass(start: Callable[..., Site], called: Called, failed: tuple[Any, str]) -> None:
    """With their details."""
    site = start()
    called.failures.append(failed)
    assert refused(site)[:2] == failed
