"""Failures on the way from an event to an outcome: refusals, outages, crashes, and the off switch."""

from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage

from bridge.store.queue import DueStudy
from tests.bridge.conftest import Bench
from tests.bridge.fake_server import refusal
from tests.bridge.studies import FAILURE, OUTAGE, STUDY, radiograph

MakeBench = Callable[..., Bench]


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
    assert bench.state() == ("reported", "")
    assert len(bench.queue.drafts(STUDY)) == 1


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

    assert bench.state() == ("reported", "")
    assert len(bench.server.received) == 2


REFUSALS = {
    "422_body_part": refusal(422, "Refused", "body_part: (0018,0015) Body Part Examined says 'HAND'"),
    "422_unlike_training": refusal(422, "UnlikeTraining", "unlike_training: the image is unlike the training images"),
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

    assert bench.state() == ("refused", reason)
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

    assert bench.state() == ("reported", "")


def test_an_outage_of_days_ends_in_dead(make_bench: MakeBench) -> None:
    """A study is put aside after give_up_hours, and `retry` brings it back."""
    bench = make_bench(radiograph(), give_up_hours=1.0)
    bench.pacs.fail = [OUTAGE] * 100
    bench.queue.notify(STUDY, 0)
    for _ in range(30):
        bench.run(seconds=301)
    assert bench.state() == ("dead", "pacs_ConnectionError")

    bench.pacs.fail = []
    assert bench.queue.revive() == 1
    bench.run()
    assert bench.state() == ("reported", "")


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
    assert bench.state() == ("dead", "pacs_409")
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

    assert bench.state() == ("reported", "")
    assert "ValueError" in output
    assert "MUELLER" not in output


def test_an_event_during_the_work_keeps_the_study_waiting(make_bench: MakeBench) -> None:
    """`finish` with an outdated count of events does not end the wait."""
    bench = make_bench(radiograph())
    bench.queue.notify(STUDY, 0)
    job = bench.queue.take()
    assert isinstance(job, DueStudy)
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

    assert bench.state() == ("reported", "")
