"""The addresses in config.properties, and whether they are free."""

import contextlib
import random
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from launcher.errors import LaunchError

APIS = ("inference", "management", "metrics")
GRPC_APIS = ("grpc_inference", "grpc_management")
API_COUNT = len(APIS) + len(GRPC_APIS)

PORTS = (15000, 32000)
"""Where free ports are looked for: Linux gives 32768 and above to outgoing connections."""


def read_properties(path: Path) -> dict[str, str]:
    """The settings of a config.properties."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.partition("=") for line in lines if not line.startswith("#"))
    return {name.strip(): value.strip() for name, separator, value in pairs if separator}


def read_addresses(properties: Mapping[str, str]) -> dict[str, tuple[str, int]]:
    """Host and port of each API of TorchServe."""
    found = {}
    for api in APIS:
        address = urlsplit(properties[f"{api}_address"])
        found[api] = (address.hostname or "127.0.0.1", address.port or 80)
    for api in GRPC_APIS:
        found[api] = (properties.get(f"{api}_address", "127.0.0.1"), int(properties[f"{api}_port"]))
    return found


def replace_ports(settings: str, ports: Sequence[int]) -> str:
    """The text of a config.properties with other ports on loopback, in the order of `read_addresses`."""
    values = {f"{api}_address": f"http://127.0.0.1:{port}" for api, port in zip(APIS, ports, strict=False)}
    values |= {f"{api}_port": str(port) for api, port in zip(GRPC_APIS, ports[len(APIS) :], strict=True)}
    for name, value in values.items():
        settings = re.sub(rf"^{name}=.*$", f"{name}={value}", settings, flags=re.MULTILINE)
    return settings


def check_free(addresses: Mapping[str, tuple[str, int]]) -> None:
    """Raise LaunchError unless nothing listens there.

    A server that finds its port taken ends late, and only after it has written new keys.
    """
    for api, (host, port) in addresses.items():
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                key = f"{api}_address" if api in APIS else f"{api}_port"
                raise LaunchError(
                    f"port {port} on {host} cannot be used ({error.strerror}): stop what listens there, "
                    f"or change {key} in config.properties"
                ) from None


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago; all are held until the last is found, so that they differ.

    They are below those that the system gives to outgoing connections, one of which could take them in the meantime.
    """
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            each, port = stack.enter_context(socket.socket()), random.randrange(*PORTS)  # noqa: S311 - not a secret
            with contextlib.suppress(OSError):
                each.bind(("127.0.0.1", port))
                found.append(port)
    return found
