"""Parent side of the peers: one child process each, idle between jobs."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from benchmarks.machine import IDLE, ROOT

PEERS_PYTHON = ROOT / "build" / "bench" / "bin" / "python"
"""Python of the environment that `make bench` creates from benchmarks/decode/peers.txt."""

OURS = "prelim"
HERE = (OURS, "generate")
"""Peers that run in this environment."""

PEERS = (*HERE, "ctranslate2", "openvino", "openvino_genai", "llama_cpp")
"""Modules of benchmarks.decode.peers, in the order in which they take their turns."""

EARLIER: Mapping[str, str] = {"a9f9d9b": "benchmarks.peers.child"}
"""Commits of this repository that can compete with it, in this environment, and their module of child processes."""

_OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
_PATIENCE_S = 10.0


class PeerFailed(Exception):
    """A peer does not start, or has exited; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class Decoding:
    """One decoding: all prefixes together, exactly `new_tokens` tokens for each."""

    prefixes: Sequence[Sequence[int]]
    beams: int
    new_tokens: int


@dataclass(frozen=True)
class DecodingResult:
    """Result of a job; `refused` is None or the reason why there is no result."""

    seconds: float = 0.0
    token_ids: Sequence[Sequence[int]] = ()
    refused: str | None = None


class Contender:
    """One peer with one checkpoint, as a context manager.

    name     : one of PEERS or EARLIER
    threads  : number of threads
    log      : file for its output and that of its libraries
    more     : variables of its environment besides those of this process

    Raises PeerFailed when it does not start.
    """

    def __init__(
        self, name: str, checkpoint: Path, threads: int, log: Path, more: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._log = log
        here = name in HERE or name in EARLIER
        python = sys.executable if here else str(PEERS_PYTHON)
        if not Path(python).is_file():
            raise PeerFailed(f"{python} is missing; `make bench` creates this environment, or leave out --peers {name}")
        module, kind = (EARLIER[name], OURS) if name in EARLIER else ("benchmarks.decode.peers.child", name)
        command = [python, "-m", module, kind, str(checkpoint), str(threads)]
        environment = IDLE | dict(os.environ) | _OFFLINE | {"OMP_NUM_THREADS": str(threads)} | dict(more or {})
        if not here:
            # Their environment does not have the library, of which every program here needs one file.
            environment["PYTHONPATH"] = str(ROOT / "model_src")
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command, cwd=_tree(name), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file
            )
        try:
            said = self._read()
        except BaseException:
            self.close()
            raise
        self.precisions: tuple[str, ...] = tuple(said["precisions"])
        self.versions: Mapping[str, str] = said["versions"]
        self.note: str = said["note"]

    def measure(self, precision: str, job: Decoding) -> DecodingResult:
        """Run a job and wait for it. Raises PeerFailed if the process exits."""
        line = {"precision": precision, "prefixes": job.prefixes, "beams": job.beams, "new_tokens": job.new_tokens}
        stdin = self._process.stdin
        if stdin is None:
            raise PeerFailed(f"{self.name} has no input")
        try:
            stdin.write(json.dumps(line).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None
        return DecodingResult(**self._read())

    def cpu_seconds(self) -> float:
        """CPU time of the process so far."""
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else b""
        if not line:
            raise self._failed()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _failed(self) -> PeerFailed:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return PeerFailed(f"{self.name} ended; {self._log} ends with: {' | '.join(lines[-2:])}"[:600])


def _tree(name: str) -> Path:
    """Where the code of a contender is; an earlier commit is checked out once. Raises PeerFailed where it cannot be."""
    if name not in EARLIER:
        return ROOT
    folder = ROOT / "build" / "bench" / name
    if not folder.is_dir():
        add = ["git", "worktree", "add", "--detach", str(folder), name]
        made = subprocess.run(add, cwd=ROOT, capture_output=True, text=True, check=False)
        if made.returncode:
            raise PeerFailed(f"{name} cannot be checked out: {made.stderr.strip()[-300:]}")
    return folder
