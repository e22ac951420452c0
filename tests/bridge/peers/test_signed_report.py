"""What is read of an ORU^R01: who is meant, whether it is signed, and the text that is compared."""

import datetime

import hl7
import pytest

from bridge.dicom.identity import Identifiers
from bridge.peers.signed_report import BadMessage, SignedReport, acknowledge, parse, read_reports
from tests.bridge.signed_messages import EFFUSION, oru


def read(message: bytes, accession: tuple[int, ...] = (18, 3)) -> SignedReport:
    """The only report of a message."""
    (report,) = read_reports(parse(message), accession)
    return report


def test_a_signed_report() -> None:
    """Identifiers, when it was signed (OBR-22), and its text."""
    report = read(oru(EFFUSION, placer="PL-1", study="1.2.3"))

    assert report.known == Identifiers("1.2.3", "ACC-1", "PL-1")
    assert report.status == "signed"
    assert report.reported == datetime.datetime(2026, 3, 2, 11, 30, tzinfo=datetime.UTC)
    assert report.text == EFFUSION


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("F", "signed"),
        ("C", "signed"),
        ("X", "withdrawn"),
        *((other, "preliminary") for other in ("P", "R", "S", "I", "")),
    ],
)
def test_status(status: str, expected: str) -> None:
    """Tables 0123 and 0085: final and corrected reports are signed."""
    assert read(oru(status=status)).status == expected


def test_the_status_may_be_in_the_observations_alone_or_in_the_request_alone() -> None:
    """OBR-25 is optional, and some systems leave OBX-11 empty."""
    fields = oru().split(b"\r")
    without_obr = b"\r".join([*fields[:2], fields[2][:-1], *fields[3:]])
    without_obx = b"\r".join([*fields[:3], fields[3][:-1], *fields[4:]])
    assert [read(message).status for message in (without_obr, without_obx)] == ["signed", "signed"]


def test_the_text_has_all_lines_and_nothing_that_was_only_told() -> None:
    """Observations, repetitions and escaped line breaks are lines; an indication is not a finding."""
    report = read(oru("Small left~effusion.\\.br\\No \\T\\ no.", "Heart normal."))
    assert report.text == "Small left\neffusion.\nNo & no.\nHeart normal."
    assert read(oru("Pneumonia?", observation="18785-6^Reason for study^LN")).status == "empty"


def test_files_in_observations_are_left_out() -> None:
    """A PDF of megabytes costs nothing."""
    pdf = b"OBX|2|ED|PDF||^AP^PDF^Base64^" + b"A^&" * 2_000_000 + b"||||||F\r"
    assert read(oru(EFFUSION) + pdf).text == EFFUSION


def test_several_orders_are_several_reports() -> None:
    """Each OBR begins one, with the observations after it; ORC-2 is the placer's number where OBR-2 is empty."""
    first, second = oru("Left effusion.", accession="A"), oru("Right effusion.", accession="B")
    message = first + b"ORC|RE|PL-2\r" + second[second.index(b"OBR") :]
    one, other = read_reports(parse(message), (18, 3))

    assert (one.known, one.text) == (Identifiers("", "A", ""), "Left effusion.")
    assert (other.known, other.text) == (Identifiers("", "B", "PL-2"), "Right effusion.")


def test_the_accession_number_is_where_the_site_says() -> None:
    """The first field that is not empty."""
    message = oru(accession="FILLER").replace(
        b"36643-5^Chest^LN" + b"|" * 14, b"36643-5^Chest^LN" + b"|" * 14 + b"RIS-7"
    )
    assert read(message).known.accession == "RIS-7"
    assert read(message, (3,)).known.accession == "FILLER"


def test_character_sets_and_line_ends() -> None:
    """UTF-8, Latin-1, and line feeds."""
    text = "Größe normal."
    for message in (oru(text), oru(text).decode().encode("latin-1"), oru(text).replace(b"\r", b"\r\n")):
        assert read(message).text == text


BAD = {
    b"": ("AR", "not_hl7"),
    b"MSH": ("AR", "not_hl7"),
    b"\xff\xfe\x00": ("AR", "not_hl7"),
    b"MSH|^~\\&|\r": ("AR", "unsupported_message_type"),
    oru(header=[(9, "ADT^A01")]): ("AR", "unsupported_message_type"),
    oru(header=[(12, "3.0")]): ("AR", "unsupported_version"),
    oru(header=[(11, "T")]): ("AR", "unsupported_processing_id"),
    oru().partition(b"OBR")[0]: ("AE", "obr_missing"),
    oru(accession=""): ("AE", "no_identifier"),
    oru() + b"OBX" + b"|" * 30_000: ("AE", "too_many_fields"),
}


@pytest.mark.parametrize("message", BAD, ids=[f"{code} {reason}" for code, reason in BAD.values()])
def test_bad_messages_have_a_reason(message: bytes) -> None:
    """AR for a kind that is not taken, AE for contents at fault (table 0008)."""
    with pytest.raises(BadMessage) as error:
        read_reports(parse(message), (18, 3))
    assert (error.value.code, error.value.reason) == BAD[message]


@pytest.mark.parametrize("message", [oru(), *BAD])
def test_every_message_has_an_answer_that_can_be_read(message: bytes) -> None:
    """MSA-1 is the code, MSA-2 the control id where there is one, MSA-3 the reason."""
    answer = hl7.parse(acknowledge(message, "AE", "no_identifier").decode())
    assert str(answer.segment("MSA")[1]) == "AE"
    assert str(answer.segment("MSA")[2]) == ("77" if b"|77|" in message else "")
    assert str(answer.segment("MSA")[3]) == "no_identifier"
    assert b"P-4711" not in acknowledge(message, "AE")
