"""What runs on the client's host: users who each send the next request when the last one is answered.

python -m tests.hosts.client_host ADDRESS NAME CA KEY MODEL IMAGE USERS SECONDS OPTIONS > outcomes.jsonl

Prints a line for each request: when it began, in seconds since the epoch, how long it took, its status (0: no answer),
and a hash of the report.
"""

import contextlib
import hashlib
import http.client
import json
import socket
import ssl
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path


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
    options: str


def main(load: Load) -> None:
    """Send requests."""
    context = ssl.create_default_context(cafile=load.ca)
    body = form(Path(load.image).read_bytes(), json.loads(load.options))
    headers = {"Authorization": f"Bearer {load.key}", "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    end = time.time() + float(load.seconds)
    printing = threading.Lock()

    def use() -> None:
        while (begin := time.time()) < end:
            status, report = 0, ""
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = NamedConnection(load.address, load.name, context)
                connection.request("POST", f"/predictions/{load.model}", body, headers)
                response = connection.getresponse()
                contents = response.read()
                status = response.status
                report = hashlib.sha256(json.loads(contents).get("report", "").encode()).hexdigest()[:8]
                connection.close()
            line = {"begin": begin, "seconds": time.time() - begin, "status": status, "report": report}
            with printing:
                print(json.dumps(line), flush=True)

    threads = [threading.Thread(target=use) for _ in range(int(load.users))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


BOUNDARY = "part"


def form(image: bytes, options: dict[str, object]) -> bytes:
    """A multipart body."""
    parts = [b'Content-Disposition: form-data; name="image"; filename="image"\r\n\r\n' + image]
    for name, value in options.items():
        parts.append(f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode())
    return b"".join(b"--part\r\n" + part + b"\r\n" for part in parts) + b"--part--\r\n"


if __name__ == "__main__":
    main(Load(*sys.argv[1:]))
