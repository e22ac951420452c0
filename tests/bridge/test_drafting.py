"""One study, from an event to its outcome, in whatever order things go wrong."""

import json
from collections.abc import Callable, Sequence

import pytest
from pydicom.dataset import Dataset

from bridge.dicom.draft_chain import DraftChain
from tests.bridge.conftest import Bench
from tests.bridge.fake_server import refusal
from tests.bridge.studies import STUDY, radiograph

MakeBench = Callable[..., Bench]


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
    assert bench.state() == ("reported", "")


def test_the_server_logs_the_name_that_the_bridge_logs(
    make_bench: MakeBench, capsys: pytest.CaptureFixture[str]
) -> None:
    """The request has the study's name in the log as its id, which is not the study's UID."""
    bench = make_bench(radiograph())
    bench.queue.notify(STUDY, 0)
    bench.run()

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {line["program"] for line in lines} == {"bridge"}
    assert bench.server.ids == [line["study"] for line in lines if line["event"] == "finished"]


def test_a_draft_does_not_trigger_its_study_again(make_bench: MakeBench) -> None:
    """The event that the stored draft causes costs no request and no second draft."""
    bench = make_bench(radiograph())
    for _ in range(3):
        bench.queue.notify(STUDY, 0)
        bench.run()

    assert len(bench.server.received) == 1
    assert len(bench.pacs.reports()) == 1
    assert bench.state() == ("reported", "")


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


def test_a_change_that_is_taken_back_leaves_the_last_draft_current(make_bench: MakeBench) -> None:
    """Name A, name B, name A again: three drafts, and the head of the chain is of name A."""
    bench = make_bench(radiograph())
    for name in ("A^A", "B^B", "A^A"):
        bench.pacs.add(radiograph(PatientName=name))
        bench.queue.notify(STUDY, 0)
        bench.run()

    (head,) = DraftChain(bench.queue.drafts(STUDY), {}).heads
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


def test_a_study_that_is_deleted_during_the_work_stays_away(make_bench: MakeBench) -> None:
    """A draft would bring it back."""
    bench = make_bench(radiograph())
    write = bench.server.report

    def delete_meanwhile(image: bytes) -> tuple[int, object]:
        bench.pacs.instances.clear()
        return write(image)

    bench.server.answer = delete_meanwhile
    bench.queue.notify(STUDY, 0)
    bench.run()
    bench.run(seconds=3)

    assert bench.pacs.instances == {}
    assert bench.state() == ("skipped", "study_is_gone")


SKIPPED = {
    "only a lateral": ({"ViewPosition": "LL"}, "no_frontal_image"),
    "a lateral by its code": (
        {"ViewPosition": "", "BodyPartExamined": "CHEST LAT"},
        "no_frontal_image",
    ),
    "raw detector data": ({"PresentationIntentType": "FOR PROCESSING"}, "for_processing"),
    "a CT": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT"}, "no_radiograph"),
}


@pytest.mark.parametrize("case", SKIPPED)
def test_a_study_without_a_frontal_radiograph_is_skipped(make_bench: MakeBench, case: str) -> None:
    """The outcome has a reason, and nothing is sent."""
    header, reason = SKIPPED[case]
    bench = make_bench(radiograph(**header))
    bench.queue.notify(STUDY, 0)
    bench.run()

    assert bench.state() == ("skipped", reason)
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
    assert bench.state() == ("reported", "")
