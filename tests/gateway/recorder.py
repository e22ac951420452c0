"""A server that notes every byte it is sent, instead of TorchServe."""

import socket
import threading
from dataclasses import dataclass, field


@dataclass
class Seen:
    """What one connection has carried.

    head, body : of its first request
    rest       : what follows the body; a second request, if there is anything
    """

    head: bytes = b""
    body: bytes = b""
    rest: bytes = b""

    @property
    def target(self) -> str:
        """Method and path."""
        return self.head.split(b" HTTP/")[0].decode()

    @property
    def headers(self) -> dict[str, str]:
        """By name in lower case."""
        lines = self.head.decode().split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


@dataclass
class Recorder:
    """Listens on a free port of loopback and answers every connection once.

    turns   : answers of the next requests, in this order; then
    answers : by method and path; `answer` for others
    """

    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n{}\n"
    answers: dict[str, bytes] = field(default_factory=dict)
    turns: list[bytes] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        # Without this the thread that waits in `accept` would take one more connection.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        seen = Seen()
        with connection:
            connection.settimeout(20)
            data = b""
            while b"\r\n\r\n" not in data and (more := connection.recv(65536)):
                data += more
            head, _, body = data.partition(b"\r\n\r\n")
            if not head:
                return
            seen.head = head
            # Before its body: a request that is sent on before it is complete must be seen.
            self.seen.append(seen)
            length = int(seen.headers.get("content-length", 0))
            while len(body) < length and (more := connection.recv(65536)):
                body += more
            seen.body, seen.rest = body[:length], body[length:]
            answer = self.turns.pop(0) if self.turns else self.answers.get(seen.target, self.answer)
            connection.sendall(answer)
            if not answer:
                # As a server that dies does; a client that was only slow to read would be given up.
                return
            # Whatever else comes on this connection would be a hidden request.
            connection.settimeout(0.2)
            try:
                while more := connection.recv(65536):
                    seen.rest += more
            except OSError:
                pass
