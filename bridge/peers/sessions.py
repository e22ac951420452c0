"""What the bridge's HTTP clients share: sessions, and what a status says about a study."""

import ssl
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from urllib3.exceptions import HTTPError

from bridge.configuration.section import ConfigError, read_secret
from bridge.configuration.settings import DicomWebSettings
from bridge.failures import Outage, StudyFailure
from prelim_client.loopback import open_session

LONGEST_ANSWER_S = 600.0
"""A large image over a slow line takes minutes; an answer without an end would hold a worker."""
LARGEST_ANSWER = 2**30

SITES_TO_REPAIR = (401, 403, 408, 429)
"""Not about one study: when the site has repaired it, all studies work again."""


class Detour(requests.RequestException):
    """Something else has answered: a redirect, or a web page, such as the login in front of a PACS."""


class _WholeAnswers(HTTPAdapter):
    """Reads each answer whole, within limits: requests limits only the time between two pieces, and no size."""

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        """Send a request. Raises requests.RequestException."""
        end = time.monotonic() + LONGEST_ANSWER_S
        response = super().send(request, *arguments, **(options | {"stream": True}))
        body = BytesIO()
        try:
            while piece := response.raw.read1(65536, decode_content=True):
                body.write(piece)
                if time.monotonic() > end or body.tell() > LARGEST_ANSWER:
                    raise requests.ReadTimeout
        except HTTPError:
            raise requests.ConnectionError from None
        finally:
            response.close()
        response._content = body.getvalue()
        return response


def open_authorized(url: str, token_file: Path | None, ca_file: Path | None) -> requests.Session:
    """A session for a server, with a bearer token and the site's own authority where they are given.

    Raises ConfigError for files that cannot be used.
    """
    session = open_session(url)
    for scheme in ("http://", "https://"):
        session.mount(scheme, _WholeAnswers())
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


def open_pacs_session(pacs: DicomWebSettings, url: str) -> requests.Session:
    """A session with the account of section `dicomweb`.

    Raises ConfigError for files that cannot be used.
    """
    session = open_authorized(url, pacs.token_file, pacs.ca_file)
    if pacs.user is not None:
        session.auth = HTTPBasicAuth(pacs.user, read_secret(pacs.password_file) or "")
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
