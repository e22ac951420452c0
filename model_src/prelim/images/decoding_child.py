"""Decodes every file in a process of its own, forked from this one, with a limit on its memory and its CPU time.

Run by `decoding_process`, on one end of a socket of packets:
    python -P -m prelim.images.decoding_child SOCKET

A packet is the JSON of kind and InputConfig, with two memory files: the image, and an empty one for the answer. The
reply is the wait status of the child (4 bytes). This process never looks at an image itself, so that it stays small
and sound, and it has imported every decoder, so that a child starts within milliseconds.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

# Loaded here and not in the first child that needs them.
import imagecodecs  # noqa: F401
import numpy as np
import tifffile  # noqa: F401
from PIL import Image
from pydicom.pixels.decoders import base  # noqa: F401

from prelim.errors import InputError
from prelim.images.dicom import gdcm_decoder  # noqa: F401
from prelim.images.input_config import WORKING_MEMORY, InputConfig
from prelim.images.radiograph import Radiograph, render


def main(control: socket.socket) -> None:
    """Decode one file after the other until the other end is closed."""
    Image.init()
    gc.freeze()
    while True:
        packet, files, _, _ = socket.recv_fds(control, 2**16, 2)
        if not packet:
            return
        child = os.fork()
        if child == 0:
            try:
                answer(json.loads(packet), *files)
                os._exit(0)
            finally:
                # Without the clean-up of the interpreter, which belongs to the parent.
                os._exit(1)
        for file in files:
            os.close(file)
        _, status = os.waitpid(child, 0)
        control.sendall(struct.pack("<i", status))


def answer(request: dict[str, Any], image: int, reply: int) -> None:
    """Write a radiograph, or the error that it gets, to the memory file `reply`."""
    config = InputConfig(**request["config"])
    set_limits(config.max_cpu_seconds)
    try:
        with open(image, "rb") as file:
            radiograph = render(file.read(), request["kind"], config)
    except InputError as error:
        write_reply(reply, {"error": type(error).__name__, "message": str(error)})
    except MemoryError:
        write_reply(reply, {"error": "MemoryError"})
    else:
        write_radiograph(reply, radiograph)


def set_limits(cpu_seconds: float) -> None:
    """Limit this process: the CPU time that remains, and the memory that it may add."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + WORKING_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # An abort must not write its memory, which holds the image, to the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # SIGPROF ends the process; RLIMIT_CPU would count in whole seconds.
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)


def write_radiograph(reply: int, radiograph: Radiograph) -> None:
    """Write shape and header of a radiograph, then its pixels."""
    pixels = np.ascontiguousarray(radiograph.pixels, dtype=np.float32)
    outcome = {
        "shape": pixels.shape,
        "spacing": radiograph.spacing,
        "modality": radiograph.modality,
        "view": radiograph.view,
        "warnings": radiograph.warnings,
        "orientation": radiograph.orientation,
    }
    write_reply(reply, outcome, pixels)


def write_reply(reply: int, outcome: dict[str, Any], pixels: np.ndarray | None = None) -> None:
    """Write the length of the outcome (8 bytes), the outcome as JSON, and pixels from a multiple of 4 bytes on."""
    text = json.dumps(outcome).encode()
    text += b" " * (-len(text) % 4)
    with open(reply, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if pixels is not None:
            file.write(pixels.data)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
