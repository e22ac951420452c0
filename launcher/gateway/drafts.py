"""A bridge that only writes documents of drafts, for the page's downloads; it knows no PACS."""

import contextlib
import secrets
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml

from launcher.console import start_writer
from launcher.environment import ROOT
from launcher.errors import LaunchError
from launcher.gateway.keys import write_private
from launcher.ports import free_ports
from launcher.process import terminate
from launcher.server import Server

FORMATS = ("sr", "fhir", "pdf", "tid1500")
"""What POST /drafts/FORMAT offers."""


class DraftBridge:
    """The bridge's process.

    server : that it asks for reports
    model  : the default model
    folder : private, made if missing; of its configuration, its token and its state
    log    : what it writes
    """

    def __init__(self, server: Server, model: str, folder: Path, log: Path) -> None:
        self.token = secrets.token_urlsafe(32)
        (port,) = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        self._folder = folder
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: subprocess.Popen[bytes] | None = None
        self._settings = {
            "state": "state",
            "server": {"url": server.url, "key_file": str(server.key_file), "model": model},
            "drafts": {"port": port, "token_file": "token"},
        }

    def start(self, seconds: float = 60) -> None:
        """Start it, and wait until it listens. Raises LaunchError if it does not."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        write_private(self._folder / "token", self.token)
        config = self._folder / "bridge.yaml"
        write_private(config, yaml.safe_dump(self._settings))
        writer = start_writer(self._log)
        # A session of its own: Ctrl-C must reach it only through this process.
        command = [sys.executable, "-m", "bridge", str(config)]
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[1:] == command[1:]:
                    # Of a gateway that was killed.
                    terminate(process, 10)
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdout=writer.stdin, stderr=writer.stdin, start_new_session=True
        )
        if writer.stdin is not None:
            writer.stdin.close()
        self._writer = writer
        deadline = time.monotonic() + seconds
        while b'"started"' not in self._log.read_bytes():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise LaunchError(
                    f"the bridge for /drafts does not start, see {self._log}; `drafts: null` does without"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """End it after the requests that are being answered, and forget its token."""
        if self._process is not None and self._process.poll() is None:
            terminate(psutil.Process(self._process.pid), 10)
            self._process.wait()
        if self._writer is not None:
            self._writer.wait()
        with contextlib.suppress(OSError):
            (self._folder / "token").unlink()
