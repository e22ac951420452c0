"""A request for the documents of one draft: an image, and the server's report on it, as a form."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from multipart import MultipartError, MultipartParser, parse_options_header
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from bridge.configuration.server import MODEL_NAME, OPTIONS
from bridge.dicom.deidentify import write_deidentified
from bridge.dicom.identity import SiteKey
from bridge.documents.answer import HttpError, read_report
from bridge.documents.draft import Draft
from bridge.failures import Outage
from bridge.peers.report_client import ReportClient
from bridge.peers.sessions import http_failure
from prelim_client.answers import Answer, ReportError

PARTS = ("image", "report", "options", "model")
MAX_TEXT = 2**20
UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


@dataclass(frozen=True)
class Form:
    """The parts of a request.

    answer : of the server, or None to ask it
    model  : to ask, or None for the one of the settings
    """

    image: bytes
    answer: Answer | None
    options: Mapping[str, Any]
    model: str | None

    @classmethod
    def read(cls, body: bytes, content_type: str) -> "Form":
        """Return the parts of a multipart/form-data body, which is kept in memory.

        Raises HttpError.
        """
        parts = _split(body, content_type)
        unknown = set(parts) - set(PARTS)
        if unknown:
            raise _bad(f"a part has an unknown name; known: {', '.join(PARTS)}")
        if not parts.get("image"):
            raise _bad("the part image is missing; send the radiograph as a file")
        if sum(len(parts.get(name, b"")) for name in PARTS[1:]) > MAX_TEXT:
            raise HttpError(413, "TooLarge", "report and options have more than 1 MB; leave out the report's `images`")
        answer = read_report(_read_json(parts, "report")) if "report" in parts else None
        options = _read_json(parts, "options") if "options" in parts else {}
        if not options.keys() <= OPTIONS:
            raise _bad(f"options has a member that is not a generation option; known: {', '.join(sorted(OPTIONS))}")
        model = parts["model"].decode("ascii", "replace") if "model" in parts else None
        if model is not None and not MODEL_NAME.fullmatch(model):
            raise _bad("model is not the name of a model; allowed: letters, digits, _ . -")
        return cls(parts["image"], answer, options, model)

    def header(self) -> Dataset | None:
        """Return the image as a data set, or None if it is not DICOM.

        Raises HttpError for DICOM that cannot be read or has no UIDs.
        """
        try:
            image = dcmread(BytesIO(self.image))
            image.decode()
        except InvalidDicomError:
            return None
        except Exception:  # noqa: BLE001 - whatever a damaged file raises; its text may quote the header
            raise HttpError(400, "UnreadableInput", "image is a damaged DICOM file; export it again") from None
        for name in UIDS:
            uid = image.get(name)
            if not uid:
                raise HttpError(422, "Refused", f"image has no {name}, which a document must refer to")
            if not isinstance(uid, str) or not UID(uid).is_valid:
                raise HttpError(
                    422, "Refused", f"{name} of the image is not one valid UID (PS3.5 9.1); export it again"
                )
        if not UID(image.SOPClassUID).keyword:
            raise HttpError(
                422, "Refused", "SOPClassUID of the image is not a class of the standard; send a radiograph"
            )
        return image

    def draft(self, key: SiteKey, client: ReportClient, *, dicom_only: bool, request_id: str | None = None) -> Draft:
        """Return the draft; without a report in the form, the server is asked, with the header cut to the allow-list.

        request_id : of this request, in the server's log too

        The UID follows from image, options and text: the same request gives the same document.

        Raises HttpError.
        """
        image = self.header()
        if image is None and dicom_only:
            raise HttpError(415, "NotDicom", "this format refers to a DICOM image; send a DICOM file, or take fhir")
        answer = self.answer or self._ask(image, key, client, request_id)
        images = [] if image is None else [image]
        name = hashlib.sha256(self.image).hexdigest() if image is None else str(image.SOPInstanceUID)
        text = json.dumps([answer["report"], answer["sections"]], sort_keys=True)
        options = json.dumps(self.options, sort_keys=True)
        uid = key.draft_uid(key.fingerprint(["download", text]), [name], options, answer["model"]["sha256"], "")
        return Draft(answer, images, self.options, uid)

    def _ask(self, image: Dataset | None, key: SiteKey, client: ReportClient, request_id: str | None) -> Answer:
        file = self.image if image is None else write_deidentified(image, key)
        try:
            return client.report([file], self.options, self.model, request_id)
        except ReportError as error:
            if not isinstance(http_failure("server", error.code), Outage):
                raise HttpError(error.code, error.type[:40], error.message) from None
        except Outage:
            pass
        raise HttpError(503, "Overloaded", "the server of reports is overloaded or down; try again")


def _split(body: bytes, content_type: str) -> dict[str, bytes]:
    """Return the parts by name."""
    kind, parameters = parse_options_header(content_type)
    if kind != "multipart/form-data" or not parameters.get("boundary"):
        raise _bad("the body must be multipart/form-data with the part image")
    # Parts over the spool limit would be written to temporary files, which images must not be.
    limit = len(body) + 1
    try:
        parser = MultipartParser(
            BytesIO(body),
            parameters["boundary"],
            len(body),
            strict=True,
            part_limit=8,
            spool_limit=limit,
            memory_limit=limit,
        )
        parts = parser.parts()
    except MultipartError:
        raise _bad("the body is not valid multipart/form-data") from None
    if len({part.name for part in parts}) < len(parts):
        raise _bad("a part is given twice")
    return {part.name: part.raw for part in parts}


def _read_json(parts: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Return a part that is a JSON object."""
    try:
        value = json.loads(parts[name])
        # Python reads NaN and halves of surrogate pairs, which no document can hold.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _bad(f"the part {name} must be a JSON object, without NaN and without halves of surrogate pairs")
    return value


def _bad(message: str) -> HttpError:
    return HttpError(400, "BadRequest", message)
