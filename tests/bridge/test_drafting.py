"""One study, from an event to its outcome, in whatever order things go wrong."""

from collections.abc import Callable, Sequence

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage

from bridge.queue import Job
from bridge.study import head_of
from tests.bridge.conftest import Bench
from tests.bridge.fake_server import refusal
from tests.bridge.studies import FAILURE, OUTAGE, STUDY, radiograph

MakeBench = Callable[..., Bench]


def state(bench: Bench) -> tuple[str, str]:
    """Return state and reason of the only study."""
    (entry,) = bench.queue.list()
    return entry.state, entry.reason


def referenced(references: Sequence[Dataset]) -> str:
    """Return the only SOP Instance UID in a sequence of references."""
    (study,) = references
    (series,) = study.ReferencedSeriesSequence
    (instance,) = series.ReferencedSOPSequence
    return str(instance.ReferencedSOPInstanceUID)


def replaced(bench: Bench) -> list[str | None]:
    """Return for each draft in the PACS the UID that it names as its predecessor."""
    return [
        referenced(report.PredecessorDocumentsSequence) if "PredecessorDocumentsSequence" in report else None
        for report in bench.pacs.reports()
    ]


def test_a_study_gets_one_draft_that_refers_to_its_image(make_bench: MakeBench) -> None:
    """The draft is unverified, preliminary and of the study; it names the image and the weights."""
    bench = make_bench(radiograph())
    bench.queue.notify(STUDY, 0)
    bench.run()

    (report,) = bench.pacs.reports()
    assert (report.VerificationFlag, report.PreliminaryFlag, report.CompletionFlag) == (
        *("UNVERIFIED", "PRELIMINARY", "COMPLETE"),
    )
    assert (report.StudyInstanceUID, str(report.PatientName)) == (STUDY, "MUELLER^ANNA")
    assert referenced(report.CurrentRequestedProcedureEvidenceSequence) == f"{STUDY}.1.1"
    text = str(report)
    assert bench.server.weights in text
    assert "UNVERIFIED DRAFT" in report.to_json()
    assert state(bench) == ("reported", "")


def test_a_draft_does_not_trigger_its_study_again(make_bench: MakeBench) -> None:
    """The event that the stored draft causes costs no request and no second draft."""
    bench = make_bench(radiograph())
    for _ in range(3):
        bench.queue.notify(STUDY, 0)
        bench.run()

    assert len(bench.server.received) == 1
    assert len(bench.pacs.reports()) == 1
    assert state(bench) == ("reported", "")


@pytest.mark.parametrize("lost_queue", [False, True])
def test_a_retry_after_a_crash_stores_nothing_new(make_bench: MakeBench, lost_queue: bool) -> None:
    """A process that is killed between the draft's arrival in the PACS and its record does not store a second one."""
    bench = make_bench(radiograph())
    bench.queue.notify(STUDY, 0)
    bench.run()
    if lost_queue:
        bench.queue.revive("reported")
        bench.queue._base.execute("DELETE FROM draft")
    else:
        bench.queue.revive("reported")
    bench.run()

    assert len(bench.server.received) == 2
    assert len(set(bench.pacs.stored)) == len(bench.pacs.reports()) == 1
    assert bench.queue.drafts(STUDY) == {str(bench.pacs.reports()[0].SOPInstanceUID): ""}


CHANGES = {
    "a late image": {"number": 2},
    "a corrected birth date": {"PatientBirthDate": "19490101"},
    "a merged patient": {"PatientID": "OTHER-1"},
    "a corrected name": {"PatientName": "Mueller-Lund^Anna"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_study_gets_a_draft_that_replaces_the_first(make_bench: MakeBench, change: str) -> None:
    """The new draft names the old one, so that the old one cannot pass for the current one."""
    bench = make_bench(radiograph())
    bench.queue.notify(STUDY, 0)
    bench.run()
    bench.pacs.add(radiograph(**CHANGES[change]))
    bench.queue.notify(STUDY, 0)
    bench.run()

    first, second = bench.pacs.reports()
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert replaced(bench) == [None, first.SOPInstanceUID]
    assert second.InstanceNumber == 2


def test_a_correction_of_one_image_of_a_study_is_a_change(make_bench: MakeBench) -> None:
    """A PACS corrects images one after the other; the draft may be on any of them."""
    bench = make_bench(radiograph(1, ViewPosition="LL"), radiograph(2))
    bench.queue.notify(STUDY, 0)
    bench.run()
    bench.pacs.add(radiograph(2, PatientName="Corrected^Name"))
    bench.queue.notify(STUDY, 0)
    bench.run()

    assert [str(report.PatientName) for report in bench.pacs.reports()] == ["MUELLER^ANNA", "Corrected^Name"]


def test_other_documents_are_stored_once_and_before_the_outcome(make_bench: MakeBench) -> None:
    """With PDF and measurement report, a failure after the first document is retried without storing it again."""
    bench = make_bench(radiograph(), report={"pdf": True, "tid1500": True})
    store = bench.pacs.store

    def fail_second(document: Dataset) -> None:
        if document.SOPClassUID != BasicTextSRStorage:
            bench.pacs.store = store  # type: ignore[method-assign]
            raise OUTAGE
        store(document)

    bench.pacs.store = fail_second  # type: ignore[method-assign]
    bench.queue.notify(STUDY, 0)
    bench.run()
    assert len(bench.pacs.stored) == 1
    bench.run(seconds=10)
    bench.queue.revive("reported")
    bench.run()

    assert len(bench.pacs.stored) == len(set(bench.pacs.stored)) == 3
    assert state(bench) == ("reported", "")
    assert len(bench.queue.drafts(STUDY)) == 1


def test_a_change_that_is_taken_back_leaves_the_last_draft_current(make_bench: MakeBench) -> None:
    """Name A, name B, name A again: three drafts, and the head of the chain is of name A."""
    bench = make_bench(radiograph())
    for name in ("A^A", "B^B", "A^A"):
        bench.pacs.add(radiograph(PatientName=name))
        bench.queue.notify(STUDY, 0)
        bench.run()

    head = head_of(bench.queue.drafts(STUDY))
    assert len(bench.pacs.reports()) == 3
    assert str(bench.pacs.instances[head].PatientName) == "A^A"
    assert head == bench.pacs.reports()[-1].SOPInstanceUID


def test_other_weights_or_options_replace_a_draft_only_on_request(make_bench: MakeBench) -> None:
    """A new model does not rewrite the archive by itself; `retry` of a reported study does."""
    bench = make_bench(radiograph())
    bench.queue.notify(STUDY, 0)
    bench.run()
    bench.server.weights = "b" * 64
    bench.queue.notify(STUDY, 0)
    bench.run()
    assert len(bench.pacs.reports()) == 1

    bench.queue.revive("reported")
    bench.run()
    assert replaced(bench) == [None, bench.pacs.reports()[0].SOPInstanceUID]


def test_a_study_that_changes_during_the_work_is_done_again(make_bench: MakeBench) -> None:
    """The report on the first state is thrown away before it is stored."""
    bench = make_bench(radiograph(), stable_s=2.0)
    write = bench.server.report

    def change_meanwhile(image: bytes) -> tuple[int, object]:
        if len(bench.server.received) == 1:
            bench.pacs.add(radiograph(PatientName="Corrected^Name"))
        return write(image)

    bench.server.answer = change_meanwhile
    bench.queue.notify(STUDY, 0)
    bench.run()
    assert bench.pacs.reports() == []
    bench.run(seconds=3)

    (report,) = bench.pacs.reports()
    assert str(report.PatientName) == "Corrected^Name"


SKIPPED = {
    "only a lateral": ({"ViewPosition": "LL"}, "no_frontal_image"),
    "a lateral by its code": (
        {"ViewPosition": "", "BodyPartExamined": "CHEST LAT"},
        "no_frontal_image",
    ),
    "raw detector data": ({"PresentationIntentType": "FOR PROCESSING"}, "no_frontal_image"),
    "a CT": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT"}, "no_radiograph"),
}


@pytest.mark.parametrize("case", SKIPPED)
def test_a_study_without_a_frontal_radiograph_is_skipped(make_bench: MakeBench, case: str) -> None:
    """The outcome has a reason, and nothing is sent."""
    header, reason = SKIPPED[case]
    bench = make_bench(radiograph(**header))
    bench.queue.notify(STUDY, 0)
    bench.run()

    assert state(bench) == ("skipped", reason)
    assert bench.server.received == []


def test_the_frontal_image_is_picked(make_bench: MakeBench) -> None:
    """Of a lateral, an AP and a PA image, the PA is read."""
    bench = make_bench(
        radiograph(1, ViewPosition="LL"), radiograph(2, ViewPosition="AP"), radiograph(3, ViewPosition="PA")
    )
    bench.queue.notify(STUDY, 0)
    bench.run()

    (report,) = bench.pacs.reports()
    assert referenced(report.CurrentRequestedProcedureEvidenceSequence) == f"{STUDY}.1.3"


def test_an_image_that_is_refused_leaves_the_turn_to_the_next(make_bench: MakeBench) -> None:
    """Only the server knows whether a picture without a view is a chest."""
    bench = make_bench(radiograph(1, ViewPosition=""), radiograph(2, ViewPosition=""))
    write = bench.server.report

    def refuse_first(image: bytes) -> tuple[int, object]:
        if len(bench.server.received) == 1:
            return refusal(422, "Refused", "body_part: (0018,0015) says 'HAND'; send a chest")
        return write(image)

    bench.server.answer = refuse_first
    bench.queue.notify(STUDY, 0)
    bench.run()

    assert state(bench) == ("reported", "")
    assert len(bench.server.received) == 2


REFUSALS = {
    "422_body_part": refusal(422, "Refused", "body_part: (0018,0015) Body Part Examined says 'HAND'"),
    "422_unlike_training": refusal(422, "Refused", "unlike_training: the image is unlike the training images"),
    "400_UnreadableInput": refusal(400, "UnreadableInput", "the file is damaged"),
    "413_TooLarge": refusal(413, "TooLarge", "too many pixels"),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_a_refusal_is_an_outcome(make_bench: MakeBench, reason: str) -> None:
    """A refused study is not retried, and is listed with the name of the refusal."""
    bench = make_bench(radiograph())
    bench.server.answer = lambda _: REFUSALS[reason]
    bench.queue.notify(STUDY, 0)
    bench.run()
    bench.run(seconds=100_000)

    assert state(bench) == ("refused", reason)
    assert len(bench.server.received) == 1


@pytest.mark.parametrize("code", [401, 404, 429, 503, 504])
def test_an_outage_is_waited_for_with_growing_pauses(make_bench: MakeBench, code: int) -> None:
    """The study is retried after 2, 4, 8, ... seconds, and reported as soon as the server is back."""
    bench = make_bench(radiograph(), first_retry_s=2.0, longest_retry_s=10.0, max_attempts=2)
    bench.server.answer = lambda _: refusal(code, "Overloaded", "busy")
    bench.queue.notify(STUDY, 0)
    bench.run()
    for pause in (2, 4, 8, 10, 10):
        requests = len(bench.server.received)
        bench.run(seconds=pause - 0.1)
        assert len(bench.server.received) == requests
        bench.run(seconds=0.2)
        assert len(bench.server.received) == requests + 1
    bench.server.answer = bench.server.report
    bench.run(seconds=11)

    assert state(bench) == ("reported", "")


def test_an_outage_of_days_ends_in_dead(make_bench: MakeBench) -> None:
    """A study is put aside after give_up_hours, and `retry` brings it back."""
    bench = make_bench(radiograph(), give_up_hours=1.0)
    bench.pacs.fail = [OUTAGE] * 100
    bench.queue.notify(STUDY, 0)
    for _ in range(30):
        bench.run(seconds=301)
    assert state(bench) == ("dead", "pacs_ConnectionError")

    bench.pacs.fail = []
    assert bench.queue.revive() == 1
    bench.run()
    assert state(bench) == ("reported", "")


def test_failures_of_one_study_end_in_dead_and_leave_the_others_alone(make_bench: MakeBench) -> None:
    """After max_attempts the study is dead; another study is reported as usual."""
    other = f"{STUDY}.9"
    bench = make_bench(radiograph(), radiograph(study=other), max_attempts=3)
    bench.server.answer = lambda _: refusal(500, "InternalError", "the server failed")
    bench.queue.notify(STUDY, 0)
    bench.run()
    bench.server.answer = bench.server.report
    bench.pacs.fail = [FAILURE, FAILURE]
    for _ in range(2):
        bench.run(seconds=60)
    assert state(bench) == ("dead", "pacs_409")
    bench.queue.notify(other, 0)
    bench.run(seconds=60)

    assert bench.queue.counts() == {"waiting": 0, "reported": 1, "skipped": 0, "refused": 0, "dead": 1}


def test_an_unexpected_exception_is_a_failure_of_one_study(
    make_bench: MakeBench, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log has the type and the place of the exception, not its text; the study is retried."""
    bench = make_bench(radiograph())
    bench.pacs.fail = [ValueError("MUELLER^ANNA")]
    bench.queue.notify(STUDY, 0)
    bench.run()
    output = capsys.readouterr().err
    bench.run(seconds=10)

    assert state(bench) == ("reported", "")
    assert "ValueError" in output
    assert "MUELLER" not in output


def test_an_event_during_the_work_keeps_the_study_waiting(make_bench: MakeBench) -> None:
    """`finish` with an outdated count of events does not end the wait."""
    bench = make_bench(radiograph())
    bench.queue.notify(STUDY, 0)
    job = bench.queue.take()
    assert isinstance(job, Job)
    bench.queue.notify(STUDY, 0)
    bench.queue.finish(job, "reported", "", "x")
    bench.queue.release(job)

    assert bench.queue.counts()["waiting"] == 1


def test_the_switch_stops_work_and_not_events(make_bench: MakeBench) -> None:
    """Paused, a study waits; resumed, it is reported."""
    bench = make_bench(radiograph())
    bench.queue.paused = True
    bench.queue.notify(STUDY, 0)
    bench.run()
    assert bench.server.received == []
    bench.queue.paused = False
    bench.run()

    assert state(bench) == ("reported", "")


def test_several_images_are_read_together_and_singly_if_the_model_reads_one(make_bench: MakeBench) -> None:
    """With server.images 2 both frontal images go into one request; a refusal falls back to one image."""
    bench = make_bench(radiograph(1), radiograph(2), server_options={"images": 2, "options": {"num_beams": 2}})
    bench.server.answer = lambda body: (
        refusal(400, "UnreadableInput", "images has 2 entries; this model reads 1")
        if b'"images"' in body[:20]
        else bench.server.report(body)
    )
    bench.queue.notify(STUDY, 0)
    bench.run()

    assert b'"images"' in bench.server.received[0]
    assert b'"num_beams": 2' in bench.server.received[0]
    assert b'name="num_beams"' in bench.server.received[1]
    assert state(bench) == ("reported", "")
