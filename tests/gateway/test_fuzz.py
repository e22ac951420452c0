"""Malformed requests through the gateway to the real TorchServe: none fails inside, and no worker dies."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import grpc
import psutil
import pytest
import requests

from launcher.gateway.gateway import Gateway
from launcher.local_server import LocalServer
from prelim_client.grpc_messages import SERVICE, message_classes
from tests.gateway.conftest import eventually
from tests.gateway.storm import MODEL
from tests.handlers.malformed import Request, malformed_request
from tests.tiny_model import png

pytestmark = [pytest.mark.gateway, pytest.mark.server]

USERS = 6
MAX_LEFT = 0.05
"""Share of the worker's memory that may still be taken at the end."""

MESSAGES = message_classes()


class Sender:
    """Sends malformed requests as their clients would."""

    def __init__(self, gateway: Gateway, key: str) -> None:
        self._headers = {"Authorization": f"Bearer {key}"}
        self._url = gateway.url
        self._metadata = (("authorization", f"Bearer {key}"),)
        self._channel = grpc.insecure_channel(gateway.settings.listen_grpc)
        self._call = self._channel.unary_unary(
            f"{SERVICE}/Predictions",
            request_serializer=MESSAGES["PredictionsRequest"].SerializeToString,
            response_deserializer=MESSAGES["PredictionResponse"].FromString,
        )

    def send(self, request: Request) -> str:
        """The status of the answer: of HTTP, or the name of gRPC's."""
        return self._send_grpc(request) if request.grpc else f"{self._send_http(request)}"

    def _send_http(self, request: Request) -> int:
        path = request.headers.get("url_path", f"predictions/{MODEL}")
        headers = dict(self._headers)
        if set(request.row) == {"body"}:
            headers["Content-Type"] = request.headers.get("body", {}).get("content-type", "application/octet-stream")
            body = {"data": bytes(request.row["body"])}
        else:
            body = {"files": {_utf8(name): (None, bytes(value)) for name, value in request.row.items()}}
        with requests.Session() as session:
            session.trust_env = False
            return session.post(f"{self._url}/{path}", headers=headers, timeout=120, **body).status_code

    def _send_grpc(self, request: Request) -> str:
        message = MESSAGES["PredictionsRequest"](model_name=MODEL)
        for name, value in request.row.items():
            message.input[_utf8(name)] = bytes(value)
        try:
            self._call(message, metadata=self._metadata, timeout=120)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


def _utf8(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


FAILED_INSIDE = ("INTERNAL", "UNAVAILABLE", "UNKNOWN", "CANCELLED", "DEADLINE_EXCEEDED")


@pytest.mark.parametrize("count", [150, pytest.param(5000, marks=pytest.mark.exhaustive)])
def test_malformed_requests_reach_no_fault(
    server: LocalServer, gateway: Gateway, key: tuple[Path, str], count: int
) -> None:
    """Neither 5xx nor gRPC's words for it; the same worker; its memory as before; a report in the end."""
    server.wait_until_ready(MODEL)
    (worker,) = server.workers(MODEL)
    random, sender = Random(count), Sender(gateway, key[1])
    shape = (49, 576)

    def rage(number: int) -> Counter[tuple[str, str]]:
        plan = [malformed_request(random, shape) for _ in range(number)]
        with ThreadPoolExecutor(USERS) as users:
            return Counter(zip((one.kind for one in plan), users.map(sender.send, plan), strict=True))

    # Before, caches fill and libraries load.
    statuses = rage(count // 10)
    before = psutil.Process(worker["pid"]).memory_info().rss
    for _ in range(9):
        statuses += rage(count // 10)
    failed = {what: n for what, n in statuses.items() if what[1] in FAILED_INSIDE or what[1].startswith("5")}
    assert failed == {}, statuses
    assert [one["pid"] for one in server.workers(MODEL)] == [worker["pid"]]
    if count >= 1000:
        assert eventually(lambda: psutil.Process(worker["pid"]).memory_info().rss <= (1 + MAX_LEFT) * before)
    assert sender.send(Request("good", {"image": png(1)})) == "200"


def test_part_without_a_name_harms_nobody(server: LocalServer, gateway: Gateway, key: tuple[Path, str]) -> None:
    """TorchServe's 500 is the client's mistake: a 400 in our shape, and the worker is the same."""
    (worker,) = server.workers(MODEL)
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": f"Bearer {key[1]}"}
        form = {"image": ("image", png(1)), " ": (None, b"x")}
        answer = session.post(f"{gateway.url}/predictions/{MODEL}", headers=headers, files=form, timeout=120)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "UnreadableForm")
    assert [one["pid"] for one in server.workers(MODEL)] == [worker["pid"]]
