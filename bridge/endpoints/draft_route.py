"""POST /drafts/FORMAT: the documents of one draft for somebody who has its image, through the gateway."""

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from bridge.configuration.section import read_secret
from bridge.configuration.settings import DraftsSettings, ReportSettings, Settings
from bridge.dicom.identity import SiteKey
from bridge.documents.answer import HttpError
from bridge.documents.draft import Draft
from bridge.documents.writers import WRITERS
from bridge.endpoints.draft_request import Form
from bridge.endpoints.http_server import QuietHandler, serving
from bridge.journal import describe_failure, log
from bridge.peers.fhir import write_bundle
from bridge.peers.report_client import ReportClient
from prelim_client.http_client import Abandoned

FHIR = "fhir"
FORMATS = (FHIR, *WRITERS)
PATH = re.compile(r"/drafts/([a-z0-9]{1,16})")
DICOM_TYPE, FHIR_TYPE = "application/dicom", "application/fhir+json"


@dataclass(frozen=True)
class Route:
    """What the requests have in common: the settings, the site's key, and the places for requests at a time."""

    settings: Settings
    limits: DraftsSettings
    key: SiteKey
    client: ReportClient
    token: str | None
    places: threading.BoundedSemaphore

    @property
    def max_body(self) -> int:
        """The largest body, in bytes."""
        return self.limits.max_body_mb * 2**20


@contextlib.contextmanager
def listen_for_drafts(settings: Settings, key: SiteKey) -> Iterator[int]:
    """Listen in a thread; yields the port."""
    drafts = settings.drafts
    assert drafts is not None  # noqa: S101 - its caller has looked
    places, token = threading.BoundedSemaphore(drafts.max_requests), read_secret(drafts.token_file)
    shared = Route(settings, drafts, key, ReportClient(settings.server), token, places)

    class Handler(DraftHandler):
        """With what all requests share."""

        route = shared

    with serving(drafts.host, drafts.port, Handler) as port:
        yield port


class DraftHandler(QuietHandler):
    """Answers one request."""

    timeout = 60
    route: Route

    def do_POST(self) -> None:  # noqa: N802 - the name that http.server wants
        """Write a document."""
        started = time.monotonic()
        try:
            if not self.route.settings.enabled:
                raise HttpError(503, "Disabled", "the bridge is switched off: `enabled: false` in its configuration")
            # Free again before the answer: whoever has it may ask for the next document.
            with self._place():
                kind, body = self._document()
        except Abandoned:
            log("document_abandoned", request=self.request_id, seconds=round(time.monotonic() - started, 3))
        except HttpError as error:
            log("document_refused", request=self.request_id, reason=f"{error.code}_{error.kind}")
            self._refuse(error)
        except Exception as error:  # noqa: BLE001 - the client must get an answer, without the text of the exception
            log("unexpected", request=self.request_id, **describe_failure(error))
            self._refuse(HttpError(500, "InternalError", "the bridge failed on this request"))
        else:
            seconds = round(time.monotonic() - started, 3)
            log("document_written", request=self.request_id, outcome=kind, bytes=len(body), seconds=seconds)
            suffix, content_type = ("json", FHIR_TYPE) if kind == FHIR else ("dcm", DICOM_TYPE)
            name = f'attachment; filename="draft-{kind}.{suffix}"'
            self.answer(200, body, Content_Type=content_type, Content_Disposition=name, Cache_Control="no-store")

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """Hold one of the places.

        Raises HttpError if all are taken.
        """
        if not self.route.places.acquire(blocking=False):
            raise HttpError(503, "Overloaded", "the bridge writes other documents; try again")
        try:
            yield
        finally:
            self.route.places.release()

    def _document(self) -> tuple[str, bytes]:
        """Return the format and the document.

        Raises HttpError; Abandoned if the client goes while the server writes.
        """
        route = self.route
        found = PATH.fullmatch(self.path)
        length = self.content_length()
        if not self.is_authorized(route.token):
            raise HttpError(401, "Unauthorized", "the token of the bridge's drafts is missing or wrong")
        if found is None or found[1] not in FORMATS:
            raise HttpError(404, "NotFound", f"unknown path: POST to /drafts/FORMAT; formats: {', '.join(FORMATS)}")
        if length is None:
            raise HttpError(411, "LengthRequired", "the request has no Content-Length")
        if length > route.max_body:
            raise HttpError(413, "TooLarge", f"the body has more than {route.limits.max_body_mb} MB")
        kind, form = found[1], Form.read(self.read_body(), self.headers.get("Content-Type", ""))
        client = route.client.while_wanted(self.is_awaited)
        draft = form.draft(route.key, client, dicom_only=kind != FHIR, request_id=self.request_id)
        return kind, write_document(draft, kind, route.settings.report)

    def _refuse(self, error: HttpError) -> None:
        self.discard_body(self.route.max_body)
        named = {"code": error.code, "type": error.kind, "message": error.message, "request_id": self.request_id}
        contents = {"error": named}
        retry = {"Retry_After": "5"} if error.code == 503 else {}
        self.answer(error.code, json.dumps(contents).encode(), Content_Type="application/json", **retry)


def write_document(draft: Draft, kind: str, settings: ReportSettings) -> bytes:
    """Return a document of a draft, of one of FORMATS."""
    if kind == FHIR:
        return json.dumps(write_bundle(draft), ensure_ascii=False).encode()
    file = BytesIO()
    WRITERS[kind](draft, settings).save_as(file, enforce_file_format=True)
    return file.getvalue()
