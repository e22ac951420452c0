"""One worker for each model with in-flight batching.

The management API can add workers (PUT /models/NAME?min_worker=2). TorchServe then hands requests of one worker to the
other, and they are never answered. A second worker therefore does not load the model; the first serves on.
"""

import fcntl
import os
import time
from pathlib import Path
from typing import IO

WAIT_S = 10.0
"""Seconds that a worker which has been killed may take to end: its successor waits for that."""


def claim(model_folder: Path, seconds: float = WAIT_S) -> IO[bytes]:
    """Claim an unpacked model for this process, for as long as the returned file is open.

    Raises RuntimeError if another process has it.
    """
    # Outside of the folder, whose files are those of the manifest. A lock of `lockf` belongs to the process: children
    # that outlive it do not keep it.
    file = model_folder.with_name(f"{model_folder.name}.lock").open("wb")
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            file.close()
            raise RuntimeError(
                "another worker serves this model; with in-flight batching there is one: set min_worker and max_worker "
                "to 1, or package the model with --batching dynamic"
            ) from None
        file.write(b"%d\n" % os.getpid())
        return file
