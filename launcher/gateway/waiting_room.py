"""Where requests wait while TorchServe's key is replaced.

TorchServe accepts one key at a time, and nginx sends the one that it has read: between a renewal and the end of nginx's
reload every request would be refused. So nginx sends requests to sockets of this process instead, which passes them on
to nginx itself, byte by byte, once that has the new key.
"""

import contextlib
import socket
import threading
from pathlib import Path

WAITING = "renewing"
"""A file in the gateway's folder: while it is there, nginx sends new requests here."""

ROOMS = ("http", "grpc")
BACKLOG = 1024
"""Connections that the kernel keeps for one socket until they are accepted."""

CHUNK = 1 << 16


class WaitingRoom:
    """Two sockets in the gateway's folder, `wait_http.sock` and `wait_grpc.sock`.

    folder : of the gateway; nginx listens on `inner_http.sock` and `inner_grpc.sock` there
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sign = folder / WAITING
        self._may_go = threading.Event()
        self._lock = threading.Lock()
        self.waiting = 0
        self._sockets = [self._listen(room) for room in ROOMS]
        # A gateway that was killed may have left the sign.
        self.let_go()

    def close_in(self) -> None:
        """Keep requests here from now on."""
        self._sign.touch()
        self._may_go.clear()

    def let_go(self) -> None:
        """Pass on what waits, and what still comes, even if the sign cannot be removed."""
        self._may_go.set()
        with contextlib.suppress(OSError):
            self._sign.unlink(missing_ok=True)

    def close(self) -> None:
        """Let everything go and close the sockets."""
        self.let_go()
        for listening in self._sockets:
            # Without this the thread in `accept` would take one more connection.
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()

    def _listen(self, room: str) -> socket.socket:
        path = self._folder / f"wait_{room}.sock"
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        listening.listen(BACKLOG)
        threading.Thread(target=self._accept, args=(listening, room), daemon=True).start()
        return listening

    def _accept(self, listening: socket.socket, room: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                guest, _ = listening.accept()
                threading.Thread(target=self._pass_on, args=(guest, room), daemon=True).start()

    def _pass_on(self, guest: socket.socket, room: str) -> None:
        self._count(1)
        self._may_go.wait()
        self._count(-1)
        with guest, socket.socket(socket.AF_UNIX) as inner, contextlib.suppress(OSError):
            inner.connect(str(self._folder / f"inner_{room}.sock"))
            back = threading.Thread(target=_copy, args=(inner, guest), daemon=True)
            back.start()
            _copy(guest, inner)
            back.join()

    def _count(self, change: int) -> None:
        with self._lock:
            self.waiting += change


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy bytes until the source ends, and then end the target."""
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
