"""OpenAI's own client, pointed at a server of ours."""

import base64
from typing import Any

import openai

from launcher.local_server import LocalServer


def address(server: LocalServer, model: str, version: str = "1.0") -> dict[str, Any]:
    """Arguments of a client for one model: what a user writes, without a proxy and without retries."""
    return {
        "base_url": f"{server.url}/predictions/{model}/{version}/v1",
        "api_key": server.key(),
        "max_retries": 0,
    }


def open_client(server: LocalServer, model: str, version: str = "1.0") -> openai.OpenAI:
    """A blocking client."""
    return openai.OpenAI(**address(server, model, version), http_client=openai.DefaultHttpxClient(trust_env=False))


def image_part(image: bytes, kind: str = "image/png") -> dict[str, Any]:
    """A part of a message with an image."""
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{base64.b64encode(image).decode()}"}}


def user(*parts: Any) -> dict[str, Any]:
    """A message of the user, of texts and images."""
    return {
        "role": "user",
        "content": [{"type": "text", "text": p} if isinstance(p, str) else image_part(p) for p in parts],
    }
