"""The gateway of one server: nginx, what it is told, and keys and certificates kept up to date."""

import contextlib
import dataclasses
import ipaddress
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from launcher.errors import LaunchError, using
from launcher.gateway.config import write_client_keys, write_folder, write_key
from launcher.gateway.door import HELD, LOAD_FAILED, NO_WORKER, STARTING, STOPPED, Door
from launcher.gateway.drafts import DraftBridge
from launcher.gateway.keys import current_key, expiring, expiry, read_token
from launcher.gateway.metrics import Meter
from launcher.gateway.nginx import DRAIN_S, Nginx, end_orphan, open_requests, requests_in_hand
from launcher.gateway.page import describe_page, write_samples
from launcher.gateway.settings import OWN, Settings
from launcher.gateway.upstream import Upstream, upstream_of_hosts
from launcher.gateway.waiting_room import WaitingRoom
from launcher.journal import LOGS, log, make_log_folder
from launcher.process import exclusive, is_launching
from launcher.server import Server

Stamp = tuple[int, int, int] | None

HEALTH_S = 2.0
"""Seconds between two looks at the workers, while requests pass."""

UPLOADS_S = 20.0
"""Seconds that requests in hand have, before a renewed key: TorchServe looks at it when the body has arrived."""

RESTART_S = 30.0
"""Seconds that a worker that has died may take to come back, with requests waiting for it."""


class Gateway:
    """A context manager around nginx.

    server   : the TorchServe that it serves, which must run when the gateway starts; with `hosts` in the settings it
               need not, and its folders are those of the gateway
    settings : of the site
    drain    : seconds that open requests have when it stops
    """

    def __init__(self, server: Server, settings: Settings, drain: float = DRAIN_S) -> None:
        self.server = server
        self.settings = settings
        self.door = Door(server.temporary)
        self.folder = self.door.folder
        self.drain = drain
        self._nginx: Nginx | None = None
        self._key = ""
        self._files: list[Stamp] = []
        self._bridge: DraftBridge | None = None
        self._room: WaitingRoom | None = None
        self._upstream: Upstream | None = None
        self._looked = self._ready = 0.0
        self._said = 0
        self._described: Mapping[str, Any] = {}
        self._meter: Meter | None = None

    @property
    def url(self) -> str:
        """Address of the page and of the HTTP API."""
        return f"{'https' if self.settings.tls else 'http'}://{self.settings.listen}"

    @property
    def log(self) -> Path:
        """The access log: ids, codes, sizes and times."""
        return self.server.folder / LOGS / "gateway.log"

    def check(self) -> None:
        """Write the configuration into a folder of its own and let nginx check it. Raises LaunchError."""
        folder = self.folder.with_name("gateway-check")
        upstream, page = self._find_upstream({}), describe_page(self.settings, [])
        with using(folder):
            config = write_folder(folder, self.settings, upstream, key="", page=page, log=folder / "log")
        Nginx.check(config)

    def start(self, seconds: float = 0) -> None:
        """Start nginx.

        Raises LaunchError if TorchServe or the default model is not there within these seconds, or a file cannot be
        written.
        """
        deadline = time.monotonic() + seconds
        self._describe(seconds)
        # A launcher that measures the server starts it again before it is ready.
        with exclusive(self.server.temporary, deadline - time.monotonic()), using(self.folder):
            described = self._describe(0)
            self._key = self._current_key()
            self._files = self._stamp_files()
            self.folder.mkdir(mode=0o700, exist_ok=True)
            if requests_in_hand(self.folder) is not None and not end_orphan(self.folder):
                raise LaunchError("a gateway of this server runs already")
            for left in self.folder.glob("*.sock"):
                # Of a gateway that was killed: nginx cannot listen on them.
                left.unlink()
            make_log_folder(self.server.folder)
            self._meter = Meter(self.folder, self.log)
            if self.settings.drafts == OWN:
                bridge_log = self.log.with_name("bridge.log")
                self._bridge = DraftBridge(self.server, self.settings.model, self.folder / "bridge", bridge_log)
                self._bridge.start()
            self._upstream = self._find_upstream(described)
            config = self._write(self._upstream)
            write_samples(self.folder / "samples")
            # Serving hosts have doors and keys of their own.
            if self.settings.hosts is not None or self._is_ready(described):
                self._open()
            else:
                self._close(*STARTING)
            if self.settings.hosts is None:
                self._room = WaitingRoom(self.folder)
            self._nginx = Nginx(config)
            self._meter.write(self._gauges)

    def follow(self) -> bool:
        """Look after the door, and tell nginx if TorchServe's key, the clients' keys or the certificate have changed.

        returns : whether one of them has changed

        Raises LaunchError, once, for changed files that cannot be used, and OSError while what has changed cannot be
        written, as on a full disk; nginx keeps what it has.
        """
        if self._nginx is None:
            return False
        if self._meter is not None and self._meter.write(self._gauges):
            self._nginx.reopen_log()
        if self.settings.hosts is None:
            self._watch()
            kinds = expiring(self.server)
            with contextlib.suppress(requests.RequestException):
                if "management" in kinds:
                    self.server.renew_key("management")
                if "inference" in kinds:
                    self.renew_key()
                    return True
        return self._follow_files()

    def renew_key(self) -> None:
        """Let TorchServe replace its inference key. New requests wait meanwhile, for a moment after those in hand.

        Raises requests.RequestException if TorchServe does not answer.
        """
        if self._nginx is None or self._room is None:
            return
        self._room.close_in()
        try:
            deadline = time.monotonic() + UPLOADS_S
            while (requests_in_hand(self.folder) or 0) > self._room.waiting and time.monotonic() < deadline:
                time.sleep(0.02)
            self.server.renew_key()
            key = current_key(self.server)
            write_key(self.folder, key)
            self._key = key
            self._nginx.reload_and_wait()
            log(self.server.folder, "gateway", "key_renewed")
        finally:
            self._room.let_go()

    def _follow_files(self) -> bool:
        files, key = self._stamp_files(), self._current_key()
        if files != self._files:
            before, self._files = self._files, files
            try:
                write_client_keys(self.folder, self.settings)
            except OSError:
                self._files = before
                raise
            Nginx.check(self.folder / "nginx.conf")
        elif not key or key == self._key:
            return False
        if key:
            write_key(self.folder, key)
            self._key = key
        if self._nginx is not None:
            self._nginx.reload()
            log(self.server.folder, "gateway", "keys_read")
        return True

    def _watch(self) -> None:
        """Close the door on a server that is gone or has no worker; open it for one that is ready again."""
        closed = self.door.closed
        if self.server.process is None:
            self._described = {}
            if closed in (None, *HELD):
                self._close(*STOPPED)
            return
        now = time.monotonic()
        if closed in HELD and is_launching(self.server.temporary):
            return
        if closed is None and now - self._looked < HEALTH_S:
            return
        self._looked = now
        described = self.server.describe(self.settings.model)
        if self._is_ready(described):
            # nginx has read a new key by then: it was told of it in an earlier call.
            if closed is None:
                self._follow_model(described)
            elif current_key(self.server) == self._key:
                self._follow_model(described)
                self._open()
        elif failure := self.server.load_failure(self.settings.model, self._said):
            self._close(LOAD_FAILED, failure)
        elif closed is None and now - self._ready > RESTART_S:
            self._close(*NO_WORKER)

    def _follow_model(self, described: Mapping[str, Any]) -> None:
        """Tell nginx of another default version; after a start, of another queue too."""
        if self.door.closed is None and self._upstream is not None:
            upstream = dataclasses.replace(self._upstream, chat=self._chat_path(described))
        else:
            upstream = self._find_upstream(described)
        if upstream != self._upstream and self._nginx is not None:
            self._write(upstream)
            self._upstream = upstream
            self._nginx.reload_and_wait()

    def _open(self) -> None:
        self.door.open()
        log(self.server.folder, "gateway", "door_opened")

    def _close(self, kind: str, message: str) -> None:
        if self.door.closed != kind:
            log(self.server.folder, "gateway", "door_closed", reason=kind)
        self.door.close(kind, message)

    def _gauges(self) -> dict[str, float]:
        gauges: dict[str, float] = {
            "prelim_gateway_open": self.door.closed is None,
            "prelim_gateway_open_requests": open_requests(self.folder),
        }
        if self.settings.hosts is None and self._upstream is not None:
            queue = self._described.get("jobQueueStatus", {})
            gauges["prelim_gateway_places"] = min(self.settings.server_requests, self._upstream.places)
            gauges["prelim_gateway_waiting"] = queue.get("pendingRequests", 0)
            gauges["prelim_gateway_ready_workers"] = _ready_workers(self._described)
            gauges["prelim_gateway_key_expires_timestamp_seconds"] = expiry(self.server)
        return gauges

    def _is_ready(self, described: Mapping[str, Any]) -> bool:
        self._described = described
        ready = _ready_workers(described) > 0
        if ready:
            self._ready, self._said = time.monotonic(), self.server.output_size()
        return ready

    def is_alive(self) -> bool:
        """Whether nginx runs."""
        return self._nginx is not None and self._nginx.is_alive()

    def stop(self) -> None:
        """End nginx and forget TorchServe's key."""
        if self._nginx is not None:
            self._nginx.stop(self.drain)
            with contextlib.suppress(OSError):
                (self.folder / "torchserve_key.conf").unlink(missing_ok=True)
        if self._room is not None:
            self._room.close()
        if self._bridge is not None:
            self._bridge.stop()

    def __enter__(self) -> "Gateway":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _write(self, upstream: Upstream) -> Path:
        models = self.server.models() if self.settings.hosts is None else [self.settings.model]
        page = describe_page(self.settings, models)
        return write_folder(self.folder, self.settings, upstream, key=self._key, page=page, log=self.log)

    def _describe(self, seconds: float) -> dict[str, Any]:
        """What TorchServe says of the default model, within so many seconds. Raises LaunchError. Empty with hosts."""
        if self.settings.hosts is not None:
            return {}
        deadline = time.monotonic() + seconds
        while not (described := self.server.describe(self.settings.model)) and time.monotonic() < deadline:
            time.sleep(0.5)
        if not described:
            raise LaunchError(
                f"the server does not run or has no model {self.settings.model}: start it with `make start`"
            )
        return described

    def _current_key(self) -> str:
        """That the gateway sends: TorchServe's, or the serving hosts'."""
        if self.settings.hosts is None:
            return current_key(self.server)
        with contextlib.suppress(OSError, ValueError):
            return self.settings.hosts.key_file.read_text(encoding="ascii").strip()
        return ""

    def _find_upstream(self, described: Mapping[str, Any]) -> Upstream:
        """Where requests go, by what TorchServe says of the model."""
        drafts, token = self.settings.drafts, ""
        if drafts == OWN:
            drafts, token = (self._bridge.address, self._bridge.token) if self._bridge else (None, "")
        elif self.settings.drafts_token is not None:
            token = read_token(self.settings.drafts_token)
        if self.settings.hosts is not None:
            return upstream_of_hosts(self.settings.hosts, drafts, token)
        host, port = self.server.addresses["inference"]
        if not ipaddress.ip_address(host).is_loopback:
            raise LaunchError(
                f"inference_address is on {host}: behind a gateway TorchServe must listen on loopback only"
            )
        # A request that has a slot leaves a place in the queue, for when it must be sent again. What waits is not
        # counted while nothing passes: the door is closed when this is asked.
        queue = described.get("jobQueueStatus", {"remainingCapacity": Upstream.places})
        places = queue["remainingCapacity"] + queue.get("pendingRequests", 0)
        chat = self._chat_path(described)
        return Upstream([f"{host}:{port}"], [self.server.grpc_target], chat, None, drafts, token, places)

    def _chat_path(self, described: Mapping[str, Any]) -> str:
        """Under which the default version has /v1."""
        return f"/predictions/{self.settings.model}/{described.get('modelVersion', 0)}"

    def _stamp_files(self) -> list[Stamp]:
        """What tells that a file of the site has been changed; None for one that is missing."""
        tls = self.settings.tls
        files = [self.settings.keys, *((tls.certificate, tls.key) if tls else ())]
        return [_stamp(file) for file in files if file is not None]


def _ready_workers(described: Mapping[str, Any]) -> int:
    return sum(worker["status"] == "READY" for worker in described.get("workers", []))


def _stamp(file: Path) -> Stamp:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
