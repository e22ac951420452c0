"""Reports over HTTP."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import requests

from prelim_client.answers import Answer, read_answer
from prelim_client.loopback import open_session


class HttpClient:
    """Requests reports from one server.

    url     : address of the inference API, "http://127.0.0.1:8080"
    key     : inference key, see `read_key`
    model   : name of the served model
    timeout : seconds to wait for an answer
    """

    def __init__(self, url: str, key: str, model: str = "demo", timeout: float = 120) -> None:
        self.url = f"{url}/predictions/{model}"
        self.timeout = timeout
        self._headers = {"Authorization": f"Bearer {key}"}

    def report(self, image: bytes | None = None, **fields: Any) -> Answer:
        """Request a report on an image, sent as the body, or with `fields` (prompt, options, further images) as parts.

        Raises ReportError.
        """
        response = self.post(image, **fields)
        return read_answer(response.content, response.status_code)

    def report_json(self, image: bytes | None = None, **fields: Any) -> Answer:
        """Request a report with a JSON body, where fields can be lists and objects: image_features, messages, options.

        Raises ReportError.
        """
        if image is not None:
            fields["image"] = base64.b64encode(image).decode("ascii")
        response = self._post(json=fields)
        return read_answer(response.content, response.status_code)

    def post(self, image: bytes | None = None, **fields: Any) -> requests.Response:
        """Send a request and return the raw response, whatever its status."""
        if not fields:
            return self._post(data=image)
        return self._post(files=_parts(image, fields))

    def stream(self, image: bytes | None = None, **fields: Any) -> Iterator[Answer]:
        """Yield the lines of a streamed answer: {"text": ...} for every piece, the whole report last.

        Raises ReportError.
        """
        with self._post(files=_parts(image, fields | {"stream": True}), stream=True) as response:
            if response.status_code != 200:
                yield read_answer(response.content, response.status_code)
            for line in response.iter_lines():
                if line:
                    yield read_answer(line, response.status_code)

    def _post(self, **body: Any) -> requests.Response:
        # A new connection each time: after an error the server closes the connection without notice.
        with open_session(self.url) as session:
            return session.post(self.url, headers=self._headers, timeout=self.timeout, **body)


def _parts(image: bytes | None, fields: dict[str, Any]) -> dict[str, tuple[str | None, bytes | str]]:
    """Multipart parts; bytes are files, such as `image_2`, and other values than strings are written as JSON."""
    parts: dict[str, tuple[str | None, bytes | str]] = {
        name: (name, value)
        if isinstance(value, bytes)
        else (None, value if isinstance(value, str) else json.dumps(value))
        for name, value in fields.items()
    }
    if image is not None:
        parts["image"] = ("image", image)
    return parts
