"""Studies that change, are merged or lose images: no draft of an earlier state may look current."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from pydicom.dataset import Dataset

from bridge.dicom.study_state import StudyState
from tests.bridge.conftest import Bench
from tests.bridge.fake_server import refusal
from tests.bridge.studies import OUTAGE, STUDY, predecessors, radiograph

MakeBench = Callable[..., Bench]
OTHER = f"{STUDY}.8"


def work(bench: Bench, study: str = STUDY, seconds: float = 0) -> None:
    """Announce a study and work on it."""
    bench.queue.notify(study, 0)
    bench.run(seconds)


def copy_report(bench: Bench, report: Dataset, number: int, study: str) -> Dataset:
    """Copy a report as a PACS does that modifies or merges studies: the same content under other UIDs."""
    copy = deepcopy(report)
    copy.StudyInstanceUID, copy.SeriesInstanceUID = study, f"{study}.77.{number}"
    copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = f"{study}.78.{number}"
    bench.pacs.instances[copy.SOPInstanceUID] = copy
    return copy


@pytest.mark.parametrize("identity", ["P" * 65, "A\\B", " a\tb"])
@pytest.mark.filterwarnings("ignore:The value length", "ignore:Invalid value for VR")
def test_an_invalid_patient_id_is_repeated_as_it_is(make_bench: MakeBench, identity: str) -> None:
    """A PACS tells patients apart by it: with another one the draft would be in a second study of the same UID."""
    bench = make_bench(radiograph(PatientID=identity))
    work(bench)

    (report,) = bench.pacs.reports()
    (image,) = [one for one in bench.pacs.instances.values() if one is not report]
    assert report.PatientID == image.PatientID


def test_drafts_that_a_pacs_copied_under_other_uids_are_replaced(make_bench: MakeBench) -> None:
    """After two studies were merged into a third, its draft names both copies, with the series in which they are."""
    bench = make_bench(radiograph(1), radiograph(2, study=OTHER))
    work(bench)
    work(bench, OTHER)
    merged = f"{STUDY}.9"
    copies = [copy_report(bench, report, number, merged) for number, report in enumerate(bench.pacs.reports())]
    bench.pacs.add(radiograph(3, study=merged, PatientID="MERGED"))
    work(bench, merged)
    work(bench, merged)

    *_, report = bench.pacs.reports()
    assert (report.StudyInstanceUID, report.PatientID, report.InstanceNumber) == (merged, "MERGED", 3)
    assert predecessors(report) == [(merged, str(copy.SeriesInstanceUID), str(copy.SOPInstanceUID)) for copy in copies]
    assert len(bench.pacs.reports()) == 5


def test_a_second_draft_in_an_unchanged_study_is_a_change(make_bench: MakeBench) -> None:
    """The draft of another study is moved into one whose images and identity stay as they are."""
    bench = make_bench(radiograph(1), radiograph(2, study=OTHER))
    work(bench)
    work(bench, OTHER)
    copy_report(bench, bench.pacs.reports()[1], 1, STUDY)
    for _ in range(2):
        work(bench)

    assert len(predecessors(bench.pacs.reports()[-1])) == 2
    assert len(bench.pacs.reports()) == 4


def drop_frontal(bench: Bench) -> None:
    """Leave only the lateral."""
    del bench.pacs.instances[f"{STUDY}.1.1"]


def drop_all(bench: Bench) -> None:
    """Leave only the draft."""
    for number in (1, 2):
        del bench.pacs.instances[f"{STUDY}.1.{number}"]


def refuse(bench: Bench) -> None:
    """Correct the name, with an image that the server then refuses."""
    bench.server.answer = lambda _: refusal(422, "Refused", "burned_in: x")
    bench.pacs.add(radiograph(1, PatientName="New^Name"))


def correct_view(bench: Bench) -> None:
    """The image is a lateral, under the same UID."""
    bench.pacs.add(radiograph(1, ViewPosition="LL"))


def fail(bench: Bench) -> None:
    """A late image with which the server fails."""
    bench.server.answer = lambda _: refusal(500, "InternalError", "x")
    bench.pacs.add(radiograph(3))


WITHDRAWN: dict[Callable[[Bench], None], tuple[str, str]] = {
    drop_frontal: ("skipped", "no_frontal_image"),
    drop_all: ("skipped", "no_radiograph"),
    refuse: ("refused", "422_burned_in"),
    correct_view: ("skipped", "no_frontal_image"),
    fail: ("dead", "server_500"),
}


@pytest.mark.parametrize("change", WITHDRAWN, ids=lambda change: change.__name__)
def test_a_draft_is_withdrawn_when_the_new_state_has_none(
    make_bench: MakeBench, change: Callable[[Bench], None]
) -> None:
    """A document that says so replaces it, once; when the change is taken back, a draft replaces that."""
    bench = make_bench(
        radiograph(1), radiograph(2, ViewPosition="LL"), max_attempts=1, report={"tid1500": True, "pdf": True}
    )
    before = dict(bench.pacs.instances)
    work(bench)
    stored = len(bench.pacs.stored)
    change(bench)
    for _ in range(2):
        work(bench)

    first, second = (one for one in bench.pacs.reports() if one.SOPClassUID.name == "Basic Text SR Storage")
    assert bench.state() == WITHDRAWN[change]
    assert [uid for *_, uid in predecessors(second)] == [first.SOPInstanceUID]
    assert "No draft report is available" in second.to_json()
    assert len(bench.pacs.stored) == 2 * stored
    if change is refuse:
        assert second.PatientName == "New^Name"

    bench.server.answer = bench.server.report
    bench.pacs.instances.pop(f"{STUDY}.1.3", None)
    bench.pacs.instances.update(before)
    work(bench)
    assert bench.state() == ("reported", "")
    assert len(bench.pacs.stored) == 3 * stored


def test_a_draft_of_the_present_state_is_not_withdrawn(make_bench: MakeBench) -> None:
    """A retry on request that fails, and a study that has left the PACS, change nothing there."""
    bench = make_bench(radiograph(), max_attempts=1)
    work(bench)
    bench.server.answer = lambda _: refusal(500, "InternalError", "x")
    bench.queue.revive("reported")
    bench.run()
    assert bench.state() == ("dead", "server_500")
    assert len(bench.pacs.stored) == 1

    bench.pacs.instances.clear()
    work(bench)
    assert bench.state() == ("skipped", "study_is_gone")
    assert bench.pacs.instances == {}


def test_the_identity_is_that_of_the_file(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PACS converts text for its metadata, and garbles what its character sets do not cover."""
    bench = make_bench(radiograph())
    true_study = bench.pacs.study

    def garbled(uid: str) -> StudyState:
        study = true_study(uid)
        images = tuple(deepcopy(image) for image in study.images)
        for image in images:
            image.PatientName = "????"
        return StudyState(uid, images, study.own)

    monkeypatch.setattr(bench.pacs, "study", garbled)
    work(bench)

    assert [str(report.PatientName) for report in bench.pacs.reports()] == ["MUELLER^ANNA"]


def test_a_chest_comes_before_other_body_parts(make_bench: MakeBench) -> None:
    """An AP chest after four PA views of the skeleton: only four images are tried."""
    parts = ("HAND", "FOOT", "KNEE", "WRIST")
    others = [radiograph(number, BodyPartExamined=part) for number, part in enumerate(parts, start=2)]
    bench = make_bench(radiograph(1, ViewPosition="AP"), *others)
    work(bench)

    assert len(bench.server.received) == 1
    assert f"{STUDY}.1.1" in str(bench.pacs.reports()[0].CurrentRequestedProcedureEvidenceSequence)


def test_mistakes_in_the_options_do_not_count_against_a_study(make_bench: MakeBench) -> None:
    """An older server names an option that it does not know as an unknown field."""
    bench = make_bench(radiograph(), server_options={"options": {"banned_phrases": ["old"]}}, max_attempts=1)
    bench.server.answer = lambda _: refusal(400, "UnreadableInput", "unknown field banned_phrases; known: num_beams")
    work(bench)

    assert bench.state() == ("waiting", "server_options_refused")


def test_success_without_a_report_does_not_count_against_a_study(make_bench: MakeBench) -> None:
    """Another program at the server's address, or a login page: all studies that wait would be dead in a minute."""
    bench = make_bench(radiograph(), max_attempts=1)
    bench.server.answer = lambda _: (200, [])
    work(bench)

    assert bench.state() == ("waiting", "server_no_report")


@pytest.mark.parametrize("wrong", [{"status": "FINAL"}, {"avg_logprob": None}, {"model": {}}])
def test_an_answer_without_what_a_draft_needs_is_a_failure(make_bench: MakeBench, wrong: dict[str, Any]) -> None:
    """Above all, a report that does not say that it is unverified is not stored."""
    bench = make_bench(radiograph(), max_attempts=1)
    bench.server.answer = lambda image: (200, bench.server.report(image)[1] | wrong)
    work(bench)

    assert bench.state() == ("dead", "server_answer_unreadable")
    assert bench.pacs.stored == []


def stop_before(bench: Bench, classes: set[str], *, record: bool = True) -> None:
    """Work on the study, and stop where the first document of these SOP classes would be stored.

    record : else the PACS has taken what comes before, and the bridge was killed before it was recorded
    """
    store = bench.pacs.store

    def stop(document: Dataset) -> None:
        if document.SOPClassUID.name in classes:
            raise OUTAGE
        store(document)

    bench.pacs.store = stop  # type: ignore[method-assign]
    work(bench)
    bench.pacs.store = store  # type: ignore[method-assign]
    if not record:
        bench.queue._base.execute("DELETE FROM draft")


SR, MEASURED = "Basic Text SR Storage", "Comprehensive 3D SR Storage"
ALL_DOCUMENTS = {"tid1500": True, "pdf": True}


def named(bench: Bench, kind: str) -> list[list[int]]:
    """Return for each document of a kind which of them, by their numbers, it replaces."""
    found = [one for one in bench.pacs.instances.values() if one.SOPClassUID.name == kind]
    places = {str(one.SOPInstanceUID): number for number, one in enumerate(found)}
    return [[places[uid] for *_, uid in predecessors(one)] for one in found]


@pytest.mark.parametrize("seen", [True, False], ids=["the PACS shows it", "only the queue knows it"])
def test_only_documents_that_were_stored_are_named(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    """The first draft's measurement report is never stored, the third one replaces that of the second."""
    bench = make_bench(radiograph(), report=ALL_DOCUMENTS)
    if not seen:
        study = bench.pacs.study
        monkeypatch.setattr(bench.pacs, "study", lambda uid: StudyState(uid, study(uid).images, {}))
    stop_before(bench, {MEASURED}, record=not seen)
    for name in ("B^B", "C^C"):
        bench.pacs.add(radiograph(PatientName=name))
        work(bench)

    assert named(bench, SR) == [[], [0], [1]]
    assert named(bench, MEASURED) == [[], [0]]


def test_a_document_replaces_the_last_of_its_kind(make_bench: MakeBench) -> None:
    """The second draft has no measurement report, so that of the first is replaced by the third's."""
    bench = make_bench(radiograph(), report=ALL_DOCUMENTS)
    work(bench)
    bench.pacs.add(radiograph(PatientName="B^B"))
    stop_before(bench, {MEASURED}, record=False)
    bench.pacs.add(radiograph(PatientName="C^C"))
    work(bench)

    assert named(bench, SR) == [[], [0], [1]]
    assert named(bench, MEASURED) == [[], [0]]


def test_a_document_that_was_switched_on_later_replaces_none(make_bench: MakeBench) -> None:
    """The first draft of the study has none of its kind."""
    before = make_bench(radiograph())
    work(before)
    bench = make_bench(radiograph(PatientName="B^B"), report=ALL_DOCUMENTS)
    bench.pacs.instances |= {str(one.SOPInstanceUID): one for one in before.pacs.reports()}
    work(bench)

    assert named(bench, SR) == [[], [0]]
    assert named(bench, MEASURED) == [[]]
