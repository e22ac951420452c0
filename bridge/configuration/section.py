"""Sections of the configuration file: one dataclass each, whose fields and their types are the allowed keys."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from prelim_client.loopback import is_loopback


class ConfigError(Exception):
    """The configuration cannot be used; the message names the key, the value and what is allowed."""


@dataclass(frozen=True)
class ConfigSection:
    """A section of the file: fields without a default are required; a Path is relative to the file's folder."""

    @classmethod
    def read(cls, given: object, where: str, folder: Path) -> Self:
        """Return the section.

        Raises ConfigError for an unknown or missing key and for a value of another type.
        """
        if not isinstance(given, Mapping):
            raise ConfigError(f"{where} is a {type(given).__name__}; it must be a mapping")
        kinds = typing.get_type_hints(cls)
        unknown = [key for key in given if key not in kinds]
        if unknown:
            raise ConfigError(f"{where} has the unknown key {unknown[0]!r}; known: {', '.join(kinds)}")
        missing = [one.name for one in dataclasses.fields(cls) if _required(one) and one.name not in given]
        if missing:
            raise ConfigError(f"{where}.{missing[0]} is missing")
        values = {key: _convert(value, kinds[key], f"{where}.{key}", folder) for key, value in given.items()}
        return cls(**values)


def _required(one: "dataclasses.Field[Any]") -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def _convert(value: Any, kind: Any, where: str, folder: Path) -> Any:
    """Return a value of the file as the type that its field declares."""
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = next(one for one in typing.get_args(kind) if one is not types.NoneType)
    if isinstance(kind, type) and issubclass(kind, ConfigSection):
        return kind.read(value, where, folder)
    if kind is Path and isinstance(value, str):
        if not value or not value.isprintable():
            raise ConfigError(f"{where} is not the name of a file or a folder")
        return folder / value
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        inner = typing.get_args(kind)[0]
        return tuple(_convert(one, inner, where, folder) for one in value)
    expected = typing.get_origin(kind) or kind
    number = expected is float and isinstance(value, int) and not isinstance(value, bool)
    if number or (isinstance(value, expected) and (expected is bool or not isinstance(value, bool))):
        return value
    wanted = "list" if expected is tuple else expected.__name__
    raise ConfigError(f"{where} is a {type(value).__name__}; it must be a {wanted}")


def check_range(where: str, value: float, low: float, high: float) -> None:
    """Raise ConfigError unless the value is from `low` to `high`."""
    if not low <= value <= high:
        raise ConfigError(f"{where} is {value}; allowed: {low} to {high}")


def check_title(where: str, title: str) -> None:
    """Check an application entity title: PS3.5 6.2, AE."""
    if not title.strip() or len(title) > 16 or not title.isascii() or "\\" in title or not title.isprintable():
        raise ConfigError(f"{where} is not an AE title; allowed: 1 to 16 ASCII characters without a backslash")


def check_text(where: str, text: str, length: int = 64) -> None:
    """Check a text that becomes a value of a DICOM element (PS3.5 6.2, LO)."""
    if not 1 <= len(text.encode(errors="replace")) <= length or "\\" in text or not text.isprintable():
        raise ConfigError(f"{where} cannot be used; allowed: 1 to {length} bytes, no backslash, no control characters")


def check_url(where: str, url: str) -> None:
    """Check the address of a server."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{where} is not the address of a server; it must begin with http:// or https:// and a host")


def check_address(where: str, host: str, token_file: Path | None) -> None:
    """Check that an address that others can reach has a token."""
    if token_file is None and not is_loopback(host):
        section = where.partition(".")[0]
        raise ConfigError(f"{where} is {host}, which is not loopback; set {section}.token_file")


def read_secret(file: Path | None) -> str | None:
    """A token or password in a file, without white space at its ends.

    Raises ConfigError if the file cannot be read, or is empty, or has several lines, which no header can have.
    """
    if file is None:
        return None
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        raise ConfigError(f"{file} cannot be read; it must have a token or a password as text") from None
    if not secret or not secret.isprintable():
        raise ConfigError(f"{file} is not a token or a password: it is empty, or has several lines")
    return secret
