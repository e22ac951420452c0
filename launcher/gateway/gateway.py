"""The gateway of one server: nginx, what it is told, and keys and certificates kept up to date."""

import contextlib
import ipaddress
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from launcher.environment import ROOT
from launcher.errors import LaunchError
from launcher.gateway.config import write_client_keys, write_folder, write_key
from launcher.gateway.drafts import FORMATS, DraftBridge
from launcher.gateway.keys import current_key
from launcher.gateway.nginx import Nginx
from launcher.gateway.settings import OWN, Settings
from launcher.gateway.upstream import Upstream, upstream_of_hosts
from launcher.process import exclusive
from launcher.sample_radiograph import sample_radiograph
from launcher.server import Server

Stamp = tuple[int, int, int] | None

SAMPLES = {"rg1.dcm": "Chest PA, DICOM", "chest.jpg": "Chest, JPEG"}
"""Radiographs for people who have none at hand: name of the file -> what the page calls it."""


class Gateway:
    """A context manager around nginx.

    server   : the TorchServe that it serves, which must run when the gateway starts; with `hosts` in the settings it
               need not, and its folders are those of the gateway
    settings : of the site
    drain    : seconds that open requests have when it stops
    """

    def __init__(self, server: Server, settings: Settings, drain: float = 10) -> None:
        self.server = server
        self.settings = settings
        self.drain = drain
        self.folder = server.temporary / "gateway"
        self._nginx: Nginx | None = None
        self._key = ""
        self._files: list[Stamp] = []
        self._bridge: DraftBridge | None = None

    @property
    def url(self) -> str:
        """Address of the page and of the HTTP API."""
        return f"{'https' if self.settings.tls else 'http'}://{self.settings.listen}"

    @property
    def log(self) -> Path:
        """The access log: ids, codes, sizes and times."""
        return self.server.folder / "logs" / "gateway.log"

    def check(self) -> None:
        """Write the configuration into a folder of its own and let nginx check it. Raises LaunchError."""
        folder = self.folder.with_name("gateway-check")
        Nginx.check(
            write_folder(folder, self.settings, self._upstream("0"), key="", page=self._page([]), log=folder / "log")
        )

    def start(self, seconds: float = 0) -> None:
        """Start nginx. Raises LaunchError if TorchServe or the default model is not there within these seconds."""
        version, models = self._find_models(seconds)
        self._key = self._current_key()
        self._files = self._stamp_files()
        with exclusive(self.server.temporary):
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self.log.parent.mkdir(exist_ok=True)
            if self.settings.drafts == OWN:
                log = self.log.with_name("bridge.log")
                self._bridge = DraftBridge(self.server, self.settings.model, self.folder / "bridge", log)
                self._bridge.start()
            upstream = self._upstream(version)
            page = self._page(models)
            config = write_folder(self.folder, self.settings, upstream, key=self._key, page=page, log=self.log)
            self._write_samples()
            self._nginx = Nginx(config)

    def follow(self) -> bool:
        """Tell nginx if TorchServe's key, the clients' keys or the certificate have changed; whether they have.

        Raises LaunchError, once, for changed files that cannot be used; nginx keeps what it has.
        """
        if self._nginx is None:
            return False
        files, key = self._stamp_files(), self._current_key()
        if files != self._files:
            self._files = files
            write_client_keys(self.folder, self.settings)
            Nginx.check(self.folder / "nginx.conf")
        elif not key or key == self._key:
            return False
        if key:
            write_key(self.folder, key)
            self._key = key
        self._nginx.reload()
        return True

    def is_alive(self) -> bool:
        """Whether nginx runs."""
        return self._nginx is not None and self._nginx.is_alive()

    def stop(self) -> None:
        """End nginx and forget TorchServe's key."""
        if self._nginx is not None:
            self._nginx.stop(self.drain)
            (self.folder / "torchserve_key.conf").unlink(missing_ok=True)
        if self._bridge is not None:
            self._bridge.stop()

    def __enter__(self) -> "Gateway":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _find_models(self, seconds: float) -> tuple[str, list[str]]:
        """Version of the default model, and names of all. Raises LaunchError. Serving hosts may start later."""
        if self.settings.hosts is not None:
            return "", [self.settings.model]
        deadline = time.monotonic() + seconds
        while not (described := self.server.describe(self.settings.model)) and time.monotonic() < deadline:
            time.sleep(0.5)
        if not described:
            raise LaunchError(
                f"the server does not run or has no model {self.settings.model}: start it with `make start`"
            )
        return str(described["modelVersion"]), self.server.models()

    def _current_key(self) -> str:
        """That the gateway sends: TorchServe's, or the serving hosts'."""
        if self.settings.hosts is None:
            return current_key(self.server)
        with contextlib.suppress(OSError, ValueError):
            return self.settings.hosts.key_file.read_text(encoding="ascii").strip()
        return ""

    def _upstream(self, version: str) -> Upstream:
        drafts, token = self.settings.drafts, ""
        if drafts == OWN:
            drafts, token = (self._bridge.address, self._bridge.token) if self._bridge else (None, "")
        elif self.settings.drafts_token is not None:
            token = self.settings.drafts_token.read_text(encoding="utf-8").strip()
        if self.settings.hosts is not None:
            return upstream_of_hosts(self.settings.hosts, drafts, token)
        host, port = self.server.addresses["inference"]
        if not ipaddress.ip_address(host).is_loopback:
            raise LaunchError(
                f"inference_address is on {host}: behind a gateway TorchServe must listen on loopback only"
            )
        chat = f"/predictions/{self.settings.model}/{version}"
        return Upstream([f"{host}:{port}"], [self.server.grpc_target], chat, None, drafts, token)

    def _stamp_files(self) -> list[Stamp]:
        """What tells that a file of the site has been changed; None for one that is missing."""
        tls = self.settings.tls
        files = [self.settings.keys, *((tls.certificate, tls.key) if tls else ())]
        return [_stamp(file) for file in files if file is not None]

    def _page(self, models: list[str]) -> dict[str, Any]:
        """What the page needs to know."""
        names = sorted(models, key=lambda name: (name != self.settings.model, name))
        drafts = list(FORMATS) if self.settings.drafts else []
        samples = [{"file": f"samples/{file}", "title": title} for file, title in SAMPLES.items()]
        return {"models": names, "needs_key": self.settings.keys is not None, "samples": samples, "drafts": drafts}

    def _write_samples(self) -> None:
        folder = self.folder / "samples"
        (folder / "chest.jpg").write_bytes((ROOT / "docs" / "images" / "chest.jpg").read_bytes())
        with contextlib.suppress(FileNotFoundError):
            (folder / "rg1.dcm").write_bytes(sample_radiograph())


def _stamp(file: Path) -> Stamp:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
