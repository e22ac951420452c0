"""Run the bridge and kill it at a stage of the work: python -m tests.pacs.kill_at STAGE CONFIG."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from bridge.__main__ import main
from bridge.drafting import Drafter
from bridge.peers.dicomweb import DicomWebArchive
from bridge.peers.report_client import ReportClient
from bridge.store.queue import Queue

PLACES: dict[str, tuple[type, str]] = {
    "take": (Drafter, "draft"),
    "request": (ReportClient, "report"),
    "store": (DicomWebArchive, "store"),
    "record": (Queue, "add_document"),
}
"""Stage -> the method at whose beginning the process ends."""


def killing() -> Callable[..., Any]:
    """Return a function that ends this process."""

    def kill(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    return kill


if __name__ == "__main__":
    owner, name = PLACES[sys.argv[1]]
    # A method that has another name now would never be called.
    getattr(owner, name)
    setattr(owner, name, killing())
    sys.exit(main(sys.argv[2:]))
