"""Signed reports in HL7 v2 ORU^R01 messages: what is read of them, and the answer to a message."""

import datetime
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import hl7

from bridge.dicom.identity import Identifiers

SEGMENTS = ("MSH", "ORC", "OBR", "OBX", "ZDS")
"""Segments that are read. The patient's is left out."""
TEXTS = ("TX", "FT", "ST")
"""Value types (table 0125) of a report's text."""
STUDY_UID = ("113014", "110180")
"""DCM codes under which an OBX names the study (IHE RAD TF-2, RAD-128)."""

SIGNED = ("F", "C")
"""Tables 0123 and 0085: final, and correction of a final result."""
WITHDRAWN = ("X", "W", "D")
"""Canceled; of single observations: wrong, deleted."""

NOT_SEEN = re.compile(r"\b(?:indication|history|reason|clinical|technique|comparison|procedure|comment)", re.IGNORECASE)
"""Names (OBX-3.2) of observations that tell what was told, done or compared with."""

MOST_SEPARATORS = 20_000
"""The parser takes 20 us for each: a message that is nothing else would take minutes."""

_LINE_ENDS = re.compile(r"[\r\n]+")


class BadMessage(Exception):
    """A message cannot be taken.

    code   : MSA-1 (table 0008): "AE" its contents are at fault, "AR" it is of a kind that is not taken, or nothing is
             taken now
    reason : a word for the log and for MSA-3
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


@dataclass(frozen=True)
class SignedReport:
    """One report of a message.

    status   : "signed", "withdrawn", or "preliminary", "empty" for what is not compared
    reported : when it was signed or corrected
    text     : what its observations say
    """

    known: Identifiers
    status: str
    reported: datetime.datetime
    text: str


def parse(data: bytes) -> hl7.Message:
    """Return a message without the segments that are not read.

    Raises BadMessage if it is not HL7 v2.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        # Labels need only ASCII; every other character set of one byte has it.
        text = data.decode("cp1252", errors="replace")
    if not text.startswith("MSH") or len(text) < 9:
        raise BadMessage("AR", "not_hl7")
    # Segments end with a carriage return (2.5.1 chapter 2.5.2); some systems write line feeds.
    lines = [line for line in _LINE_ENDS.split(text) if line.startswith(SEGMENTS) and not _is_file(line, text[3])]
    kept = "\r".join(lines)
    if sum(map(kept.count, text[3:8])) > MOST_SEPARATORS:
        raise BadMessage("AE", "too_many_fields")
    try:
        return hl7.parse(kept)
    except Exception:  # noqa: BLE001 - the parser says what is wrong with a message by exceptions of any kind
        raise BadMessage("AR", "not_hl7") from None


def _is_file(line: str, separator: str) -> bool:
    """Whether a segment is an observation of a file instead of a text: a PDF or a picture, which can have megabytes."""
    fields = line.split(separator, 3)
    return fields[0] == "OBX" and len(fields) > 2 and fields[2] in ("ED", "RP")


def read_reports(message: hl7.Message, accession: Sequence[int]) -> list[SignedReport]:
    """Return the reports of a message.

    accession : fields of OBR that can have the accession number

    Raises BadMessage.
    """
    kind, event, processing = (_text(message[0], field, part) for field, part in ((9, 1), (9, 2), (11, 1)))
    if (kind, event) != ("ORU", "R01"):
        raise BadMessage("AR", "unsupported_message_type")
    if not _text(message[0], 12).startswith("2"):
        raise BadMessage("AR", "unsupported_version")
    if processing not in ("P", ""):
        # Training and debugging: these patients do not exist.
        raise BadMessage("AR", "unsupported_processing_id")
    groups = list(_groups(message))
    if not groups:
        raise BadMessage("AE", "obr_missing")
    return [_read_group(message, group, accession) for group in groups]


def acknowledge(data: bytes, code: str, reason: str = "") -> bytes:
    """Return the answer to a message, also to one that cannot be read.

    MSA-2 repeats its control id (MSH-10), so that its sender knows what is answered.
    """
    header = _LINE_ENDS.split(data.decode("latin-1"), maxsplit=1)[0][:2000]
    try:
        answer = hl7.parse(header).create_ack(code)
    except Exception:  # noqa: BLE001 - whatever is wrong with the header
        answer = hl7.parse("MSH|^~\\&|||||||ORU^R01||P|2.5.1").create_ack(code)
    if reason:
        answer.segment("MSA").assign_field(reason, 3)
    return str(answer).encode("latin-1", errors="replace")


def _groups(message: hl7.Message) -> Iterator[list[hl7.Segment]]:
    """Yield each OBR with the ORC before it and what follows it up to the next."""
    group: list[hl7.Segment] = []
    order = None
    for segment in message:
        name = str(segment[0])
        if name == "ORC":
            order = segment
        elif name == "OBR":
            if group:
                yield group
            group = [segment, *([order] if order is not None else [])]
            order = None
        elif group:
            group.append(segment)
    if group:
        yield group


def _read_group(message: hl7.Message, group: Sequence[hl7.Segment], accession: Sequence[int]) -> SignedReport:
    request = group[0]
    observations = [segment for segment in group if str(segment[0]) == "OBX"]
    order = next((segment for segment in group if str(segment[0]) == "ORC"), None)
    study = next((_text(segment, 1) for segment in message if str(segment[0]) == "ZDS"), "")
    for one in observations:
        if _text(one, 3) in STUDY_UID:
            study = _text(one, 5)
    number = next(filter(None, (_text(request, field) for field in accession)), "")
    placer = _text(request, 2) or (_text(order, 2) if order is not None else "")
    known = Identifiers(study, number, placer)
    if not any((study, number, placer)):
        raise BadMessage("AE", "no_identifier")
    texts = [one for one in observations if _text(one, 2) in TEXTS and _text(one, 3) not in STUDY_UID]
    states = {_text(one, 11) for one in texts}
    status = _text(request, 25) or next((state for state in SIGNED if states == {state}), "")
    reported = _moment(_text(request, 22) or _text(message[0], 7))
    if status in WITHDRAWN or (status in SIGNED and states and states <= set(WITHDRAWN)):
        return SignedReport(known, "withdrawn", reported, "")
    if status not in SIGNED:
        return SignedReport(known, "preliminary", reported, "")
    # OBX-11 is required, but systems that have one status for the whole report leave it out.
    signed = [one for one in texts if _text(one, 11) in ("", *SIGNED) and not NOT_SEEN.search(_text(one, 3, 2))]
    text = "\n".join(_body(message, one) for one in signed).strip()
    return SignedReport(known, "signed" if text else "empty", reported, text)


def _text(segment: hl7.Segment, field: int, part: int = 1) -> str:
    """Return a component of a field's first repetition, or "" if it is absent."""
    try:
        return str(segment.extract_field(1, field, 1, part, 1)).strip()
    except (IndexError, hl7.HL7Exception):
        return ""


def _body(message: hl7.Message, observation: hl7.Segment) -> str:
    """Return the text of OBX-5; repetitions are its lines. `&` and `^`, which some systems do not escape, stay."""
    if len(observation) <= 5:
        return ""
    lines = (message.unescape(str(repetition)) for repetition in observation[5])
    return "\n".join(lines).replace("\r", "\n")


def _moment(text: str) -> datetime.datetime:
    """Return a time stamp, in the time zone of this machine if it names none; now for none, a wrong or a future one."""
    now = datetime.datetime.now().astimezone()
    try:
        given = hl7.parse_datetime(text) or now
        return min(given.astimezone(), now)
    except (ValueError, OverflowError):
        return now
