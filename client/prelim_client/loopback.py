"""Connections to a server on this machine ignore http_proxy: a proxy would receive the image and the key."""

import ipaddress
from typing import Any
from urllib.parse import urlsplit

import requests


def is_loopback(address: str) -> bool:
    """Whether an address such as "http://127.0.0.1:8080" or "localhost:7070" is on this machine."""
    for scheme in ("ipv4:", "ipv6:", "dns:///"):
        address = address.removeprefix(scheme)
    host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_session(url: str) -> requests.Session:
    """Open a session for one server. On loopback it ignores the environment's proxies and .netrc."""
    session = requests.Session()
    session.trust_env = not is_loopback(url)
    return session


def channel_options(target: str) -> list[tuple[str, Any]]:
    """Options of the gRPC channel to one server."""
    return [("grpc.enable_http_proxy", 0)] if is_loopback(target) else []
