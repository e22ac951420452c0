"""What is behind a gateway: the server of its folder, or serving hosts, each with a gateway of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.gateway.settings import Hosts

NEXT = ("error", "timeout", "http_503", "non_idempotent")
"""What makes another host answer. A report is a pure function of its request, so that asking twice is safe."""

DEATH_BYTES = 84
"""Length of TorchServe's answer when a worker has died (0.12.0)."""

UNREADABLE = f'"~^multipart/.* 500 {DEATH_BYTES}$" ""; "~^multipart/.* 500 [0-9]+$" 1; "~^multipart/.* 403 [0-9]*$" 1;'
"""What TorchServe answers to a form that it cannot read: status and length, after the type of the body. The gateway of
a host has given it a status of its own."""

SECOND = "proxy_set_header X-Prelim-Attempt 2;"
"""Tells the gateway of a host that this one sends a request again, if its worker dies."""

NEXT_AGAIN = "proxy_next_upstream error timeout;"
"""Of a second attempt: another host is asked only if one cannot be reached; if it breaks off, that is the end."""

READY_DOOR = "if (-f $closed_door) { return 503; } rewrite ^ /_errors/ready.json last;"
READY_HOSTS = (
    "limit_req zone=probes burst=10 nodelay; proxy_pass https://torchserve/ready; proxy_read_timeout 10s; "
    "proxy_intercept_errors on;"
)
"""Hosts have doors of their own."""


@dataclass(frozen=True)
class Upstream:
    """What the gateway serves: addresses as HOST:PORT.

    http, grpc   : of TorchServe, or of each serving host
    chat         : path of the default model under which /v1 is
    hosts        : None for TorchServe itself
    drafts       : of the bridge that writes documents of drafts, or None
    drafts_token : that this bridge wants
    places       : requests that TorchServe's queue can hold
    """

    http: Sequence[str]
    grpc: Sequence[str]
    chat: str
    hosts: Hosts | None = None
    drafts: str | None = None
    drafts_token: str = ""
    places: int = 10_000

    def directives(self, requests: int) -> dict[str, str]:
        """What the template has for it.

        requests : that one server has at a time
        """
        hosts = self.hosts
        return {
            "server_requests": str(min(requests, self.places)),
            "servers": _servers(self.http, requests if hosts else None),
            "servers_grpc": _servers(self.grpc, requests if hosts else None),
            "backend": "https://torchserve" if hosts else "http://inner",
            "backend_grpc": "grpcs://torchserve_grpc" if hosts else "grpc://inner_grpc",
            "unreadable": "" if hosts else UNREADABLE,
            "attempt": SECOND if hosts else "",
            "next_again": NEXT_AGAIN if hosts else "",
            "ready": READY_HOSTS if hosts else READY_DOOR,
            "chat": self.chat,
            "scheme": "https" if hosts else "http",
            "scheme_grpc": "grpcs" if hosts else "grpc",
            "upstream_name": hosts.name if hosts else "torchserve",
            "next_server": "\n    ".join(_next_server(hosts, protocol) for protocol in ("proxy", "grpc")),
        }


def upstream_of_hosts(hosts: Hosts, drafts: str | None, drafts_token: str) -> Upstream:
    """The gateways of serving hosts, which have the same paths as this one."""
    http, grpc = ([f"{host}:{port}" for host in hosts.addresses] for port in (hosts.port, hosts.grpc_port))
    return Upstream(http, grpc, "", hosts, drafts, drafts_token)


def _servers(addresses: Sequence[str], requests: int | None) -> str:
    if requests is None:
        return " ".join(f"server {address};" for address in addresses)
    if len(addresses) == 1:
        return f"server {addresses[0]} max_conns={requests};"
    # A host that does not answer is left alone for five seconds; then one request tries it.
    lines = (f"server {address} max_conns={requests} max_fails=1 fail_timeout=5s;" for address in addresses)
    return " ".join(("least_conn;", *lines))


def _next_server(hosts: Hosts | None, protocol: str) -> str:
    if hosts is None:
        return f"{protocol}_next_upstream off; {protocol}_connect_timeout 5s;"
    directives = (
        f"next_upstream {' '.join(NEXT)}",
        # A request that ends two hosts may be the cause.
        "next_upstream_tries 2",
        "next_upstream_timeout 120s",
        "connect_timeout 2s",
        # The kernel notices that a silent host is gone (docs/gateway.md).
        "socket_keepalive on",
        "ssl_server_name on",
        f"ssl_name {hosts.name}",
        "ssl_verify on",
        "ssl_verify_depth 3",
        f'ssl_trusted_certificate "{hosts.ca}"',
    )
    return " ".join(f"{protocol}_{directive};" for directive in directives)
