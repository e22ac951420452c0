"""Chat completions for the tests: what a client sends, and what it gets."""

import base64
import json
from typing import Any

from tests.handlers.frontend import Frontend, Job

PATH = {"url_path": "v1/chat/completions", "Content-Type": "application/json"}


def uri(contents: bytes, kind: str = "image/png") -> str:
    """A data URI."""
    return f"data:{kind};base64,{base64.b64encode(contents).decode()}"


def url(address: str) -> dict[str, Any]:
    """A part with this address."""
    return {"type": "image_url", "image_url": {"url": address}}


def image(contents: bytes = b"lungs") -> dict[str, Any]:
    """A part with an image."""
    return {"type": "image_url", "image_url": {"url": uri(contents)}}


def user(*parts: Any) -> dict[str, Any]:
    """A message of the user; texts are parts, too."""
    return {"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}


def assistant(text: str) -> dict[str, Any]:
    """What clients send back of an answer."""
    return {"role": "assistant", "content": text, "refusal": None, "tool_calls": None}


def submit(frontend: Frontend, *messages: dict[str, Any], **members: Any) -> Job:
    """A chat completion, run to its end."""
    body = {"model": "fake", "messages": list(messages) or [user(image())], **members}
    job = frontend.submit({"body": json.dumps(body).encode()}, PATH)
    frontend.run()
    return job


def error(job: Job) -> dict[str, Any]:
    """The error of a request that was refused, without the request's id."""
    assert job.status is not None
    assert 400 <= job.status < 600
    return {name: value for name, value in job.body["error"].items() if name != "request_id" or not value}


def events(job: Job) -> list[dict[str, Any]]:
    """The objects of a stream, which ends as it must."""
    lines = [line for line in b"".join(job.chunks).decode().split("\n\n") if line and not line.startswith(":")]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]
