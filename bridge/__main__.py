"""Connect a PACS with the server.

python -m bridge bridge.yaml                          # run, until SIGTERM or Ctrl-C
python -m bridge queue bridge.yaml                    # how many studies wait, and what became of the others
python -m bridge queue bridge.yaml list --state dead
python -m bridge queue bridge.yaml retry
python -m bridge agreement bridge.yaml --out FILE     # how drafts and signed reports agree, as counts
python -m bridge deidentify bridge.yaml FILE... --out FOLDER   # copies without identities, to look for a fault
"""

import os
import signal
import sys
import threading
from pathlib import Path

from bridge.configuration.section import ConfigError
from bridge.configuration.settings import read_settings
from bridge.journal import silence_libraries
from bridge.service import serve
from bridge.store.schema import NotRecorded, QueueError
from prelim_client import __version__

REMEDIES = {
    "disk_full": "the disk of the state folder is full; free some space",
    "queue_locked": "another program has locked queue.sqlite; end it and try again",
    "queue_unwritable": "queue.sqlite cannot be written; its folder must be writable, on a disk without faults",
}
"""Reason of NotRecorded -> what the administrator does."""


def main(arguments: list[str]) -> int:
    """Run the bridge, look after its queue, or copy files; the exit code."""
    try:
        code = _run_command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # `queue list | head`: Python would write the rest when it ends, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ConfigError, QueueError) as error:
        print(error, file=sys.stderr)
        return 2
    except NotRecorded as error:
        print(REMEDIES[error.reason], file=sys.stderr)
        return 1
    return code


def _run_command(arguments: list[str]) -> int:
    if arguments[:1] == ["queue"]:
        from bridge.commands.administration import administer

        return administer(arguments[1:])
    if arguments[:1] == ["agreement"]:
        from bridge.commands.agreement import show_agreement

        return show_agreement(arguments[1:])
    if arguments[:1] == ["deidentify"]:
        from bridge.commands.debug_copies import copy_files

        silence_libraries()
        return copy_files(arguments[1:])
    if arguments in (["-h"], ["--help"], ["--version"]):
        print(f"Prelim {__version__}" if arguments == ["--version"] else __doc__)
        return 0
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    return run(Path(arguments[0]))


def run(config: Path) -> int:
    """Run until SIGTERM or SIGINT."""
    settings = read_settings(config)
    silence_libraries()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    serve(settings, stop)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
