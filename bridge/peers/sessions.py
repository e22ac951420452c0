"""What the bridge's HTTP clients share: sessions, and what a status says about a study."""

import ssl
from pathlib import Path

import requests

from bridge.configuration.section import ConfigError, read_secret
from bridge.failures import Outage, StudyFailure
from prelim_client.loopback import open_session

SITES_TO_REPAIR = (401, 403, 408, 429)
"""Not about one study: when the site has repaired it, all studies work again."""


def open_authorized(url: str, token_file: Path | None, ca_file: Path | None) -> requests.Session:
    """A session for a server, with a bearer token and the site's own authority where they are given.

    Raises ConfigError for files that cannot be used.
    """
    session = open_session(url)
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


def http_failure(side: str, code: int, *outages: int) -> Outage | StudyFailure:
    """What an HTTP status other than success means.

    side    : who answered, for the reason
    outages : further statuses that are not about one study
    """
    kind = Outage if code in (*SITES_TO_REPAIR, *outages) or code >= 500 else StudyFailure
    return kind(f"{side}_{code}")
