"""What runs on the client's host: users who each send the next request when the last one is answered.

python -m tests.hosts.client_host ADDRESS NAME CA KEY MODEL IMAGE USERS SECONDS WAYS OPTIONS > outcomes.jsonl

WAYS is http, grpc, or both: "http,grpc". Prints at its end a line for each answer: when its request began, in seconds
since the epoch, how long it took, its id, its status (0: no answer), a hash of the report, and the version that wrote
it. SIGTERM ends the load once the requests in hand are answered.
"""

import contextlib
import hashlib
import http.client
import itertools
import json
import os
import signal
import socket
import ssl
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from prelim_client.grpc_messages import SERVICE, message_classes

HTTP_PORT, GRPC_PORT = 8088, 8089


class NamedConnection(http.client.HTTPSConnection):
    """A connection to an address whose certificate has a name."""

    def __init__(self, address: str, name: str, context: ssl.SSLContext) -> None:
        super().__init__(name, context=context, timeout=330)
        self._address = address
        self._ssl = context

    def connect(self) -> None:
        """Connect to the address, and check the name."""
        host, _, port = self._address.rpartition(":")
        plain = socket.create_connection((host, int(port)), self.timeout)
        self.sock = self._ssl.wrap_socket(plain, server_hostname=self.host)


@dataclass(frozen=True)
class Load:
    """What to send, and where; the order is that of the command line."""

    address: str
    name: str
    ca: str
    key: str
    model: str
    image: str
    users: str
    seconds: str
    ways: str
    options: str


class OverHttp:
    """Asks over HTTP, without retries."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._context = ssl.create_default_context(cafile=load.ca)
        self._body = form(Path(load.image).read_bytes(), json.loads(load.options))

    def ask(self, name: str) -> tuple[int, dict[str, Any]]:
        """Status and answer of a request with this id; 0 without one."""
        headers = {
            "Authorization": f"Bearer {self._load.key}",
            "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
            "X-Request-Id": name,
        }
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = NamedConnection(f"{self._load.address}:{HTTP_PORT}", self._load.name, self._context)
            connection.request("POST", f"/predictions/{self._load.model}", self._body, headers)
            response = connection.getresponse()
            contents = response.read()
            connection.close()
            return response.status, json.loads(contents)
        return 0, {}


class OverGrpc:
    """Asks over gRPC, without retries but for calls that never left (gRPC proposal A6, "transparent")."""

    def __init__(self, load: Load) -> None:
        self._load = load
        messages = message_classes()
        inputs = {name: str(value).encode() for name, value in json.loads(load.options).items()}
        self._inputs = inputs | {"image": Path(load.image).read_bytes()}
        self._request = messages["PredictionsRequest"]
        self._channel = grpc.secure_channel(
            f"{load.address}:{GRPC_PORT}",
            grpc.ssl_channel_credentials(Path(load.ca).read_bytes()),
            # Each user has a connection, as over HTTP.
            options=(("grpc.ssl_target_name_override", load.name), ("grpc.use_local_subchannel_pool", 1)),
        )
        self._call = self._channel.unary_unary(
            f"{SERVICE}/Predictions",
            request_serializer=self._request.SerializeToString,
            response_deserializer=messages["PredictionResponse"].FromString,
        )

    def ask(self, name: str) -> tuple[int, dict[str, Any]]:
        """The same; the status is that of the error in the answer, if there is one."""
        request = self._request(model_name=self._load.model, input=self._inputs | {"request_id": name.encode()})
        metadata = (("authorization", f"Bearer {self._load.key}"), ("x-request-id", name))
        try:
            answer = json.loads(self._call(request, timeout=330, metadata=metadata).prediction)
        except grpc.RpcError as error:
            return 0, {"error": f"{error.code()} {error.details()}"}
        return answer.get("error", {}).get("code", 200), answer


WAYS: dict[str, type[OverHttp | OverGrpc]] = {"http": OverHttp, "grpc": OverGrpc}


def main(load: Load) -> None:
    """Send requests."""
    end, done = time.time() + float(load.seconds), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    lines, ways = list[str](), load.ways.split(",")

    def use(user: int) -> None:
        way = ways[user % len(ways)]
        asking = WAYS[way](load)
        for number in itertools.count():
            begin, name = time.time(), f"{way}.{user}.{number}"
            if begin >= end or done.is_set():
                return
            status, answer = asking.ask(f"{os.getpid()}.{name}")
            line = {
                "begin": begin,
                "seconds": time.time() - begin,
                "id": f"{os.getpid()}.{name}",
                "way": way,
                "status": status,
                "report": hashlib.sha256(answer.get("report", "").encode()).hexdigest()[:8],
                "version": answer.get("model", {}).get("version"),
                "error": answer.get("error"),
            }
            lines.append(json.dumps(line))

    threads = [threading.Thread(target=use, args=(user,)) for user in range(int(load.users))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Not before: a pipe that nobody reads yet takes 64 kB, and then keeps all users.
    print(*lines, sep="\n")


BOUNDARY = "part"


def form(image: bytes, options: dict[str, object]) -> bytes:
    """A multipart body."""
    parts = [b'Content-Disposition: form-data; name="image"; filename="image"\r\n\r\n' + image]
    for name, value in options.items():
        parts.append(f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode())
    return b"".join(b"--part\r\n" + part + b"\r\n" for part in parts) + b"--part--\r\n"


if __name__ == "__main__":
    main(Load(*sys.argv[1:]))
