"""Run the gateway in front of the server of this folder (docs/gateway.md).

python -m launcher.gateway serve                           # until Ctrl-C; notices changed keys
python -m launcher.gateway serve --settings site.yaml
python -m launcher.gateway check --settings site.yaml      # whether nginx takes the settings
python -m launcher.gateway add-key --settings site.yaml reading-room
"""

import signal
import sys
import time
from pathlib import Path

from launcher.environment import ROOT, read_environment, server_folder
from launcher.errors import LaunchError
from launcher.gateway.gateway import Gateway
from launcher.gateway.keys import add_key
from launcher.gateway.nginx import DRAIN_S
from launcher.gateway.settings import Settings
from launcher.local_server import CONFIG
from launcher.server import Server
from terminal.arguments import CommandLine


def main() -> int:
    """Run one command; its exit code."""
    parser = CommandLine(__doc__)
    parser.add_argument("command", choices=("serve", "check", "add-key"))
    parser.add_argument("client", nargs="?", help="for add-key: name of the client")
    parser.add_argument("--settings", type=Path, default=ROOT / "deploy" / "nginx" / "gateway.yaml")
    parser.add_argument("--wait", type=float, default=0, help="for serve: seconds to wait for the model")
    parser.add_argument(
        "--drain", type=float, default=DRAIN_S, help="for serve: seconds for open requests when it stops"
    )
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        settings = Settings.read(arguments.settings)
        if arguments.command == "add-key":
            return _add_key(settings, arguments.client)
        server = Server(server_folder(), CONFIG, read_environment())
        if arguments.command == "check":
            Gateway(server, settings).check()
            print("nginx accepts the settings")
            return 0
        return serve(server, settings, arguments.wait, arguments.drain)
    except LaunchError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def serve(server: Server, settings: Settings, wait: float = 0, drain: float = DRAIN_S) -> int:
    """Run the gateway until Ctrl-C; its exit code. Raises LaunchError if nginx ends by itself."""
    with Gateway(server, settings, drain) as gateway:
        gateway.start(wait)
        print(f"open {gateway.url} in a browser; gRPC: {settings.listen_grpc}; Ctrl-C stops the gateway", flush=True)
        print("`make stop` stops the server itself", flush=True)
        said = ""
        try:
            while gateway.is_alive():
                said = _follow(gateway, said)
                time.sleep(0.5)
        except KeyboardInterrupt:
            print("the gateway has been stopped")
            return 0
    raise LaunchError("nginx has ended")


def _follow(gateway: Gateway, said: str) -> str:
    """Let the gateway look after its server; returns what cannot be written, which is not said again."""
    try:
        if gateway.follow():
            print("nginx reads the changed keys and certificates", flush=True)
    except LaunchError as error:
        print(f"the change is not used: {error}", file=sys.stderr, flush=True)
    except OSError as error:
        if (now := f"a change is not used yet: {error.strerror}") != said:
            print(now, file=sys.stderr, flush=True)
        return now
    return ""


def _add_key(settings: Settings, client: str | None) -> int:
    if settings.keys is None or client is None:
        raise LaunchError("add-key needs a client's name, and settings whose `keys` names a file")
    print(f"{add_key(settings.keys, client)}\nKeep it: it is not stored. A running gateway notices it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
