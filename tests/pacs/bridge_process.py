"""The bridge as its own process, which a test can kill."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from bridge.store.queue import Queue

ROOT = Path(__file__).resolve().parents[2]


class BridgeProcess:
    """A context manager; can be killed and started again, with its state."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.config = folder / "bridge.yaml"
        self.log = folder / "bridge.log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(yaml.safe_dump(settings))

    def start(self, *, wait: bool = True) -> None:
        """Start; `wait` until it listens."""
        before = self.output().count('"started"')
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bridge", str(self.config)], cwd=ROOT, stdout=log, stderr=log
            )
        while wait and self.output().count('"started"') == before:
            if self._process.poll() is not None:
                raise RuntimeError(self.output()[-2000:])
            time.sleep(0.05)

    def start_and_kill_at(self, stage: str) -> None:
        """Start, and wait until the process has killed itself at a stage of the work; see kill_at."""
        command = [sys.executable, "-m", "tests.pacs.kill_at", stage, str(self.config)]
        with self.log.open("ab") as log:
            code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, timeout=60, check=False).returncode
        assert code == -signal.SIGKILL

    def kill(self) -> None:
        """End it without a chance to tidy up."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """End it as an administrator does; its exit code."""
        if self._process is None or self._process.poll() is not None:
            return -1
        os.kill(self._process.pid, signal.SIGTERM)
        return self._process.wait(60)

    def output(self) -> str:
        """Return all that it has written."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def recalled(self, name: str) -> int | None:
        """Return a number that it remembers, or None."""
        with contextlib.closing(Queue(self.folder / "state" / "queue.sqlite")) as queue:
            return queue.recall(name)

    def queue(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m bridge queue`."""
        command = [sys.executable, "-m", "bridge", "queue", str(self.config), *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    def __enter__(self) -> "BridgeProcess":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
