"""The other side of `decoding_child`: hands it a file, and makes of its answer an array or an InputError.

One file at a time in a process, so that the memory for decoding is bounded whatever the number of requests.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from prelim import errors
from prelim.errors import InputError, Overloaded, TooLarge, UnreadableInput
from prelim.images.input_config import InputConfig
from prelim.images.sandbox import sandboxed

# A child is ended by its CPU time. This is for one that gets no CPU, on a machine that is overloaded or swaps.
WAIT_S = 120

# Where the package lies, wherever an archive has been unpacked.
SOURCE = Path(__file__).resolve().parents[2]
# -P keeps the working directory off the module path.
COMMAND = (sys.executable, "-P", "-m", f"{__package__}.decoding_child")


class DecodingProcess:
    """A process that decodes files in children with limits. It starts with the first file and ends with this one.

    command : what it runs, with the number of its end of the socket as last argument; by default COMMAND, in a sandbox
              where there is one
    """

    def __init__(self, command: Sequence[str] = ()) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def is_sandboxed(self) -> bool:
        """Whether files are decoded in a sandbox."""
        return not self._command and sandboxed((), SOURCE) != []

    def decode(self, data: bytes, kind: str, config: InputConfig) -> tuple[dict[str, Any], np.ndarray]:
        """The header of a radiograph, as `decoding_child` writes it, and pixels, (rows, columns) float32.

        Raises the InputError of the decoder; TooLarge (413) over the limits of memory and CPU time; UnreadableInput
        (400) if the file ended its process; Overloaded (503) if there is no process to decode it.
        """
        image, reply = memory_file(data), memory_file(b"")
        try:
            with self._lock:
                status = self._run(json.dumps({"kind": kind, "config": asdict(config)}).encode(), image, reply)
            if status != 0:
                raise lost(status, kind, config)
            return read_reply(reply, kind)
        finally:
            os.close(image)
            os.close(reply)

    def _run(self, packet: bytes, image: int, reply: int) -> int:
        """The wait status of the child; a process that has ended since the last file is started again."""
        for _ in range(2):
            try:
                control = self._control or self._start()
                socket.send_fds(control, [packet], [image, reply])
                status = control.recv(4)
            except TimeoutError:
                self.close()
                raise Overloaded(f"the image was not decoded within {WAIT_S} s; send it again later") from None
            except OSError:
                status = b""
            if len(status) == 4:
                (of_child,) = struct.unpack("<i", status)
                return int(of_child)
            self.close()
        raise Overloaded("the process that decodes images has ended; send the image again")

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            paths = [str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]
            # Threads of the libraries would not survive the fork, and one file shall not take all cores.
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
            self._process = subprocess.Popen(
                [*(self._command or sandboxed(COMMAND, SOURCE)), str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **threads},
                stdin=subprocess.DEVNULL,
                # Decoders print what they find in a file: patient data.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # Its own group: Ctrl-C is for this process, and `close` ends the child with it.
                start_new_session=True,
            )
        ours.settimeout(WAIT_S)
        self._control = ours
        return ours

    def close(self) -> None:
        """End the process, and a child that still decodes."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = self._control = None

    def leave_to_parent(self) -> None:
        """After a fork: the process belongs to the parent, and must see it end, so its socket is closed here."""
        if self._control is not None:
            self._control.close()
        self._lock, self._process, self._control = threading.Lock(), None, None


def memory_file(content: bytes) -> int:
    """A file descriptor of a file that is never on a disk."""
    file = os.memfd_create("image")
    with open(file, "wb", closefd=False) as writer:
        writer.write(content)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def read_reply(reply: int, kind: str) -> tuple[dict[str, Any], np.ndarray]:
    """What `decoding_child.write_reply` wrote; the pixels are the memory file itself and no copy."""
    memory = mmap.mmap(reply, 0)
    (length,) = struct.unpack_from("<Q", memory)
    outcome = json.loads(memory[8 : 8 + length])
    if outcome.get("error") == "MemoryError":
        raise TooLarge(f"{subject(kind)} needs more memory to decode than it may have; send it reduced")
    if "error" in outcome:
        kind_of_error: type[InputError] = getattr(errors, outcome["error"])
        raise kind_of_error(outcome["message"])
    rows, columns = outcome["shape"]
    pixels = np.frombuffer(memory, dtype=np.float32, count=rows * columns, offset=8 + length)
    return outcome, pixels.reshape(rows, columns)


def lost(status: int, kind: str, config: InputConfig) -> InputError:
    """The error for a file whose child ended with this wait status."""
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
        return TooLarge(
            f"{subject(kind)} takes too much CPU time to decode; allowed: {config.max_cpu_seconds} s; send it "
            "uncompressed or reduced, or set input.max_cpu_seconds in model.yaml"
        )
    return UnreadableInput(f"{subject(kind)} cannot be decoded: it is damaged or truncated; send it again")


def subject(kind: str) -> str:
    """The subject of an error message about a file of this kind."""
    return "(7FE0,0010) Pixel Data" if kind == "DICOM" else f"the {kind} image"


DECODING = DecodingProcess()
atexit.register(DECODING.close)
os.register_at_fork(after_in_child=DECODING.leave_to_parent)
