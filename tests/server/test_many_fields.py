"""Requests with very many fields are refused at once, and the worker continues."""

import pytest
import requests

from launcher.local_server import LocalServer
from prelim_client.answers import ReportError
from prelim_client.grpc_client import GrpcClient
from prelim_client.http_client import HttpClient
from tests.server.conftest import MODEL
from tests.tiny_model import png

pytestmark = pytest.mark.server


def test_60_000_parts_are_refused(server: LocalServer, http: HttpClient) -> None:
    """A form of 60,000 parts gets 413 from the same worker that answers the next request."""
    (worker,) = server.workers(MODEL)
    part = '--x\r\nContent-Disposition: form-data; name="field{}"\r\n\r\n1\r\n'
    form = "".join(part.format(i) for i in range(60_000)) + "--x--\r\n"
    headers = {"Authorization": f"Bearer {server.key()}", "Content-Type": "multipart/form-data; boundary=x"}

    response = requests.post(http.url, data=form.encode(), headers=headers, timeout=60)

    assert response.status_code == 413
    assert "60000 fields; at most 48" in response.json()["error"]["message"]
    assert http.report(png())["status"] == "UNVERIFIED"
    assert server.workers(MODEL)[0]["pid"] == worker["pid"]


def test_grpc_map_of_100_000_inputs_is_refused(server: LocalServer, grpc_client: GrpcClient) -> None:
    """A gRPC map of 100,000 inputs gets the error 413 from the same worker that answers the next request."""
    (worker,) = server.workers(MODEL)

    with pytest.raises(ReportError, match="100001 fields; at most 48") as caught:
        grpc_client.report(png(), **{f"field{i}": "1" for i in range(100_000)})

    assert caught.value.code == 413
    assert grpc_client.report(png())["status"] == "UNVERIFIED"
    assert server.workers(MODEL)[0]["pid"] == worker["pid"]
