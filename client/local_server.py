"""TorchServe on this machine, for as long as a test or a demonstration takes.

    with LocalServer(Path("model_store")) as server:
        server.wait_until_ready("demo")
        print(HttpClient(server.url, server.key(), "demo").report(image))

It runs with the committed config.properties, of which only ports and paths are replaced, in a folder of its own, and
is ended by its own process id: another server on the machine is never touched.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from client.answers import read_key

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "config.properties"
STARTED_BY = 'source "$1" && export TS_CONFIG_FILE="$2" && exec torchserve --start --foreground --ncs'
PORTS = ("inference", "management", "metrics", "grpc_inference", "grpc_management")


class LocalServer:
    """A context manager around a TorchServe process.

    store : folder of the archives to serve
    """

    def __init__(self, store: Path) -> None:
        # A short path: the sockets of the workers lie in it, and their names may have some 100 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="prelim-"))
        self.ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        self.console = self.folder / "console.log"
        config = self.folder / "config.properties"
        config.write_text(_derived_config(self.ports, store), encoding="utf-8")
        temporary = self.folder / "tmp"
        temporary.mkdir()
        with self.console.open("wb") as console:
            self._process = subprocess.Popen(
                ["bash", "-c", STARTED_BY, "bash", ROOT / "env.sh", config],
                cwd=self.folder,
                # The pid file of `torchserve --stop`, the unpacked archives and the workers' sockets go there.
                env=os.environ | {"TMPDIR": str(temporary), "TEMP": str(temporary)},
                stdout=console,
                stderr=subprocess.STDOUT,
                # A process group of its own, by which the server and its workers are ended.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Id of the server's first process; Java and the workers are below it."""
        return self._process.pid

    @property
    def url(self) -> str:
        """The HTTP inference API."""
        return self._address("inference")

    @property
    def grpc_target(self) -> str:
        """The gRPC inference API."""
        return f"127.0.0.1:{self.ports['grpc_inference']}"

    @property
    def key_file(self) -> Path:
        """TorchServe's key_file.json."""
        return self.folder / "key_file.json"

    def key(self, kind: str = "inference") -> str:
        """A key of this server: "inference", "management" or "API"."""
        return read_key(self.key_file, kind)

    def manage(self, method: str, path: str, **options: Any) -> requests.Response:
        """Call the management API."""
        headers = {"Authorization": f"Bearer {self.key('management')}"}
        return requests.request(method, f"{self._address('management')}{path}", headers=headers, timeout=30, **options)

    def metrics(self) -> str:
        """The page for Prometheus."""
        response = requests.get(f"{self._address('metrics')}/metrics", timeout=30)
        response.raise_for_status()
        return response.text

    def workers(self, model: str) -> list[dict[str, Any]]:
        """State and process id of a model's workers. Empty while the server does not answer yet."""
        if not self.key_file.is_file():
            return []
        # The key file may be half written; then its JSON cannot be parsed.
        with contextlib.suppress(requests.ConnectionError, ValueError):
            response = self.manage("GET", f"/models/{model}")
            if response.status_code == 200:
                return list(response.json()[0]["workers"])
        return []

    def wait_until_ready(self, model: str, seconds: float = 300, workers: int = 1) -> None:
        """Wait for so many workers that have loaded the model; /ping says "healthy" long before that.

        Raises RuntimeError: at once if the archive cannot be loaded, with the reason; and if the server ends or is not
        ready in time, with the end of its output.
        """
        deadline = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < deadline:
            if sum(worker["status"] == "READY" for worker in self.workers(model)) >= workers:
                return
            output = self.console.read_text(encoding="utf-8", errors="replace")
            failure = re.search(f"Failed to load model {re.escape(model)}, exception (.*)", output)
            if failure:
                # TorchServe would start a worker for it again and again.
                raise RuntimeError(f"{model} cannot be loaded: {failure[1]}")
            time.sleep(0.2)
        output = self.console.read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(f"{model} is not ready after {seconds:.0f} s at most; the server says:\n{output[-3000:]}")

    def stop(self) -> None:
        """End the server and its workers, and remove its folder."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(timeout=20)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "LocalServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _address(self, api: str) -> str:
        return f"http://127.0.0.1:{self.ports[api]}"


def _derived_config(ports: dict[str, int], store: Path) -> str:
    """The committed config.properties with these ports and absolute paths."""
    replaced = {f"{api}_address": f"http://127.0.0.1:{ports[api]}" for api in ("inference", "management", "metrics")}
    replaced |= {f"{api}_port": str(ports[api]) for api in ("grpc_inference", "grpc_management")}
    replaced["model_store"] = str(store.resolve())
    lines = []
    for line in CONFIG.read_text(encoding="utf-8").splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            value = replaced.get(name, value.replace("handlers/", f"{ROOT}/handlers/"))
            lines.append(f"{name}={value}")
    return "\n".join(lines) + "\n"


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago; all are held until the last is found, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
