"""One TorchServe: started, waited for, asked, drained, stopped."""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import requests

from launcher.console import start_writer
from launcher.environment import check_java
from launcher.errors import LaunchError, using
from launcher.journal import LOGS, make_log_folder
from launcher.ports import check_free, read_addresses, read_properties
from launcher.process import (
    CONFIG,
    count_connections,
    find_in_folder,
    find_server,
    has_ended,
    sweep,
    terminate,
    worker_seconds,
)
from prelim_client.answers import read_key
from prelim_client.loopback import open_session
from terminal.log_lines import readable
from terminal.program import ignoring_interrupts

IDLE_CPU_S = 0.02
"""CPU time that workers without a request stay under in a second."""

STARTUP_S = 600.0

PRIVATE = 0o077
"""Umask of the server: logs and unpacked archives are for its user alone."""

WRITER_S = 5.0
"""Seconds in which the console's writer ends, once nothing prints."""


class Server:
    """The server of a folder. It may have been started by another process.

    folder      : where it is started; TorchServe writes key_file.json and logs/ there
    config      : its config.properties, whose paths are relative to the folder
    environment : of the server; its TMPDIR is for this server alone
    """

    def __init__(self, folder: Path, config: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = {**environment, "TS_CONFIG_FILE": str(config)}
        self.temporary = Path(environment["TMPDIR"])
        self.config = config
        with using(config):
            properties = read_properties(config)
        self.max_wait_s = float(properties.get("prelim_max_wait_s", 0))
        self.store = folder / properties["model_store"]
        self.addresses = read_addresses(properties)
        self.console = folder / LOGS / "console.log"
        self._starter: subprocess.Popen[bytes] | None = None
        self._writer: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> psutil.Process | None:
        """TorchServe's first process, if it runs."""
        return find_server(self.temporary)

    @property
    def url(self) -> str:
        """The HTTP inference API."""
        return self._address("inference")

    @property
    def grpc_target(self) -> str:
        """The gRPC inference API."""
        host, port = self.addresses["grpc_inference"]
        return f"{host}:{port}"

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
        return self._ask(method, f"{self._address('management')}{path}", headers=headers, **options)

    def renew_key(self, kind: str = "inference") -> None:
        """Let TorchServe replace a key, in its key file too; the old one is invalid at once.

        kind : "inference" or "management"
        """
        headers = {"Authorization": f"Bearer {self.key('API')}"}
        self._ask("GET", f"{self._address('management')}/token?type={kind}", headers=headers).raise_for_status()

    def metrics(self) -> str:
        """The page for Prometheus."""
        response = self._ask("GET", f"{self._address('metrics')}/metrics")
        response.raise_for_status()
        return response.text

    def describe(self, model: str) -> dict[str, Any]:
        """What the management API says of a model. Empty while the server does not answer, or has no such model."""
        # The key file may be half written; then its JSON cannot be parsed.
        with contextlib.suppress(requests.RequestException, OSError, ValueError):
            response = self.manage("GET", f"/models/{model}")
            if response.status_code == 200:
                return dict(response.json()[0])
        return {}

    def models(self) -> list[str]:
        """Names of the models that the server knows, ready or not."""
        with contextlib.suppress(requests.RequestException, OSError, ValueError):
            return [model["modelName"] for model in self.manage("GET", "/models?limit=1000").json()["models"]]
        return []

    def workers(self, model: str) -> list[dict[str, Any]]:
        """State and process id of a model's workers. Empty while the server does not answer yet."""
        return list(self.describe(model).get("workers", []))

    def start(self, archives: Sequence[str], queue: int | None = None) -> None:
        """Start the server with these archives of its store; ["all"] takes whatever lies there.

        queue : requests that may wait, instead of job_queue_size

        Raises LaunchError if it runs already, or a port is taken: before anything of another server is touched. And if
        a file cannot be written.
        """
        running = self.process or find_in_folder(self.folder)
        if running is not None:
            raise LaunchError(f"the server runs already (process {running.pid}) at {self.url}")
        check_java(self.environment)
        check_free(self.addresses)
        sweep(self.temporary, self.key_file)
        environment = self.environment
        with using(self.temporary):
            if queue is not None:
                config = self.temporary / CONFIG
                text = self.config.read_text(encoding="utf-8")
                config.write_text(re.sub("(?m)^job_queue_size=.*$", f"job_queue_size={queue}", text), encoding="utf-8")
                environment = {**environment, "TS_CONFIG_FILE": str(config)}
        with using(self.console):
            make_log_folder(self.folder)
            self._writer = start_writer(self.console)
        # By its module: the first line of the script `torchserve` cannot have a path with a space.
        command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs", "--models", *archives]
        self._starter = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._writer.stdin,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for the launcher, which drains the server before it ends it.
            start_new_session=True,
            umask=PRIVATE,
        )
        # It ends when the last process of the server has.
        if self._writer.stdin is not None:
            self._writer.stdin.close()

    def wait_until_ready(self, model: str, seconds: float = STARTUP_S, workers: int | None = None) -> None:
        """Wait until so many workers have loaded the model; /ping says "healthy" long before that.

        workers : None waits for as many as its archive asks for

        Raises LaunchError: at once if the archive cannot be loaded, with the reason; and if the server ends or is not
        ready in time, with the end of its output.
        """
        deadline = time.monotonic() + seconds
        while self.is_alive() and time.monotonic() < deadline:
            described = self.describe(model)
            ready = sum(worker["status"] == "READY" for worker in described.get("workers", []))
            if described and ready >= max(1, workers or described["minWorkers"]):
                return
            failure = self.load_failure(model)
            if failure:
                # TorchServe would start a worker for it again and again.
                raise LaunchError(failure)
            if f"Load model failed: {model}" in self.output():
                raise LaunchError(f"{model} cannot be loaded; the server says:\n{self.output()[-3000:]}")
            time.sleep(0.2)
        end = self.output()[-3000:]
        raise LaunchError(f"{model} is not ready after {seconds:.0f} s at most; the server says:\n{end}")

    def load_failure(self, model: str, since: int = 0) -> str | None:
        """Why a worker could not load its model, as the handler said; None if none has said so.

        since : bytes of the output to pass over
        """
        # Another start has begun a new file.
        output = self.output(since if since <= self.output_size() else 0)
        found = re.findall(f"Failed to load model {re.escape(model)}, exception (.*)", output)
        return f"{model} cannot be loaded: {found[-1]}" if found else None

    def is_alive(self) -> bool:
        """Whether the server runs, or is about to."""
        if self._starter is not None:
            return self._starter.poll() is None
        return self.process is not None

    def output(self, since: int = 0) -> str:
        """What the server has printed since its start, without so many bytes, as text for people."""
        if not self.console.is_file():
            return ""
        with self.console.open("rb") as file:
            file.seek(since)
            return readable(file.read().decode("utf-8", errors="replace"))

    def output_size(self) -> int:
        """Bytes that the server has printed since its start."""
        return self.console.stat().st_size if self.console.is_file() else 0

    def connections(self) -> int:
        """Open connections to the inference APIs, of requests and of clients that keep theirs."""
        ports = {self.addresses[api][1] for api in ("inference", "grpc_inference")}
        return count_connections(self.process, ports)

    def drain(self, seconds: float) -> int:
        """Wait until all requests are answered; returns how many connections are open if that takes too long.

        TorchServe resets open connections when it is told to stop, cannot be told to refuse new requests, and counts
        only those that no worker has seen. A request is at work if one waits, or if workers work: that takes CPU time.
        """
        deadline = time.monotonic() + seconds
        while (left := self.connections()) and time.monotonic() < deadline:
            used = worker_seconds(self.process)
            time.sleep(1)
            if worker_seconds(self.process) - used < IDLE_CPU_S and not self._waiting():
                return 0
        return left

    def _waiting(self) -> int:
        """Requests that no worker has seen."""
        queues = (self.describe(model).get("jobQueueStatus", {}) for model in self.models())
        return sum(queue.get("pendingRequests", 0) for queue in queues)

    def stop(self) -> None:
        """End the server and its workers, and remove what they leave; a second Ctrl-C does not keep it from that."""
        with ignoring_interrupts():
            process = self.process
            if process is not None:
                terminate(process)
            if self._starter is not None:
                # It waits for the Java process, or has not come so far yet.
                with contextlib.suppress(psutil.NoSuchProcess):
                    starter = psutil.Process(self._starter.pid)
                    if not has_ended(starter) and self._starter.poll() is None:
                        terminate(starter)
                self._starter.wait()
            if self._writer is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._writer.wait(WRITER_S)
            sweep(self.temporary, self.key_file)

    def _address(self, api: str) -> str:
        host, port = self.addresses[api]
        return f"http://{host}:{port}"

    def _ask(self, method: str, url: str, **options: Any) -> requests.Response:
        with open_session(url) as session:
            return session.request(method, url, timeout=30, **options)
