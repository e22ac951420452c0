"""The gateway of a server on free ports, in a process of its own, as a hospital runs it.

python -m loadtests.gateway_process FOLDER CONFIG TEMPORARY SETTINGS
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from launcher.environment import ROOT
from launcher.errors import LaunchError
from launcher.gateway.__main__ import serve
from launcher.gateway.settings import Settings
from launcher.process import terminate
from launcher.server import Server
from prelim_client.readiness import wait_until_ready

START_S = 60.0


def main() -> int:
    """Serve until SIGTERM; the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder, config, temporary, settings = map(Path, sys.argv[1:])
    try:
        return serve(Server(folder, config, {"TMPDIR": str(temporary)}), Settings.read(settings))
    except LaunchError as error:
        print(error, file=sys.stderr)
        return 1


@contextmanager
def gateway_process(server: Server, settings: Path) -> Iterator[psutil.Process]:
    """Start it in front of a server whose model is ready, and wait until it serves.

    settings : file of them, without TLS
    """
    given = (server.folder, server.config, server.temporary, settings)
    command = [sys.executable, "-m", "loadtests.gateway_process", *map(str, given)]
    # Ctrl-C is for the load test, which ends this process.
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    process = psutil.Process(started.pid)
    try:
        wait_until_ready(f"http://{Settings.read(settings).listen}", START_S)
        yield process
    finally:
        terminate(process)
        started.wait()


if __name__ == "__main__":
    sys.exit(main())
