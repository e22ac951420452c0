"""The gateway's settings, deploy/nginx/gateway.yaml."""

import dataclasses
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launcher.errors import LaunchError
from prelim_client.loopback import is_loopback

_ADDRESS = re.compile(r"(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-fA-F:]+\]):\d{1,5}")
_NAME = re.compile(r"[A-Za-z0-9.:\[\]-]{1,253}")
_HOST = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_MODEL = re.compile(r"[A-Za-z0-9_.-]{1,64}")

LISTS, FILES = ("names", "routes"), ("keys", "drafts_token", "routes")

OWN = "own"
"""The gateway starts a bridge of its own."""


def as_host(name: str) -> str | None:
    """A host name or IP address as nginx has it of a request's Host, or None for anything else."""
    bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    try:
        return f"[{ipaddress.IPv6Address(bare)}]" if "%" not in bare else None
    except ValueError:
        return name.lower().removesuffix(".") if _HOST.fullmatch(name) else None


@dataclass(frozen=True)
class Tls:
    """Certificate with its chain, and private key, as PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Hosts:
    """Serving hosts behind a gateway of gateways.

    addresses       : IP addresses of their gateways
    name            : in their certificates, and in `names` of their settings
    ca              : PEM file that has signed these certificates
    key_file        : file with an API key of theirs
    port, grpc_port : of their gateways

    Raises LaunchError if a value is not allowed.
    """

    addresses: tuple[str, ...]
    name: str
    ca: Path
    key_file: Path
    port: int = 8088
    grpc_port: int = 8089

    def __post_init__(self) -> None:
        if not self.addresses or not all(_ADDRESS.fullmatch(f"{address}:1") for address in self.addresses):
            raise LaunchError(f"hosts.addresses is {list(self.addresses)!r}; allowed: a list of IP addresses")
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise LaunchError(f"hosts.name is {self.name!r}; allowed: a host name")
        for name in ("port", "grpc_port"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 65535:
                raise LaunchError(f"hosts.{name} is {value!r}; allowed: 1 to 65535")


@dataclass(frozen=True)
class Shadow:
    """A version that is tried out on a copy of the traffic; its answers are dropped.

    address : of a gateway on loopback in front of it
    model   : that is asked instead of the default model
    share   : per cent of the requests to the default model that it gets, 0.01 to 100

    Raises LaunchError if a value is not allowed.
    """

    address: str
    model: str
    share: float

    def __post_init__(self) -> None:
        if not isinstance(self.address, str) or not _ADDRESS.fullmatch(self.address) or not is_loopback(self.address):
            raise LaunchError(f"shadow.address is {self.address!r}; allowed: a port of loopback, as 127.0.0.1:8090")
        if not isinstance(self.model, str) or not _MODEL.fullmatch(self.model):
            raise LaunchError(f"shadow.model is {self.model!r}; allowed: the name of a served model")
        if type(self.share) not in (int, float) or not 0.01 <= self.share <= 100:
            raise LaunchError(f"shadow.share is {self.share!r}; allowed: 0.01 to 100, in per cent")


@dataclass(frozen=True)
class Settings:
    """What a site decides; its file explains every setting.

    Raises LaunchError if a value is not allowed, or if an address other than loopback has no TLS or no keys.
    """

    listen: str = "127.0.0.1:8088"
    listen_grpc: str = "127.0.0.1:8089"
    names: tuple[str, ...] = ("127.0.0.1", "localhost")
    tls: Tls | None = None
    keys: Path | None = None
    model: str = "demo"
    requests_per_second: int = 10
    burst: int = 20
    open_requests: int = 16
    server_requests: int = 128
    drafts: str | None = OWN
    drafts_token: Path | None = None
    routes: tuple[Path, ...] = ()
    hosts: Hosts | None = None
    shadow: Shadow | None = None

    def __post_init__(self) -> None:
        for name in ("listen", "listen_grpc"):
            address = getattr(self, name)
            if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
                raise LaunchError(f"{name} is {address!r}; allowed: an IP address and a port, such as 127.0.0.1:8088")
            if not is_loopback(address) and (self.tls is None or self.keys is None):
                raise LaunchError(f"{name} is {address}, which is not loopback: set tls and keys")
        if not self.names or not all(isinstance(name, str) and as_host(name) for name in self.names):
            raise LaunchError(
                f"names is {list(self.names)!r}; allowed: a list of host names and addresses, without ports"
            )
        if not isinstance(self.model, str) or not _MODEL.fullmatch(self.model):
            raise LaunchError(f"model is {self.model!r}; allowed: the name of a served model")
        if self.drafts not in (None, OWN) and (not isinstance(self.drafts, str) or not _ADDRESS.fullmatch(self.drafts)):
            raise LaunchError(f"drafts is {self.drafts!r}; allowed: own, an IP address and a port, or null")
        if self.drafts_token is not None and self.drafts in (None, OWN):
            raise LaunchError("drafts_token is only for the address of a running bridge in drafts")
        if self.hosts is not None and self.drafts == OWN:
            raise LaunchError("drafts is own, which needs the server of this folder: with hosts, name a bridge or null")
        for name in ("requests_per_second", "burst", "open_requests", "server_requests"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 10_000:
                raise LaunchError(f"{name} is {value!r}; allowed: 1 to 10000")

    @classmethod
    def read(cls, file: Path) -> "Settings":
        """Read a settings file. Raises LaunchError naming what is wrong in it."""
        try:
            given = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise LaunchError(f"{file} cannot be read: {type(error).__name__}") from None
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(map(str, given.keys() - set(known))) if isinstance(given, dict) else ["(not a mapping)"]
        if unknown:
            raise LaunchError(f"unknown setting {unknown[0]} in {file}; known: {', '.join(known)}")
        try:
            return cls(**{name: _convert(name, value, file.resolve().parent) for name, value in given.items()})
        except (TypeError, LaunchError) as error:
            raise LaunchError(f"{file}: {error}") from None


def _convert(name: str, value: Any, folder: Path) -> Any:
    """The value of a setting as its type has it; paths start at the folder."""
    if value is None:
        return None
    if name in _SECTIONS:
        return _SECTIONS[name](value, folder)
    if name in LISTS and not isinstance(value, list):
        raise LaunchError(f"{name} is {value!r}; allowed: a list")
    if name in FILES and not all(isinstance(path, str) for path in (value if name in LISTS else [value])):
        raise LaunchError(f"{name} is {value!r}; allowed: {'names of files' if name in LISTS else 'a file name'}")
    if name in {"keys", "drafts_token"}:
        # add-key writes the file of keys.
        return folder / value if name == "keys" else _existing(name, folder / value)
    if isinstance(value, list):
        return tuple(_existing(name, folder / path) if name == "routes" else path for path in value)
    return value


def _convert_tls(value: Any, folder: Path) -> Tls:
    if not isinstance(value, dict) or set(value) != {"certificate", "key"}:
        raise LaunchError("tls is not {certificate: FILE, key: FILE}")
    return Tls(*(_existing("tls", folder / value[part]) for part in ("certificate", "key")))


def _convert_shadow(value: Any, _: Path) -> Shadow:
    if not isinstance(value, dict) or set(value) != {"address", "model", "share"}:
        raise LaunchError("shadow is not {address: HOST:PORT, model: NAME, share: PER CENT}")
    return Shadow(**value)


def _convert_hosts(value: Any, folder: Path) -> Hosts:
    fields = dataclasses.fields(Hosts)
    required = {field.name for field in fields if field.default is dataclasses.MISSING}
    if not isinstance(value, dict) or not required <= set(value) <= {field.name for field in fields}:
        raise LaunchError(
            "hosts is not {addresses: [IP, ...], name: NAME, ca: FILE, key_file: FILE}, with port and grpc_port if "
            "they are not 8088 and 8089"
        )
    if not isinstance(value["addresses"], list):
        raise LaunchError(f"hosts.addresses is {value['addresses']!r}; allowed: a list of IP addresses")
    files = {name: _existing(f"hosts.{name}", folder / value[name]) for name in ("ca", "key_file")}
    return Hosts(**{**value, **files, "addresses": tuple(map(str, value["addresses"]))})


_SECTIONS = {"tls": _convert_tls, "hosts": _convert_hosts, "shadow": _convert_shadow}


def _existing(name: str, path: Path) -> Path:
    if not path.is_file():
        raise LaunchError(f"{name}: {path} is not a file")
    return path
