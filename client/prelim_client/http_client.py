"""Reports over HTTP."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import requests

from prelim_client.answers import Answer, WorkerDied, read_answer
from prelim_client.loopback import open_session

ATTEMPT = {"X-Prelim-Attempt": "2"}
"""Header of a second attempt. A gateway then makes no third, and says so if an answer is that of its own second one."""

LOST = (WorkerDied, requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)
"""How a request ends whose worker or host dies; a connection breaks off if its answer had begun."""


class TwoDeaths(requests.RequestException):
    """The answer to a gateway's second attempt broke off, too: the request may be the cause."""


class Abandoned(Exception):
    """Whoever wanted the report has gone; the request was ended."""


class HttpClient:
    """Requests reports from one server.

    A report is a pure function of the request. One that has brought no output because a worker or a host died is sent
    once more, and not a third time, attempts of a gateway included: it may be the cause.

    url     : address of the inference API, "http://127.0.0.1:8080"
    key     : inference key, see `read_key`
    model   : name of the served model
    timeout : seconds to wait for an answer
    request_id : sent with every request, for the logs of the server: 1 to 64 of A-Z, a-z, 0-9, ".", "_" and "-".
                 It must not name a patient
    is_wanted  : asked whenever a part of an answer comes, at least every ten seconds while a report is written; after
                 False the connection is closed, upon which the server stops its work, and Abandoned is raised
    """

    def __init__(
        self,
        url: str,
        key: str,
        model: str = "demo",
        timeout: float = 120,
        request_id: str | None = None,
        *,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self.url = f"{url.rstrip('/')}/predictions/{model}"
        self.timeout = timeout
        self._is_wanted = is_wanted
        self._headers = {"Authorization": f"Bearer {key}"} | ({"X-Request-Id": request_id} if request_id else {})

    def report(self, image: bytes | None = None, **fields: Any) -> Answer:
        """Request a report on an image, sent as the body, or with `fields` (prompt, options, further images) as parts.

        Raises ReportError.
        """
        body: dict[str, Any] = {"files": _parts(image, fields)} if fields else {"data": image}
        return self._read(**body)

    def report_json(self, image: bytes | None = None, **fields: Any) -> Answer:
        """Request a report with a JSON body, where fields can be lists and objects: image_features, messages, options.

        Raises ReportError.
        """
        if image is not None:
            fields["image"] = base64.b64encode(image).decode("ascii")
        return self._read(json=fields)

    def post(self, image: bytes | None = None, **fields: Any) -> requests.Response:
        """Send a request, once, and return the raw response, whatever its status."""
        return self._send({}, **({"files": _parts(image, fields)} if fields else {"data": image}))

    def stream(self, image: bytes | None = None, **fields: Any) -> Iterator[Answer]:
        """Yield the lines of a streamed answer: {"text": ...} for every piece, the whole report last.

        If it breaks off, the second attempt continues after the text that has been yielded, provided that its own text
        begins with that: without a seed, sampling begins otherwise.

        Raises ReportError, requests.RequestException.
        """
        form = _parts(image, fields | {"stream": True})
        yielded = ""
        try:
            for answer in self._lines(form, {}):
                yielded += answer.get("text", "")
                yield answer
        except LOST as lost:
            yield from _resume(self._lines(form, ATTEMPT), yielded, lost)

    def _read(self, **body: Any) -> Answer:
        try:
            return self._read_once(body, {})
        except LOST:
            return self._read_once(body, ATTEMPT)

    def _read_once(self, body: dict[str, Any], attempt: Mapping[str, str]) -> Answer:
        contents = bytearray()
        with self._send(attempt, stream=True, **body) as response:
            for piece in _arriving(response, response.iter_content(None)):
                contents += piece
                if not self._is_wanted():
                    raise Abandoned
        return read_answer(bytes(contents), response.status_code)

    def _lines(self, form: Any, attempt: Mapping[str, str]) -> Iterator[Answer]:
        """The lines of one attempt."""
        with self._send(attempt, files=form, stream=True) as response:
            if response.status_code != 200:
                yield read_answer(response.content, response.status_code)
            for line in _arriving(response, response.iter_lines()):
                if line:
                    yield read_answer(line, response.status_code)

    def _send(self, attempt: Mapping[str, str], **body: Any) -> requests.Response:
        # A new connection each time: after an error the server closes the connection without notice.
        with open_session(self.url) as session:
            return session.post(self.url, headers={**self._headers, **attempt}, timeout=self.timeout, **body)


def _arriving(response: requests.Response, parts: Iterator[bytes]) -> Iterator[bytes]:
    """The parts of an answer. Raises TwoDeaths if it breaks off, and was that of a gateway's second attempt."""
    try:
        yield from parts
    except LOST as lost:
        if response.headers.items() >= ATTEMPT.items():
            raise TwoDeaths(str(lost)) from lost
        raise


def _resume(lines: Iterator[Answer], yielded: str, lost: Exception) -> Iterator[Answer]:
    """The lines of an answer without the text that it begins with. Raises `lost` if it begins with another one."""
    text = ""
    for answer in lines:
        if "report" in answer:
            if not answer["report"].startswith(yielded):
                raise lost
            yield answer
            continue
        begin = max(len(text), len(yielded))
        text += answer["text"]
        if not text.startswith(yielded[: len(text)]):
            raise lost
        if text[begin:]:
            yield {"text": text[begin:]}


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
