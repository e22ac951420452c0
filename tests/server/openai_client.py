"""OpenAI's own client, pointed at a server of ours or at the gateway in front of it."""

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from launcher.gateway.gateway import Gateway
from launcher.gateway.keys import add_key
from launcher.gateway.settings import Settings
from launcher.local_server import LocalServer
from launcher.ports import free_ports
from tests.gateway.conftest import has_nginx

WAYS = ("server", pytest.param("gateway", marks=pytest.mark.gateway))
"""How a client reaches a model: values of a parameter of tests, and of `open_way`."""


@contextlib.contextmanager
def open_way(way: str, server: LocalServer, model: str, version: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Arguments of a client for one model: what a user writes, without retries.

    folder : empty, for the keys of the gateway, which runs for as long as this
    """
    if way == "server":
        url = f"{server.url}/predictions/{model}/{version}/v1"
        yield {"base_url": url, "api_key": server.key(), "max_retries": 0}
        return
    if not has_nginx():
        pytest.skip("nginx is not installed; `make test-gateway` installs it")
    http_port, grpc_port = free_ports(2)
    key = add_key(folder / "keys", "tests")
    settings = Settings(
        listen=f"127.0.0.1:{http_port}",
        listen_grpc=f"127.0.0.1:{grpc_port}",
        keys=folder / "keys",
        model=model,
        requests_per_second=1000,
        burst=1000,
    )
    with Gateway(server, settings) as gateway:
        gateway.start()
        yield {"base_url": f"{gateway.url}/v1", "api_key": key, "max_retries": 0}


def open_client(address: dict[str, Any]) -> openai.OpenAI:
    """A blocking client, without a proxy."""
    return openai.OpenAI(**address, http_client=openai.DefaultHttpxClient(trust_env=False))


def image_part(image: bytes, kind: str = "image/png") -> dict[str, Any]:
    """A part of a message with an image."""
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{base64.b64encode(image).decode()}"}}


def user(*parts: Any) -> dict[str, Any]:
    """A message of the user, of texts and images."""
    return {
        "role": "user",
        "content": [{"type": "text", "text": p} if isinstance(p, str) else image_part(p) for p in parts],
    }
