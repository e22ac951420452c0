"""What the bridge's HTTP clients share: sessions, and what a status says about a study."""

import ssl
from pathlib import Path
from typing import Any

import requests

from bridge.configuration.section import ConfigError, read_secret
from bridge.failures import Outage, StudyFailure
from prelim_client.loopback import open_session

SITES_TO_REPAIR = (401, 403, 408, 429)
"""Not about one study: when the site has repaired it, all studies work again."""


class Detour(requests.RequestException):
    """Something else has answered: a redirect, or a web page, such as the login in front of a PACS."""


def open_authorized(url: str, token_file: Path | None, ca_file: Path | None) -> requests.Session:
    """A session for a server, with a bearer token and the site's own authority where they are given.

    Raises ConfigError for files that cannot be used.
    """
    session = open_session(url)
    session.hooks["response"].append(_look_at)
    token = read_secret(token_file)
    if token is not None:
        session.headers["Authorization"] = f"Bearer {token}"
    if ca_file is not None:
        try:
            ssl.create_default_context(cafile=ca_file)
        except OSError:
            raise ConfigError(f"{ca_file} cannot be read as certificates; it must be a PEM file") from None
        session.verify = str(ca_file)
    return session


def _look_at(response: requests.Response, **_: Any) -> None:
    """Raise Detour: requests would turn a POST that is redirected into a GET, whose success means nothing."""
    kind, *parameters = response.headers.get("Content-Type", "").split(";", maxsplit=1)
    if (response.is_redirect and response.request.method == "POST") or (response.ok and kind.strip() == "text/html"):
        raise Detour
    if parameters and kind.startswith("application/"):
        # The DICOMweb client does not know "application/dicom+json; charset=utf-8", and would skip what it says.
        response.headers["Content-Type"] = kind.strip()


def http_failure(side: str, code: int, *outages: int) -> Outage | StudyFailure:
    """What an HTTP status other than success means.

    side    : who answered, for the reason
    outages : further statuses that are not about one study
    """
    kind = Outage if code in (*SITES_TO_REPAIR, *outages) or code >= 500 else StudyFailure
    return kind(f"{side}_{code}")
