"""What runs on a host: a gateway, with TorchServe on the host's loopback or in front of serving hosts.

python -m tests.hosts.gateway_host site.yaml FOLDER                  # in front of the hosts in site.yaml
python -m tests.hosts.gateway_host site.yaml FOLDER STORE MODEL      # a serving host

Writes FOLDER/ready when it serves, with the path of its access log, and serves until SIGTERM. A serving host that finds
FOLDER/update, with the path of another store, is stopped and started with that, as `launcher stop` and `launcher start`
do, and then writes FOLDER/updated with the version of the model.
"""

import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from launcher.drain import drain
from launcher.environment import link_installation
from launcher.gateway.door import STARTING
from launcher.gateway.gateway import Gateway
from launcher.gateway.settings import Settings
from launcher.local_server import CONFIG, LocalServer
from launcher.process import exclusive
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
        while not stop.wait(0.2) and gateway.is_alive():
            gateway.follow()
            order = Path(folder, "update")
            if order.is_file():
                given = order.read_text(encoding="utf-8")
                order.unlink()
                threading.Thread(target=update, args=(gateway, Path(given), model, order.with_name("updated"))).start()


def update(gateway: Gateway, store: Path, model: str, done: Path) -> None:
    """Serve the archives of another store from now on."""
    server = gateway.server
    with exclusive(server.temporary):
        left = drain(server, 60)
        Server.stop(server)
        link_installation(server.folder, store)
        server.start(sorted(path.name for path in store.glob("*.mar")))
        gateway.door.close(*STARTING)
        server.wait_until_ready(model)
    while gateway.door.closed is not None:
        time.sleep(0.1)
    version = server.describe(model)["modelVersion"]
    new = done.with_name("version")
    new.write_text(f"{version}" if left == 0 else f"{left} connections were cut", encoding="utf-8")
    new.rename(done)


if __name__ == "__main__":
    main(*sys.argv[1:])
