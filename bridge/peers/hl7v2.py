"""A draft as HL7 v2.5.1 ORU^R01 with result status P (preliminary), sent over MLLP."""

import hashlib
import re
import socket
import time
from collections.abc import Sequence

import hl7
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from bridge.configuration.settings import Hl7Settings
from bridge.documents.context import identify
from bridge.documents.draft import BANNER, NOTICE, SECTIONS, TITLE, Draft, plain
from bridge.failures import Outage, StudyFailure

ESCAPES = str.maketrans({"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\n": "\\.br\\"})
"""HL7 v2.5.1 chapter 2.7: characters of a text that would be read as separators."""

PRELIMINARY = "P"
"""Tables 0123 and 0085: a result that is not verified. (Processing ID P in MSH-11 means production.)"""

LINE_ENDS = re.compile(r"[\r\n]+")
START, END = b"\x0b", b"\x1c\r"
MAX_ANSWER = 2**20

ALPHABETIC, IDEOGRAPHIC, PHONETIC = "A", "I", "P"


class Hl7Client:
    """Sends drafts to a RIS."""

    def __init__(self, settings: Hl7Settings) -> None:
        self._settings = settings

    def send(self, draft: Draft) -> None:
        """Send a draft and wait for the acknowledgment.

        Raises Outage without an answer, StudyFailure if the RIS does not accept the message.
        """
        message = write_message(draft, self._settings).encode()
        try:
            code, answered = _acknowledgment(_exchange(self._settings, message))
        except OSError:
            raise Outage("ris_unreachable") from None
        except (hl7.HL7Exception, KeyError, IndexError):
            raise StudyFailure("ris_answer_unreadable") from None
        if code not in ("AA", "CA"):
            # Table 0008: AE and CE are errors, AR and CR rejections, of this message.
            raise StudyFailure(f"ris_{code}" if code.isalpha() and len(code) == 2 else "ris_refused")
        if answered not in ("", _control_id(draft)):
            raise StudyFailure("ris_acknowledged_another_message")


def _exchange(settings: Hl7Settings, message: bytes) -> bytes:
    """Send a message in its frame (MLLP) and return the answer. All of it takes at most `timeout_s`.

    The client of the hl7 package waits for a connection as long as the operating system does.

    Raises OSError.
    """
    end = time.monotonic() + settings.timeout_s
    with socket.create_connection((settings.host, settings.port), settings.timeout_s) as connection:
        connection.sendall(START + message + END)
        answer = b""
        # Some systems leave out the carriage return.
        while END[:1] not in answer:
            connection.settimeout(max(end - time.monotonic(), 0.001))
            part = connection.recv(65536)
            if not part or len(answer) > MAX_ANSWER:
                raise ConnectionError
            answer += part
    return answer


def _acknowledgment(answer: bytes) -> tuple[str, str]:
    """Return MSA-1, and MSA-2, the control id of the message that is acknowledged, or "" if the RIS leaves it out.

    Latin-1 reads every answer, and these fields right: the rest may be in any character set.

    Raises KeyError, IndexError or HL7Exception if there is none.
    """
    # What comes before the header can be a byte order mark.
    message = answer.partition(END[:1])[0].decode("latin-1")
    message = message[max(message.find("MSH"), 0) :]
    # Segments end with a carriage return (2.5.1 chapter 2.5.2); some systems write line feeds.
    lines = filter(None, LINE_ENDS.split(message.strip("\x0b\r\n")))
    segment = hl7.parse("\r".join(lines)).segment("MSA")
    return str(segment[1]).strip().upper(), str(segment[2]).strip() if len(segment) > 2 else ""


def _control_id(draft: Draft) -> str:
    return hashlib.sha256(draft.uid.encode()).hexdigest()[:20]


def write_message(draft: Draft, settings: Hl7Settings) -> str:
    """Return the message of a draft.

    MSH-10 follows from the draft's UID, so that a RIS can tell a message that is sent again after a crash.
    """
    image = identify(draft.images[0])
    names = [settings.sending_application, settings.sending_facility]
    names += [settings.receiving_application, settings.receiving_facility]
    header = [
        "MSH",
        "^~\\&",
        *map(_escape, names),
        time.strftime("%Y%m%d%H%M%S%z"),
        "",
        "ORU^R01^ORU_R01",
        _control_id(draft),
    ]
    header += ["P", "2.5.1", *[""] * 5, "UNICODE UTF-8"]
    issuer = _text(image, "IssuerOfPatientID")
    identity = f"{_text(image, 'PatientID')}^^^{issuer}" if issuer else _text(image, "PatientID")
    patient = ["PID", "1", "", identity, "", _names(image.get("PatientName"))]
    patient += ["", _text(image, "PatientBirthDate"), _text(image, "PatientSex")]
    date = _text(image, "StudyDate")
    taken = date + _text(image, "StudyTime").partition(".")[0] if date else ""
    accession = _text(image, "AccessionNumber")
    request = ["OBR", "1", "", accession, f"{TITLE.value}^{_escape(TITLE.meaning)}^LN", "", "", taken]
    request += [""] * 17 + [PRELIMINARY]
    return "\r".join("|".join(fields) for fields in (header, patient, request, *_observations(draft))) + "\r"


def _observations(draft: Draft) -> list[Sequence[str]]:
    """Return one OBX for the notice, one for each section, and one for the sentences to confirm."""
    model = draft.answer["model"]
    comment = "48767-8^Annotation comment^LN"
    texts = [(comment, NOTICE)]
    texts += [
        (f"{heading.value}^{_escape(heading.meaning)}^LN", BANNER + text)
        for name, text in draft.sections()
        for heading, _ in (SECTIONS[name],)
    ]
    texts += [(comment, BANNER + text) for _, text in draft.remarks()]
    device = _escape(f"{model['name']} {model['version']} {model['sha256'][:16]}")
    return [
        ["OBX", str(number), "TX", code, str(number), _escape(text), *[""] * 5, PRELIMINARY, *[""] * 6, device]
        for number, (code, text) in enumerate(texts, start=1)
    ]


def _text(image: Dataset, keyword: str) -> str:
    """Return the text of an element, or "" if it is absent."""
    return _escape(str(image.get(keyword) or "").strip())


def _names(name: PersonName | str | None) -> str:
    """Return a name as XPN, a repetition for each way of writing it: DICOM has prefix before suffix, HL7 after."""
    groups = zip((ALPHABETIC, IDEOGRAPHIC, PHONETIC), str(name or "").split("="), strict=False)
    repetitions = []
    for representation, group in groups:
        family, given, middle, prefix, suffix = (*map(_escape, group.split("^")), *[""] * 5)[:5]
        if group.strip("^ "):
            repetitions.append("^".join((family, given, middle, suffix, prefix, "", "L", representation)))
    return "~".join(repetitions)


def _escape(text: str) -> str:
    # Control characters would end the message early: MLLP frames it with 0x0B and 0x1C.
    return plain(text).translate(ESCAPES)
