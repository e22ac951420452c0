"""A request for the documents of one draft: an image, and the server's report on it, as a form."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from multipart import MultipartError, MultipartParser, parse_options_header
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from bridge.deidentify import write_deidentified
from bridge.documents.draft import Draft, plain
from bridge.failures import Outage
from bridge.identity import SiteKey
from bridge.report_client import ReportClient
from bridge.web import http_failure
from prelim_client.answers import Answer, ReportError

PARTS = ("image", "report", "options", "model")
MODEL = ("name", "version", "architecture")
MAX_TEXT = 2**20
MAX_REPORT = 20_000
"""Characters of a report and its sections: a dozen pages. A PDF takes about a second of a processor for them."""
MAX_WORDS = 1000
OPTIONS = frozenset(
    (
        *("num_beams", "do_sample", "temperature", "top_k", "top_p", "seed", "repetition_penalty", "length_penalty"),
        *("no_repeat_ngram_size", "early_stopping", "min_new_tokens", "max_new_tokens", "num_return_sequences", "stop"),
        "banned_phrases",
    )
)
"""The server's generation options. Another field, such as a second image, would change what the draft is about."""
MAX_LOGPROB = 1e6
SHA256 = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


class Refused(Exception):
    """The request is answered with an error; the message names the part and never quotes it."""

    def __init__(self, code: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.kind = kind
        self.message = message


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

        Raises Refused.
        """
        parts = _split(body, content_type)
        unknown = set(parts) - set(PARTS)
        if unknown:
            raise _bad(f"a part has an unknown name; known: {', '.join(PARTS)}")
        if not parts.get("image"):
            raise _bad("the part image is missing; send the radiograph as a file")
        if sum(len(parts.get(name, b"")) for name in PARTS[1:]) > MAX_TEXT:
            raise Refused(413, "TooLarge", "report and options have more than 1 MB; leave out the report's `images`")
        answer = read_report(_read_json(parts, "report")) if "report" in parts else None
        options = _read_json(parts, "options") if "options" in parts else {}
        if not options.keys() <= OPTIONS:
            raise _bad(f"options has a member that is not a generation option; known: {', '.join(sorted(OPTIONS))}")
        model = parts["model"].decode("ascii", "replace") if "model" in parts else None
        if model is not None and not NAME.fullmatch(model):
            raise _bad("model is not the name of a model; allowed: letters, digits, _ . -")
        return cls(parts["image"], answer, options, model)

    def header(self) -> Dataset | None:
        """Return the image as a data set, or None if it is not DICOM.

        Raises Refused for DICOM that cannot be read or has no UIDs.
        """
        try:
            image = dcmread(BytesIO(self.image))
            image.decode()
        except InvalidDicomError:
            return None
        except Exception:  # noqa: BLE001 - whatever a damaged file raises; its text may quote the header
            raise Refused(400, "UnreadableInput", "image is a damaged DICOM file; export it again") from None
        for name in UIDS:
            uid = image.get(name)
            if not uid:
                raise Refused(422, "Refused", f"image has no {name}, which a document must refer to")
            if not isinstance(uid, str) or not UID(uid).is_valid:
                raise Refused(422, "Refused", f"{name} of the image is not one valid UID (PS3.5 9.1); export it again")
        if not UID(image.SOPClassUID).keyword:
            raise Refused(422, "Refused", "SOPClassUID of the image is not a class of the standard; send a radiograph")
        return image

    def draft(self, key: SiteKey, client: ReportClient, *, dicom_only: bool, request_id: str | None = None) -> Draft:
        """Return the draft; without a report in the form, the server is asked, with the header cut to the allow-list.

        request_id : of this request, in the server's log too

        The UID follows from image, options and text: the same request gives the same document.

        Raises Refused.
        """
        image = self.header()
        if image is None and dicom_only:
            raise Refused(415, "NotDicom", "this format refers to a DICOM image; send a DICOM file, or take fhir")
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
                raise Refused(error.code, error.type[:40], error.message) from None
        except Outage:
            pass
        raise Refused(503, "Overloaded", "the server of reports is overloaded or down; try again")


def read_report(given: Mapping[str, Any]) -> Answer:
    """Return what documents take from an answer of the server, checked.

    Raises Refused naming the field.
    """
    if given.get("status") != "UNVERIFIED":
        raise _bad('report.status must be "UNVERIFIED": send the answer of the server as it is')
    model, sections = given.get("model"), given.get("sections") or {}
    if not isinstance(model, Mapping) or not all(_is_text(model.get(name)) and plain(model[name]) for name in MODEL):
        raise _bad("report.model must have name, version and architecture, as strings that are not blank")
    if not isinstance(model.get("sha256"), str) or not SHA256.fullmatch(model["sha256"]):
        raise _bad("report.model.sha256 must have 64 hexadecimal digits")
    if not isinstance(given.get("report"), str):
        raise _bad("report.report must be a string")
    texts = [sections.get(name) for name in ("findings", "impression")] if isinstance(sections, Mapping) else [0]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise _bad("report.sections must have findings and impression, each a string or null")
    if max(len(given["report"]), sum(len(text) for text in texts if isinstance(text, str))) > MAX_REPORT:
        raise Refused(413, "TooLarge", f"report.report and report.sections may have {MAX_REPORT} characters")
    warnings = given.get("warnings", [])
    if not isinstance(warnings, list) or len(warnings) > 100 or not all(map(_is_text, warnings)):
        raise _bad(f"report.warnings must be a list of at most 100 strings of at most {MAX_WORDS} characters")
    probability = given.get("avg_logprob")
    # Python's integers may be larger than any float.
    if isinstance(probability, bool) or not isinstance(probability, int | float) or not abs(probability) < MAX_LOGPROB:
        raise _bad("report.avg_logprob must be a number")
    return {
        "report": given["report"],
        "sections": dict(zip(("findings", "impression"), texts, strict=True)),
        "model": {name: model[name] for name in (*MODEL, "sha256")},
        "warnings": warnings,
        "avg_logprob": float(probability),
    }


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_WORDS


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


def _bad(message: str) -> Refused:
    return Refused(400, "BadRequest", message)
