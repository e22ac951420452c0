"""What happens to requests when a worker dies or a client goes away."""

import os
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import grpc
import pytest
import requests

from launcher.gateway.upstream import DEATH_BYTES
from launcher.local_server import LocalServer
from prelim_client.answers import ReportError
from prelim_client.grpc_client import GrpcClient
from prelim_client.http_client import HttpClient
from tests.server.conftest import MODEL, SLOTS
from tests.tiny_model import png

pytestmark = pytest.mark.server

LONG = {"max_new_tokens": 1000, "min_new_tokens": 1000}
"""Seconds of decoding, even for the tiny model."""


def active_requests(server: LocalServer) -> float:
    """The last value of the gauge."""
    values = [line.split()[-1] for line in server.metrics().splitlines() if line.startswith("prelim_active_requests{")]
    return float(values[0]) if values else 0


def canceled(server: LocalServer) -> float:
    """How many requests have been canceled since the server started."""
    values = [line.split()[-1] for line in server.metrics().splitlines() if line.startswith("prelim_cancelled_total{")]
    return float(values[0]) if values else 0


def wait_for(what: str, seconds: float, holds: object) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():  # type: ignore[operator]
            return
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds} s")


def timed(call: object, *arguments: object, **options: object) -> tuple[object, float]:
    """What a call answered, and when."""
    try:
        answer = call(*arguments, **options)  # type: ignore[operator]
    except (ReportError, grpc.RpcError) as error:
        answer = error
    return answer, time.monotonic()


def test_worker_dies_during_a_decode(server: LocalServer, http: HttpClient, grpc_client: GrpcClient) -> None:
    """The client sends those in the batch again, those that wait are answered, and so is the next.

    Without a client that does so, TorchServe's answer is a 5xx, within the time of a start.
    """
    (worker,) = server.workers(MODEL)
    with ThreadPoolExecutor(SLOTS + 4) as pool:
        in_flight: list[Future[tuple[object, float]]] = [
            pool.submit(timed, http.report, png(i), num_beams=2, **LONG) for i in range(SLOTS - 3)
        ]
        plain = pool.submit(timed, http.post, png(0), num_beams=2, **LONG)
        in_flight += [pool.submit(timed, grpc_client.report, png(i), num_beams=2, **LONG) for i in range(2)]
        wait_for("all slots taken", 60, lambda: active_requests(server) == SLOTS)
        waiting = [pool.submit(timed, http.report, png(i)) for i in range(4)]
        time.sleep(0.5)
        os.kill(worker["pid"], signal.SIGKILL)
        killed = time.monotonic()
        refused, answered = plain.result(timeout=120)
        served = [future.result(timeout=300) for future in in_flight + waiting]

    assert isinstance(refused, requests.Response)
    assert refused.status_code in (500, 507)
    assert "Worker died." in refused.text
    # By which the gateway tells it from an answer to a form that TorchServe cannot read.
    assert len(refused.content) == DEATH_BYTES
    # As long as a worker takes to start, on a machine that runs other tests.
    assert answered - killed < 60
    assert all(isinstance(answer, dict) for answer, _ in served)
    assert [answer["num_tokens"] for answer, _ in served[: SLOTS - 1]] == (SLOTS - 1) * [1000]  # type: ignore[index]
    assert http.report(png(9))["status"] == "UNVERIFIED"
    (restarted,) = server.workers(MODEL)
    assert restarted["pid"] != worker["pid"]


def test_client_that_goes_away_frees_its_slot(server: LocalServer, http: HttpClient) -> None:
    """Streams whose clients disconnect are canceled, so that the next request need not wait for them."""
    before = canceled(server)
    headers = {"Authorization": f"Bearer {server.key()}"}
    parts = {name: (None, str(value)) for name, value in LONG.items()} | {"stream": (None, "true")}
    for i in range(SLOTS):
        response = requests.post(
            http.url, headers=headers, files=parts | {"image": ("image", png(i))}, stream=True, timeout=60
        )
        next(response.iter_lines())
        response.close()
    http.report(png())

    wait_for("all canceled", 10, lambda: canceled(server) == before + SLOTS)


def test_grpc_client_that_goes_away_harms_nobody(server: LocalServer, http: HttpClient) -> None:
    """Calls that run into their deadlines leave the worker alive and their neighbors' reports unchanged."""
    expected = [http.report(png(i))["report"] for i in range(4)]
    with GrpcClient(server.grpc_target, server.key(), MODEL, timeout=0.2) as impatient:
        threads = [
            threading.Thread(target=timed, args=(impatient.report, png(i)), kwargs={"max_new_tokens": 300})
            for i in range(4)
        ]
        for thread in threads:
            thread.start()
        answers = [http.report(png(i))["report"] for i in range(4)]
        for thread in threads:
            thread.join()

    assert answers == expected
