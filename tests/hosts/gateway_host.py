"""What runs on a host: a gateway, with TorchServe on the host's loopback or in front of serving hosts.

python -m tests.hosts.gateway_host site.yaml FOLDER                  # in front of the hosts in site.yaml
python -m tests.hosts.gateway_host site.yaml FOLDER STORE MODEL      # a serving host

Writes FOLDER/ready when it serves, with the path of its access log, and serves until SIGTERM.
"""

import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from launcher.gateway.gateway import Gateway
from launcher.gateway.settings import Settings
from launcher.local_server import CONFIG, LocalServer
from launcher.server import Server


def main(settings: str, folder: str, store: str | None = None, model: str = "") -> None:
    """Serve."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        if store is None:
            temporary = Path(folder, "tmp")
            temporary.mkdir()
            server = Server(Path(folder), CONFIG, {"TMPDIR": str(temporary)})
        else:
            server = stack.enter_context(LocalServer(Path(store)))
            server.wait_until_ready(model)
        gateway = stack.enter_context(Gateway(server, Settings.read(Path(settings))))
        gateway.start()
        Path(folder, "ready").write_text(str(gateway.log), encoding="utf-8")
        while not stop.wait(0.5) and gateway.is_alive():
            gateway.follow()


if __name__ == "__main__":
    main(*sys.argv[1:])
