"""A draft as HL7 v2: preliminary, valid, safe against its own text, and told apart from a new one when sent again."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

import hl7
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

from bridge.configuration.settings import Hl7Settings
from bridge.documents.draft import Draft
from bridge.failures import Outage, StudyFailure
from bridge.peers.hl7v2 import Hl7Client, write_message
from tests.bridge.conftest import Bench
from tests.bridge.drafts import COMPARED, DOUBT, SENTENCES, make_draft
from tests.bridge.receivers import ris
from tests.bridge.studies import STUDY, radiograph

SETTINGS = Hl7Settings("127.0.0.1", 1, receiving_application="RIS", receiving_facility="HOSPITAL")
HOSTILE = "A|B^C&D~E\\F\nOBX|9|TX|x||final||||||F"


def test_the_message_is_valid_and_preliminary() -> None:
    """hl7apy finds ORU_R01 of 2.5.1; OBR-25 and every OBX-11 are P."""
    message = write_message(make_draft(), SETTINGS)
    parsed = hl7.parse(message)

    assert parse_message(message, validation_level=VALIDATION_LEVEL.TOLERANT).validate()
    assert str(parsed.segment("OBR")[25]) == "P"
    assert [str(segment[11]) for segment in parsed.segments("OBX")] == ["P", "P", "P"]
    assert "UNVERIFIED DRAFT" in str(parsed.segments("OBX")[0][5])
    assert parsed["PID.F5.R1.C1"] == "MUELLER"
    assert parsed["PID.F3"] == "4711-0815"


def test_sentences_to_confirm_are_the_last_observation() -> None:
    """A comment after the sections, preliminary like them."""
    message = write_message(make_draft(sentences=SENTENCES), SETTINGS)
    parsed = hl7.parse(message)
    last = parsed.segments("OBX")[-1]

    assert parse_message(message, validation_level=VALIDATION_LEVEL.TOLERANT).validate()
    assert parsed.unescape(str(last[5])).replace("\r", "\n").endswith(DOUBT)
    assert str(last[11]) == "P"
    assert len(parsed.segments("OBX")) == 4


def test_the_comparison_is_an_observation_before_the_findings() -> None:
    """Under its LOINC code, preliminary like them."""
    message = write_message(make_draft(prior=True), SETTINGS)
    (segment,) = [one for one in hl7.parse(message).segments("OBX") if "55114-3" in str(one[3])]

    assert parse_message(message, validation_level=VALIDATION_LEVEL.TOLERANT).validate()
    assert str(segment[5]) == f"[UNVERIFIED DRAFT] {COMPARED}"
    assert (str(segment[1]), str(segment[11])) == ("2", "P")


@pytest.mark.parametrize("place", ["report", "name"])
def test_text_cannot_add_segments_or_fields(place: str) -> None:
    """Separators in a report or a name arrive as text."""
    if place == "report":
        draft = make_draft(sections={"findings": HOSTILE, "impression": None})
    else:
        draft = make_draft(header={"PatientName": HOSTILE.partition("^")[0] + "|X^Anna"})
    parsed = hl7.parse(write_message(draft, SETTINGS))

    assert [str(segment[0]) for segment in parsed][:3] == ["MSH", "PID", "OBR"]
    assert {str(segment[11]) for segment in parsed.segments("OBX")} == {"P"}
    if place == "report":
        assert parsed.unescape(str(parsed.segments("OBX")[1][5])).startswith("[UNVERIFIED DRAFT] A|B^C&D~E\\F")


def test_control_characters_do_not_end_the_message() -> None:
    """The frame of MLLP ends with 0x1C: neither a name nor a report may contain it."""
    draft = make_draft(
        header={"PatientName": "A\x1cB^C\x0bD", "PatientID": "1\x1c2"},
        sections={"findings": "a\x1c\rb\x0bc\ud800", "impression": None},
    )
    message = write_message(draft, SETTINGS)

    assert not {"\x0b", "\x1c"} & set(message)
    assert message.encode()
    assert hl7.parse(message)["PID.F5.R1.C1"] == "AB"


def test_a_japanese_name_has_its_representations() -> None:
    """Alphabetic, ideographic and phonetic group are repetitions of PID-5."""
    draft = make_draft(
        header={"PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう", "SpecificCharacterSet": "ISO_IR 192"}
    )
    field = str(hl7.parse(write_message(draft, SETTINGS)).segment("PID")[5])

    assert field == "Yamada^Tarou^^^^^L^A~山田^太郎^^^^^L^I~やまだ^たろう^^^^^L^P"


def test_the_control_id_follows_from_the_draft() -> None:
    """The same draft sent twice has one MSH-10; it has at most 20 characters."""
    first, second = (hl7.parse(write_message(make_draft(), SETTINGS))["MSH.F10"] for _ in range(2))

    assert first == second
    assert len(first) == 20


def test_acknowledgments(unused_port: int) -> None:
    """AA is success, AE and AR are failures, no RIS is an outage."""
    with ris() as (settings, got):
        Hl7Client(settings).send(make_draft())
        assert len(got) == 1
    for code in ("AE", "AR"):
        with ris(code) as (settings, _), pytest.raises(StudyFailure, match=f"ris_{code}"):
            Hl7Client(settings).send(make_draft())
    with pytest.raises(Outage):
        Hl7Client(Hl7Settings("127.0.0.1", unused_port, timeout_s=2.0)).send(make_draft())


ACCEPTED = "MSH|^~\\&|RIS|||||| ACK|1|P|2.5.1\rMSA|AA||Prüfung\r"


@pytest.mark.parametrize(
    "frame",
    [
        b"\x0b" + ACCEPTED.encode() + b"\x1c\r",
        b"\x0b" + ACCEPTED.encode("latin-1") + b"\x1c\r",
        b"\x0b" + ACCEPTED.replace("\r", "\n").encode() + b"\x1c\n",
        b"\x0b" + ACCEPTED.replace("\r", "\r\n").encode() + b"\x1c\r",
        b"\r\n\x0b" + ACCEPTED.replace("AA", "aa ").encode() + b"\x1c",
        b"\x0b" + ACCEPTED.encode("utf-8-sig") + b"\x1c\r",
        b"\x0b" + ACCEPTED.replace("AA||Prüfung", "CA").encode() + b"\x1c\r",
        b"\x0b" + ACCEPTED.replace("|", "#").replace("^", "|").encode() + b"\x1c\r",
    ],
    ids=["utf-8", "latin-1", "line feeds", "both", "frame", "byte order mark", "one field", "other separators"],
)
def test_a_ris_that_writes_in_its_own_way_has_accepted(frame: bytes) -> None:
    """Other character sets and line ends, and a frame without its last byte; else the message would be sent again."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            # Until the client ends: some systems keep the connection.
            with connection:
                connection.sendall(frame)
                while connection.recv(65536):
                    pass

        threading.Thread(target=serve, daemon=True).start()
        Hl7Client(Hl7Settings(*server.getsockname(), timeout_s=2.0)).send(make_draft())


@pytest.mark.parametrize("answer", [b"", b"hello", b"MSH|^~\\&|RIS\r", b"MSH|^~\\&|RIS\rMSA\r", b"\xff\xfe"])
def test_an_answer_without_an_acknowledgment_is_a_failure(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    """Somebody must look at it."""
    monkeypatch.setattr("bridge.peers.hl7v2._exchange", lambda *_: answer)
    with pytest.raises(StudyFailure, match="ris_"):
        Hl7Client(SETTINGS).send(make_draft())


def test_an_acknowledgment_of_another_message_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A RIS, or an engine in front of it, that has mixed up its answers may not have the draft."""
    answer = ACCEPTED.replace("AA|", "AA|OTHER").encode()
    monkeypatch.setattr("bridge.peers.hl7v2._exchange", lambda *_: answer)
    with pytest.raises(StudyFailure, match="ris_acknowledged_another_message"):
        Hl7Client(SETTINGS).send(make_draft())


def test_a_ris_that_drops_packets_or_never_finishes_is_an_outage() -> None:
    """A firewall that drops packets lets a connection hang for minutes; so can an answer of one byte at a time."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as stack:
        address = server.getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        with pytest.raises(Outage):
            Hl7Client(Hl7Settings(*address, timeout_s=0.3)).send(make_draft())

    def drip() -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            while True:
                connection.sendall(b"x")
                time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=drip, daemon=True).start()
        with pytest.raises(Outage):
            Hl7Client(Hl7Settings(*server.getsockname(), timeout_s=0.3)).send(make_draft())


def test_the_identity_is_that_of_the_documents() -> None:
    """Values that HL7 would read as others are empty, as they are in the SR."""
    header = {"PatientBirthDate": "1950.01.01", "PatientSex": "X", "StudyDate": "", "PatientName": "Doe\\Smith^John"}
    parsed = hl7.parse(write_message(make_draft(header=header), SETTINGS))

    assert [str(parsed.segment("PID")[field]) for field in (3, 5, 7, 8)] == ["4711-0815", "", "", ""]
    assert str(parsed.segment("OBR")[7]) == ""


@pytest.fixture
def unused_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_ris_that_is_away_does_not_double_the_draft_in_the_pacs(make_bench: Callable[..., Bench]) -> None:
    """The SR is stored once; the message follows when the RIS is back."""
    bench = make_bench(radiograph())
    sent: list[Draft] = []
    other: list[Draft] = []
    failures = [Outage("ris_unreachable")] * 3

    class Ris:
        def send(self, draft: Draft) -> None:
            other.append(draft)
            if failures:
                raise failures.pop()
            sent.append(draft)

    class Fhir:
        send = staticmethod(other.append)

    bench.worker._drafter._outputs = [Fhir(), Ris()]
    bench.queue.notify(STUDY, 0)
    bench.run()
    assert (len(bench.pacs.stored), sent) == (1, [])
    for _ in range(3):
        bench.run(seconds=30)

    # The model is asked once, a receiver that has the draft does not get it again, and a second try sends the same.
    assert len(bench.server.received) == 1
    assert len(other) == 1 + 4
    assert {draft.written for draft in other} == {sent[0].written}
    assert bench.pacs.stored == [draft.uid for draft in sent]
    assert bench.queue.counts()["reported"] == 1
