"""Requests of reports from the server."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import requests

from bridge.configuration.server import ServerSettings
from bridge.failures import Outage
from prelim_client.answers import Answer, KeyFileError, ReportError, read_key
from prelim_client.http_client import HttpClient

REFUSALS = (400, 413, 415, 422)
NO_CONTEXT: Mapping[str, Any] = MappingProxyType({})


class ReportClient:
    """Asks the server for reports.

    is_wanted : asked every ten seconds while the server writes; after False the request is ended
    """

    def __init__(self, settings: ServerSettings, is_wanted: Callable[[], bool] = lambda: True) -> None:
        self._settings = settings
        self._is_wanted = is_wanted

    def while_wanted(self, is_wanted: Callable[[], bool]) -> "ReportClient":
        """Return a client whose requests end when they are no longer wanted."""
        return ReportClient(self._settings, is_wanted)

    def report(
        self,
        files: Sequence[bytes],
        options: Mapping[str, Any],
        model: str | None = None,
        request_id: str | None = None,
        *,
        context: Mapping[str, Any] = NO_CONTEXT,
        roles: Sequence[str] | None = None,
    ) -> Answer:
        """Request a report on images, which are sent as they are.

        request_id : in the server's log too
        context    : what the study says besides, see bridge.dicom.clinical_context
        roles      : of each image, see docs/serve.md; None where they have none

        Raises ReportError, Outage; Abandoned if the report is no longer wanted.
        """
        server = self._settings
        try:
            # Read each time: TorchServe writes a new key when it starts, and lets it expire.
            key = read_key(server.key_file)
        except KeyFileError:
            raise Outage("server_key_unreadable") from None
        name = model or server.model
        client = HttpClient(server.url, key, name, server.timeout_s, request_id, is_wanted=self._is_wanted)
        try:
            if len(files) == 1:
                return client.report(files[0], **options, **context)
            images = [base64.b64encode(file).decode("ascii") for file in files]
            named: dict[str, Any] = {} if roles is None else {"roles": list(roles)}
            return client.report_json(images=images, options=options, **named, **context)
        except requests.RequestException as error:
            raise Outage(f"server_{type(error).__name__}") from None


def is_refusal(error: ReportError) -> bool:
    """Whether the server's answer is about the image and would be the same next time."""
    return error.code in REFUSALS and not is_about_options(error)


def is_about_words(error: ReportError, names: Iterable[str]) -> bool:
    """Whether the server's answer is about what texts of the context say, by their names, or that they are too long.

    That the model reads no such field is not about its words.
    """
    return error.message.startswith(("the prompt takes ", *(f"{name} has " for name in names)))


def is_about_options(error: ReportError) -> bool:
    """Whether the server's answer is about `server.options` of the configuration: a value, or an unknown name.

    Of all fields of a request only the names of the options are the site's.
    """
    return error.type == "InvalidOption" or error.message.startswith("unknown field ")
