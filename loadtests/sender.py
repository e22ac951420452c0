"""Sends one planned request and checks the answer."""

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import requests

from loadtests.answer_checks import RepeatCheck, WrongAnswer, check_length, check_report
from loadtests.traffic import GONE, SLOW, SLOW_S, PlannedRequest
from prelim_client.answers import Answer, ReportError, read_answer
from prelim_client.grpc_client import GrpcClient
from prelim_client.http_client import HttpClient

SHED_TYPES = ("ServiceUnavailableException", "Overloaded")
"""Error types of a 503 for overload: the frontend's for a full queue, and the handler's own."""

# Over gRPC the frontend reports a full queue as INTERNAL; only the message distinguishes it from other errors. The
# gateway's is UNAVAILABLE.
_SHED_WORDS = ("has no worker to serve inference request", "is overloaded or down")


PIECES = 10
"""Pieces in which a slow client sends its body."""

PATIENCE_S = 0.2
"""Seconds after which a client hangs up."""


class Failed(Exception):
    """A request did not get the expected answer.

    shed : the server refused it because of overload
    """

    def __init__(self, message: str, *, shed: bool = False) -> None:
        super().__init__(message)
        self.shed = shed


class KeyFile:
    """TorchServe's key_file.json. The inference key is read again when it expires.

    path : of the file
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._key = ""
        self._expires = datetime.min.replace(tzinfo=UTC)

    def key(self) -> str:
        """The inference key. Raises OSError if the file is missing, KeyError or ValueError if it is not a key file."""
        if datetime.now(UTC) >= self._expires:
            entry = json.loads(self.path.read_text(encoding="utf-8"))["inference"]
            self._key = entry["key"]
            self._expires = datetime.fromisoformat(entry["expiration time"])
        return self._key


class Sender:
    """Sends requests to one server. `send` may be called concurrently.

    url         : HTTP inference API, "http://127.0.0.1:8080"
    grpc_target : gRPC inference API, "127.0.0.1:7070"
    model       : name of the served model
    keys        : source of the inference key
    timeout     : seconds to wait for an answer
    compared    : check only the length of reports, for servers that do not implement our contract
    """

    def __init__(
        self, url: str, grpc_target: str, model: str, keys: KeyFile, timeout: float, *, compared: bool = False
    ) -> None:
        self.url = url
        self.grpc_target = grpc_target
        self.model = model
        self.timeout = timeout
        self._compared = compared
        self._keys = keys
        self._repeats = RepeatCheck()
        self._key = ""
        self._connect()

    def send(self, request: PlannedRequest) -> None:
        """Send a request and wait for its answer.

        Raises Failed when the answer is not the expected report or refusal.
        """
        refusal = request.payload.refusal
        try:
            if request.client == GONE:
                self._hang_up(request)
                return
            answer = self._ask(request)
            if refusal is None:
                self._check(answer, request)
        except ReportError as error:
            if refusal is None or (error.code, error.type) != (refusal.code, refusal.type):
                shed = error.code == 503 and error.type in SHED_TYPES
                # Without the message, which is for the caller and may be long.
                raise Failed(f"{error.code} {error.type}", shed=shed) from error
            return
        except WrongAnswer as error:
            raise Failed(f"200, but {error}") from error
        except requests.RequestException as error:
            raise Failed(f"no answer: {type(error).__name__}") from error
        except grpc.RpcError as error:
            code, details = error.code().name, error.details() or ""
            raise Failed(f"gRPC {code}", shed=any(words in details for words in _SHED_WORDS)) from error
        if refusal is not None:
            raise Failed(f"a report for a file that should get {refusal.code} {refusal.type}")

    def _check(self, answer: Answer, request: PlannedRequest) -> None:
        if self._compared:
            check_length(answer, request)
            return
        check_report(answer, request, self.model)
        self._repeats.check(answer, request)

    def _connect(self) -> None:
        """Create clients with the current key; older clients live on in the requests that use them."""
        key = self._keys.key()
        if key != self._key:
            self._key = key
            self._http = HttpClient(self.url, key, self.model, self.timeout)
            self._grpc = GrpcClient(self.grpc_target, key, self.model, self.timeout)

    def _ask(self, request: PlannedRequest) -> Answer:
        self._connect()
        if request.client == SLOW:
            return self._trickle(request)
        if request.transport == "gRPC":
            return self._grpc.report(request.data, **request.options)
        if request.body == "json":
            return self._http.report_json(request.data, options=dict(request.options))
        return self._http.report(request.data, **request.options)

    def _trickle(self, request: PlannedRequest) -> Answer:
        """Send the bare image in pieces, with pauses."""
        data = request.data
        with self._open(len(data)) as connection:
            size = -(-len(data) // PIECES)
            for begin in range(0, len(data), size):
                connection.send(data[begin : begin + size])
                time.sleep(SLOW_S / PIECES)
            response = connection.getresponse()
            return read_answer(response.read(), response.status)

    def _hang_up(self, request: PlannedRequest) -> None:
        """Send the bare image and close the connection soon after."""
        self._connect()
        data = request.data
        with self._open(len(data)) as connection:
            connection.send(data)
            time.sleep(PATIENCE_S)

    @contextlib.contextmanager
    def _open(self, size: int) -> Iterator[http.client.HTTPConnection]:
        """Connect and send the header of a request of `size` bytes. Raises requests.ConnectionError."""
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=self.timeout)
        try:
            connection.putrequest("POST", f"/predictions/{self.model}")
            connection.putheader("Authorization", f"Bearer {self._key}")
            connection.putheader("Content-Length", str(size))
            connection.endheaders()
            yield connection
        except (OSError, http.client.HTTPException) as error:
            raise requests.ConnectionError from error
        finally:
            connection.close()
