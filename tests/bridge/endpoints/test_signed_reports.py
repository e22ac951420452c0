"""Signed reports come over MLLP or as files, and pair with drafts; bad messages are answered and stop nothing."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hl7
import pytest
import yaml

from bridge.__main__ import main
from bridge.configuration.signed import SignedSettings
from bridge.dicom.identity import Identifiers, SiteKey
from bridge.endpoints.signed_reports import SignedReports, listen_for_reports
from bridge.store.agreement import SignedStore
from bridge.store.schema import NotRecorded
from tests.bridge.conftest import Bench
from tests.bridge.signed_messages import EFFUSION, oru
from tests.bridge.studies import STUDY, radiograph

KNOWN = Identifiers("1.2.3", "ACC-1")


@pytest.fixture
def agreement(tmp_path: Path) -> Iterator[SignedStore]:
    """A database with one draft."""
    key = SiteKey.load(tmp_path / "state" / "site.key")
    with contextlib.closing(SignedStore(tmp_path / "state" / "agreement.sqlite", key)) as opened:
        opened.add_draft(KNOWN, "a" * 64, EFFUSION)
        yield opened


def counts(agreement: SignedStore) -> dict[str, int]:
    """The counts that are not zero."""
    return {name: count for name, count in agreement.summary()["counts"].items() if count}


def converse(port: int, *blocks: bytes) -> list[str]:
    """Send blocks over one connection; MSA-1 of each answer, until the other side closes."""
    codes = []
    closed = contextlib.suppress(ConnectionError)
    with socket.create_connection(("127.0.0.1", port), 20) as connection, closed:
        for block in blocks:
            connection.sendall(block)
            answer = b""
            while not answer.endswith(b"\x1c\r") and (part := connection.recv(65536)):
                answer += part
            if not answer:
                break
            codes.append(str(hl7.parse(answer[1:-2].decode()).segment("MSA")[1]))
    return codes


def frame(message: bytes) -> bytes:
    """MLLP."""
    return b"\x0b" + message + b"\x1c\r"


def test_messages_over_mllp(agreement: SignedStore) -> None:
    """Good and bad ones over one connection; each is answered, and the next is taken."""
    settings = SignedSettings(port=0)
    bad = [b"garbage", oru(header=[(9, "ADT^A01")]), oru(accession=""), b"MSH|^~\\&|"]
    with listen_for_reports(settings, SignedReports(settings, agreement).take) as port:
        messages = [oru(status="P"), *bad, oru(), oru("Clear lungs.", status="C", at="20260302120000+0000")]
        codes = converse(port, *map(frame, messages))

    assert codes == ["AA", "AR", "AR", "AE", "AR", "AA", "AA"]
    assert counts(agreement) == {
        "pairs": 1,
        "messages_refused": 4,
        "reports_preliminary": 1,
        "reports_signed": 2,
    }
    assert agreement.summary()["days"][0]["findings"]["pleural effusion"] == [0, 1, 0, 0]


def test_what_is_no_frame_ends_its_connection_alone(agreement: SignedStore) -> None:
    """Too long, not MLLP, or cut off; another connection is served."""
    settings = SignedSettings(port=0, max_message_kb=1)
    with listen_for_reports(settings, SignedReports(settings, agreement).take) as port:
        assert converse(port, b"GET / HTTP/1.1\r\n\r\n\x1c\r", frame(oru())) == []
        assert converse(port, frame(b"MSH" + b"x" * 5000), frame(oru())) == ["AE"]
        with socket.create_connection(("127.0.0.1", port)) as cut:
            cut.sendall(b"\x0bMSH|")
        assert converse(port, frame(oru())) == ["AA"]


def test_strangers_are_refused(agreement: SignedStore) -> None:
    """Only listed addresses, and at most as many connections as allowed."""
    settings = SignedSettings(port=0, senders=("10.0.0.7",))
    with listen_for_reports(settings, SignedReports(settings, agreement).take) as port:
        assert converse(port, frame(oru())) == []
    assert counts(agreement) == {"drafts_alone": 1}


def test_a_full_disk_is_a_rejection_that_may_be_sent_again(
    agreement: SignedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AR, and the next message is taken; so it is after a fault of the bridge."""
    reports = SignedReports(SignedSettings(port=0), agreement)
    with monkeypatch.context() as patched:
        for error, expected in (
            (NotRecorded("disk_full"), ("AR", "disk_full")),
            (KeyError(), ("AE", "internal_error")),
        ):

            def fail(*_: Any, error: Exception = error) -> bool:
                raise error

            patched.setattr(agreement, "add_report", fail)
            assert reports.take(oru()) == expected
    assert reports.take(oru()) == ("AA", "")
    assert SignedReports(SignedSettings(port=0), agreement, enabled=False).take(oru()) == ("AR", "switched_off")


def test_files_in_a_folder(agreement: SignedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is removed once it is recorded; one that cannot be read is put aside; one that is being written waits."""
    folder = tmp_path / "in"
    folder.mkdir()
    reports = SignedReports(SignedSettings(folder=folder, max_message_kb=4), agreement)
    for name, data in (("1.hl7", frame(oru())), ("2.hl7", b"garbage"), ("3.hl7", b"x" * 5000), ("4.hl7", oru())):
        (folder / name).write_bytes(data)
        os.utime(folder / name, (0, 0))
    (folder / "4.hl7").touch()
    monkeypatch.setattr("bridge.endpoints.signed_reports.SETTLED_S", time.time() - 3600)

    assert [reports.read_folder() for _ in range(4)] == [True, True, True, False]
    assert sorted(path.name for path in folder.iterdir()) == ["4.hl7", "refused"]
    assert sorted(path.name for path in (folder / "refused").iterdir()) == ["2.hl7", "3.hl7"]
    assert counts(agreement)["pairs"] == 1
    assert not SignedReports(SignedSettings(folder=tmp_path / "none"), agreement).read_folder()


def test_a_study_of_the_pacs_is_compared_with_its_signed_report(
    make_bench: Callable[..., Bench], agreement: SignedStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its accession number; the command prints counts and writes what the page reads, without patient data."""
    bench = make_bench(radiograph(AccessionNumber="PLANT-77"))
    bench.worker._drafter._agreement = agreement
    bench.queue.notify(STUDY, 0)
    bench.run()
    reports = SignedReports(SignedSettings(port=0), agreement)
    assert reports.take(oru(accession="PLANT-77")) == ("AA", "")
    config = {"state": "state", "dicomweb": {"url": "http://127.0.0.1:1"}, "signed": {"port": 0}}
    (tmp_path / "bridge.yaml").write_text(yaml.safe_dump(config))

    assert main(["agreement", str(tmp_path / "bridge.yaml"), "--out", str(tmp_path / "a.json")]) == 0
    written = (tmp_path / "a.json").read_text()
    assert json.loads(written)["counts"]["pairs"] == 1
    assert "pairs                  1" in capsys.readouterr().out
    assert "PLANT" not in written
    assert STUDY not in written
