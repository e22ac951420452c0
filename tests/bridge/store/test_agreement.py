"""Drafts and signed reports are paired, compared and forgotten; no text and no identifier is kept."""

import contextlib
import datetime
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.dicom.identity import Identifiers, SiteKey
from bridge.store.agreement import SignedStore
from bridge.store.labels import FINDINGS, list_findings
from tests.bridge.conftest import Clock

WEIGHTS = "a" * 64
MONDAY = datetime.datetime(2026, 3, 2, 11, 30, tzinfo=datetime.UTC)
KNOWN = Identifiers("1.2.3", "ACC-1", "PL-1")
TEXT = "Small left pleural effusion. PLANTTEXT."


@pytest.fixture
def clock() -> Clock:
    """A clock that only a test moves."""
    return Clock()


@pytest.fixture
def agreement(tmp_path: Path, clock: Clock) -> Iterator[SignedStore]:
    """An empty database."""
    with contextlib.closing(SignedStore(tmp_path / "agreement.sqlite", SiteKey(b"k" * 32), clock)) as opened:
        yield opened


def findings(agreement: SignedStore) -> dict[str, list[int]]:
    """Findings of the only day that anybody sees, with the numbers of both, draft, signed, neither."""
    (row,) = agreement.summary()["days"]
    assert set(row["findings"]) == set(FINDINGS)
    return {name: cells for name, cells in row["findings"].items() if cells != [0, 0, 0, row["studies"]]}


def counts(agreement: SignedStore) -> dict[str, int]:
    """The counts that are not zero."""
    return {name: count for name, count in agreement.summary()["counts"].items() if count}


def test_a_pair_is_compared_by_finding(agreement: SignedStore) -> None:
    """Both, only the draft, only the signed report, neither; under the day of the signature and the model."""
    agreement.add_draft(KNOWN, WEIGHTS, "Left effusion. Possible pneumonia. No edema.")
    agreement.add_report(KNOWN, MONDAY, "Left effusion. Fracture of a rib. No pneumonia.")

    assert findings(agreement) == {
        "pleural effusion": [1, 0, 0, 0],
        "pneumonia": [0, 1, 0, 0],
        "fracture": [0, 0, 1, 0],
    }
    (row,) = agreement.summary()["days"]
    assert (row["day"], row["model"], row["studies"]) == ("2026-03-02", "a" * 16, 1)


@pytest.mark.parametrize(
    "known", [Identifiers("1.2.3"), Identifiers("", "ACC-1"), Identifiers("", "", "PL-1"), Identifiers("9.9", "ACC-1")]
)
def test_one_identifier_is_enough(agreement: SignedStore, known: Identifiers) -> None:
    """The study's UID, or else the accession number, or else the placer's number; the report may come first."""
    agreement.add_report(known, MONDAY, TEXT)
    assert counts(agreement) == {"reports_alone": 1}
    agreement.add_draft(KNOWN, WEIGHTS, TEXT)
    assert counts(agreement) == {"pairs": 1}


def test_numbers_of_different_kinds_do_not_pair(agreement: SignedStore) -> None:
    """An accession number may equal another study's placer number."""
    agreement.add_draft(Identifiers("1.2.3", "7", "8"), WEIGHTS, TEXT)
    agreement.add_report(Identifiers("", "8", "7"), MONDAY, TEXT)
    assert counts(agreement) == {"drafts_alone": 1, "reports_alone": 1}


def test_a_number_of_several_studies_pairs_none(agreement: SignedStore) -> None:
    """Nobody knows which is meant."""
    for study in ("1.2.3", "1.2.4"):
        agreement.add_draft(Identifiers(study, "ACC-1"), WEIGHTS, TEXT)
    agreement.add_report(Identifiers("", "ACC-1"), MONDAY, TEXT)
    assert counts(agreement) == {"drafts_alone": 2, "reports_of_several": 1}


def test_a_correction_replaces_and_an_older_report_does_not(agreement: SignedStore) -> None:
    """Whatever the order in which they arrive; a withdrawn report is gone."""
    agreement.add_draft(KNOWN, WEIGHTS, "Left effusion.")
    assert agreement.add_report(KNOWN, MONDAY, "Clear lungs.")
    assert agreement.add_report(KNOWN, MONDAY + datetime.timedelta(hours=1), "Left effusion.")
    assert not agreement.add_report(KNOWN, MONDAY, "Clear lungs.")
    assert findings(agreement) == {"pleural effusion": [1, 0, 0, 0]}

    assert agreement.add_report(KNOWN, MONDAY + datetime.timedelta(hours=2), None)
    assert counts(agreement) == {"drafts_alone": 1}


def test_a_withdrawn_draft_is_not_compared(agreement: SignedStore) -> None:
    """The study has no draft any longer; a new one counts instead of the old."""
    agreement.add_draft(KNOWN, WEIGHTS, "Clear lungs.")
    agreement.add_draft(KNOWN, WEIGHTS, "Left effusion.")
    agreement.add_report(KNOWN, MONDAY, "Left effusion.")
    assert findings(agreement) == {"pleural effusion": [1, 0, 0, 0]}
    agreement.withdraw_draft(KNOWN)
    assert counts(agreement) == {"reports_alone": 1}


def test_old_pairs_become_counts_and_what_is_alone_is_counted(agreement: SignedStore, clock: Clock) -> None:
    """The summary stays the same, and no digest is left."""
    for number in range(3):
        known = Identifiers(f"1.2.{number}")
        agreement.add_draft(known, WEIGHTS, "Left effusion.")
        agreement.add_report(known, MONDAY, "Left effusion." if number else "Clear lungs.")
    agreement.add_report(Identifiers("9.9"), MONDAY, TEXT)
    before = agreement.summary()

    assert agreement.purge(14, 90) == 0
    clock.now += 15 * 86400
    assert agreement.purge(14, 90) == 1
    clock.now += 80 * 86400
    assert agreement.purge(14, 90) == 6
    assert agreement.summary() == before
    assert findings(agreement) == {"pleural effusion": [2, 1, 0, 0]}
    assert agreement._base.execute("SELECT count(*) FROM drafted").fetchone() == (0,)


def test_the_file_has_no_text_and_no_identifier(agreement: SignedStore, tmp_path: Path) -> None:
    """Neither does the summary."""
    known = Identifiers("1.2.826.77", "PLANTACC", "PLANTPLACER")
    agreement.add_draft(known, WEIGHTS, TEXT)
    agreement.add_report(known, MONDAY, TEXT)
    agreement._base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir()) + repr(agreement.summary()).encode()
    assert b"pleural effusion" in written
    assert not any(word in written for word in (b"PLANT", b"1.2.826.77", b"Small", b"left"))


def test_the_labels_of_a_text_without_stops_take_bounded_time() -> None:
    """The rules are quadratic in the length of a sentence, so a long one is cut; ordinary texts are as they were."""
    assert list_findings("effusion " * 50_000) == ["pleural effusion"]
    assert list_findings("a" * 30_000 + " pneumothorax") == []
    assert list_findings("There is no pneumothorax or\npleural effusion. Heart size is\nnormal.") == []


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    """As that of the queue is."""
    with contextlib.closing(sqlite3.connect(tmp_path / "a.sqlite")) as base:
        base.execute("PRAGMA user_version = 99")
    with pytest.raises(Exception, match="has schema 99"):
        SignedStore(tmp_path / "a.sqlite", SiteKey(b"k" * 32))
