"""A lateral and a prior image go to a model that reads them, a prior of somebody else never does."""

import json
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from bridge.configuration.section import ConfigError
from bridge.configuration.server import ServerSettings
from bridge.configuration.settings import Settings
from bridge.dicom.patient import contradict, is_same_patient
from bridge.dicom.subject import is_as_certain, is_lateral
from bridge.prior import MOST_STUDIES, describe_interval, find_prior
from tests.bridge.conftest import Bench
from tests.bridge.fake_server import files_of, refusal
from tests.bridge.studies import FAILURE, OUTAGE, STUDY, MemoryPacs, radiograph

MakeBench = Callable[..., Bench]

EARLIER = f"{STUDY}.8"
PRIOR = f"{EARLIER}.1.5"
NOW = {"StudyDate": "20260620", "StudyTime": "101500"}
BEFORE = {"StudyDate": "20260608", "StudyTime": "090000"}
EVERYTHING = {"context": ["comparison", "lateral", "prior"]}


def prior(number: int = 5, study: str = EARLIER, **header: Any) -> bytes:
    """Return an image of an earlier study of the patient."""
    return radiograph(number, study, **(BEFORE | header))


def draft(bench: Bench) -> Dataset:
    """Write the draft of the study of today; the document."""
    bench.queue.notify(STUDY, 0)
    bench.run()
    assert bench.state() == ("reported", "")
    return bench.pacs.reports()[-1]


def text_of(document: Dataset) -> str:
    """Return all that a document says."""
    return document.to_json()


def pixels(file: bytes) -> bytes:
    """Return the picture of a file."""
    return bytes(dcmread(BytesIO(file)).PixelData)


def test_lateral_and_prior_are_read_with_the_frontal_image(
    make_bench: MakeBench, capsys: pytest.CaptureFixture[str]
) -> None:
    """With their roles, and how much earlier the prior was; the draft names it, and nothing else of it leaves."""
    lateral = radiograph(2, **(NOW | {"ViewPosition": "LL"}))
    bench = make_bench(radiograph(1, **NOW), lateral, prior(), server_options=EVERYTHING)
    report = draft(bench)

    (body,) = bench.server.received
    asked = json.loads(body)
    assert asked["roles"] == ["frontal", "prior", "lateral"]
    assert asked["comparison"] == "Chest radiograph 12 days earlier"
    assert list(map(pixels, files_of(body))) == [pixels(radiograph(1)), pixels(prior()), pixels(lateral)]
    sent = b"".join(files_of(body))
    assert not any(value.encode() in sent for value in (EARLIER, BEFORE["StudyDate"], "MUELLER", "4711-0815"))
    (other,) = report.PertinentOtherEvidenceSequence
    assert other.StudyInstanceUID == EARLIER
    assert other.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == PRIOR
    assert "Chest radiograph of 2026-06-08, read by the software" in text_of(report)
    assert "no_prior" not in text_of(report)
    stored = [line for line in map(json.loads, capsys.readouterr().err.splitlines()) if line["event"] == "draft_stored"]
    assert [(line["prior"], line["images"]) for line in stored] == [("found", 3)]


@pytest.mark.parametrize("context", [[], ["age"], ["lateral"]])
def test_the_pacs_is_not_asked_unless_the_site_wants_it(make_bench: MakeBench, context: list[str]) -> None:
    """By default the request is the frontal image alone, and the draft says nothing of priors."""
    bench = make_bench(radiograph(1, **NOW), prior(), server_options={"context": context})
    report = draft(bench)

    assert bench.pacs.searched == []
    assert b"roles" not in bench.server.received[0]
    assert "no_prior" not in text_of(report)


def test_a_model_that_takes_only_words_is_told_of_the_prior(make_bench: MakeBench) -> None:
    """Its image stays here, and the draft does not name it: the model has not seen it."""
    bench = make_bench(radiograph(1, **NOW), prior(), server_options={"context": ["comparison"]})
    report = draft(bench)

    assert b"Chest radiograph 12 days earlier" in bench.server.received[0]
    assert bench.server.received[0].count(b"DICM") == 1
    assert "2026-06-08" not in text_of(report)


NO_PRIORS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another birth date": ({}, {"PatientBirthDate": "19500610"}, "patient_uncertain"),
    "no birth date there": ({}, {"PatientBirthDate": ""}, "patient_uncertain"),
    "no birth date here": ({"PatientBirthDate": ""}, {}, "patient_uncertain"),
    "another name": ({}, {"PatientName": "MUELLER^BERTA"}, "patient_uncertain"),
    "another sex": ({}, {"PatientSex": "M"}, "patient_uncertain"),
    "another issuer": ({"IssuerOfPatientID": "H1"}, {"IssuerOfPatientID": "H2"}, "patient_uncertain"),
    "another ID": ({}, {"PatientID": "4711-0816"}, "none"),
    "the ID in other letters": ({"PatientID": "a1"}, {"PatientID": "A1"}, "none"),
    "an ID of wildcards": ({"PatientID": "*"}, {"PatientID": "*"}, "patient_uncertain"),
    "no ID": ({"PatientID": ""}, {"PatientID": ""}, "patient_uncertain"),
    "a later study": ({}, {"StudyDate": "20260621"}, "none"),
    "later on the day": ({}, {"StudyDate": "20260620", "StudyTime": "1016"}, "none"),
    "at the same time": ({}, {"StudyDate": "20260620", "StudyTime": "101500.0"}, "none"),
    "the same day without a time": ({}, {"StudyDate": "20260620", "StudyTime": ""}, "none"),
    "no date there": ({}, {"StudyDate": ""}, "none"),
    "no date here": ({"StudyDate": ""}, {}, "study_undated"),
    "an invalid date": ({"StudyDate": "20260631"}, {}, "study_undated"),
    "a knee": ({}, {"BodyPartExamined": "KNEE"}, "none"),
    "a lateral": ({}, {"ViewPosition": "LL"}, "none"),
    "no body part": ({}, {"BodyPartExamined": ""}, "none"),
    "no view": ({}, {"ViewPosition": ""}, "none"),
    "a CT": ({}, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT"}, "none"),
}


@pytest.mark.parametrize("case", NO_PRIORS)
def test_what_is_not_certainly_the_patients_earlier_chest_is_left_out(
    make_bench: MakeBench, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The draft is written without, and it and the log say why."""
    here, there, outcome = NO_PRIORS[case]
    bench = make_bench(radiograph(1, **(NOW | here)), prior(**there), server_options=EVERYTHING)
    report = draft(bench)

    (body,) = bench.server.received
    assert body.count(b"DICM") == 1
    assert b"comparison" not in body
    assert "no_prior: read without an earlier examination" in text_of(report)
    assert "PertinentOtherEvidenceSequence" not in report
    assert f'"prior": "{outcome}"' in capsys.readouterr().err


SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"PatientName": "Müller^Anna", "SpecificCharacterSet": "ISO_IR 100"}, {"PatientName": "MUELLER^ANNA^^^"}),
    ({"PatientName": "MUELLER^ANNA"}, {"PatientName": "mueller^anna^maria^dr."}),
    ({"PatientName": ""}, {}),
    ({"IssuerOfPatientID": "H1"}, {}),
    ({"PatientSex": ""}, {}),
    ({"PatientID": "4711-0815 "}, {}),
    ({"BodyPartExamined": "", "ViewPosition": ""}, {"BodyPartExamined": "", "ViewPosition": ""}),
    ({"ViewPosition": "PA"}, {"ViewPosition": "AP"}),
    ({}, {"StudyDate": "20260620", "StudyTime": "1014"}),
]


@pytest.mark.parametrize(("here", "there"), SAME)
def test_other_ways_of_writing_do_not_hide_a_prior(here: dict[str, Any], there: dict[str, Any]) -> None:
    """Accents, capitals, middle names, what one of the two leaves out; and a minute earlier on the same day."""
    image = dcmread(BytesIO(radiograph(1, **(NOW | here))))
    found = find_prior(MemoryPacs(prior(**there)), image)
    assert found.image is not None
    assert found.image.SOPInstanceUID == PRIOR


def test_the_latest_chest_is_the_prior() -> None:
    """Behind a hand and somebody else's chest; one that cannot be read is passed over."""
    files = [
        prior(1, f"{STUDY}.11", StudyDate="20250101"),
        prior(2, f"{STUDY}.12", StudyDate="20260101"),
        prior(3, f"{STUDY}.13", StudyDate="20260301", BodyPartExamined="HAND"),
        prior(4, f"{STUDY}.14", StudyDate="20260401", PatientBirthDate="19010101"),
        prior(5, f"{STUDY}.15", StudyDate="20260501"),
    ]
    pacs = MemoryPacs(*files)
    fetch = pacs.image

    def fail_once(header: Dataset) -> Dataset:
        if header.StudyInstanceUID == f"{STUDY}.15":
            raise FAILURE
        return fetch(header)

    pacs.image = fail_once  # type: ignore[method-assign]
    found = find_prior(pacs, dcmread(BytesIO(radiograph(1, **NOW))))
    assert found.image is not None
    assert found.image.StudyInstanceUID == f"{STUDY}.12"


def test_the_search_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PACS that answers with all its studies for ever, and a patient with hundreds of other radiographs."""
    pacs = MemoryPacs(*(prior(n, f"{STUDY}.{n}", BodyPartExamined="HAND") for n in range(20, 20 + 2 * MOST_STUDIES)))
    looked = []
    study = pacs.study

    def endless(*_: object) -> Iterator[Dataset]:
        while True:
            yield from pacs.instances.values()

    monkeypatch.setattr(pacs, "studies_of", endless)
    monkeypatch.setattr(pacs, "study", lambda uid: looked.append(uid) or study(uid))
    assert find_prior(pacs, dcmread(BytesIO(radiograph(1, **NOW)))).image is None
    assert len(looked) == MOST_STUDIES


@pytest.mark.parametrize(
    "failure",
    [(OUTAGE, "pacs_ConnectionError"), (FAILURE, "pacs_409"), (ValueError("MUELLER"), "ValueError")],
)
@pytest.mark.parametrize("where", ["studies_of", "study", "image"])
def test_a_pacs_that_does_not_give_the_prior_never_costs_the_draft(
    make_bench: MakeBench,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
    failure: tuple[Exception, str],
) -> None:
    """Whatever goes wrong in the search, or with the earlier study; the log has a word and no value."""
    error, outcome = failure
    bench = make_bench(radiograph(1, **NOW), prior(), server_options=EVERYTHING)
    usual = getattr(bench.pacs, where)

    def fail(what: Any, *rest: Any) -> Any:
        if where == "studies_of" or EARLIER in (what, getattr(what, "StudyInstanceUID", "")):
            raise error
        return usual(what, *rest)

    monkeypatch.setattr(bench.pacs, where, fail)
    report = draft(bench)

    assert "could not be asked for it, or did not give it" in text_of(report)
    output = capsys.readouterr().err
    assert f'"prior": "{outcome}"' in output
    assert "MUELLER" not in output


@pytest.mark.parametrize("role", ["prior", "lateral"])
def test_a_damaged_file_of_a_further_image_does_not_cost_the_draft(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], role: str
) -> None:
    """The other one is read; of the frontal image it would be a failure of the study."""
    lateral = radiograph(2, **(NOW | {"ViewPosition": "LL"}))
    bench = make_bench(radiograph(1, **NOW), lateral, prior(), server_options=EVERYTHING)
    damaged = {"prior": PRIOR, "lateral": f"{STUDY}.1.2"}[role]
    usual = bench.pacs.image

    def image(header: Dataset) -> Dataset:
        found = usual(header)
        if header.SOPInstanceUID == damaged:
            del found.file_meta.TransferSyntaxUID
        return found

    monkeypatch.setattr(bench.pacs, "image", image)
    report = draft(bench)

    assert json.loads(bench.server.received[0])["roles"] == ["frontal", *({"prior", "lateral"} - {role})]
    assert ("its file is damaged" in text_of(report)) == (role == "prior")
    assert f'"prior": "{"unusable" if role == "prior" else "found"}"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("refused", "read", "outcome"),
    [
        ((), ["frontal", "prior", "lateral"], "found"),
        (("lateral",), ["frontal", "prior"], "found"),
        (("prior",), ["frontal", "lateral"], "refused"),
        (("prior", "lateral"), ["frontal"], "refused"),
    ],
)
def test_a_further_image_that_the_server_refuses_costs_only_itself(
    make_bench: MakeBench,
    capsys: pytest.CaptureFixture[str],
    refused: tuple[str, ...],
    read: list[str],
    outcome: str,
) -> None:
    """The others are read, with words of a prior only if it is among them."""
    lateral = radiograph(2, **(NOW | {"ViewPosition": "LL"}))
    bench = make_bench(radiograph(1, **NOW), lateral, prior(), server_options=EVERYTHING)
    last: list[dict[str, Any]] = []

    def answer(body: bytes) -> tuple[int, Any]:
        asked = json.loads(body) if body.startswith(b"{") else {"roles": ["frontal"]}
        last[:] = [asked]
        if set(refused) & set(asked["roles"]):
            return refusal(422, "UnlikeTraining", "an image is unlike those of the training")
        return bench.server.report(body)

    bench.server.answer = answer
    report = draft(bench)

    assert last[0]["roles"] == read
    assert ("comparison" in last[0]) == ("prior" in read)
    assert ("no_prior" in text_of(report)) == ("prior" not in read)
    assert f'"prior": "{outcome}"' in capsys.readouterr().err


def test_a_frontal_image_that_is_refused_is_the_reason(make_bench: MakeBench) -> None:
    """Not one of those that were sent with it; the next frontal image gets the further images too."""
    files = [radiograph(1, **NOW), radiograph(3, **(NOW | {"ViewPosition": "AP"})), prior()]
    bench = make_bench(*files, server_options=EVERYTHING)

    def answer(body: bytes) -> tuple[int, Any]:
        several = body.startswith(b"{")
        first = files_of(body)[0] if several else body[body.index(b"DICM") - 128 :]
        if dcmread(BytesIO(first)).ViewPosition == "PA":
            return refusal(422, "Refused", "with_others: no" if several else "alone: no")
        return bench.server.report(body)

    bench.server.answer = answer
    draft(bench)
    assert json.loads(bench.server.received[-1])["roles"] == ["frontal", "prior"]

    bench.server.answer = lambda body: refusal(
        422, "Refused", "with_others: no" if body.startswith(b"{") else "alone: no"
    )
    bench.pacs.add(radiograph(1, **(NOW | {"StudyID": "8"})))
    bench.queue.notify(STUDY, 0)
    bench.run()
    assert bench.state() == ("refused", "422_alone")


@pytest.mark.parametrize("failure", [None, OUTAGE, FAILURE])
def test_images_that_are_refused_cost_no_further_search(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, failure: Exception | None
) -> None:
    """The PACS is asked for priors, for the prior and for the lateral once, however many frontal images are tried."""
    frontals = [radiograph(number, **NOW) for number in (1, 3, 4)]
    lateral = radiograph(2, **(NOW | {"ViewPosition": "LL"}))
    bench = make_bench(*frontals, lateral, prior(), server_options=EVERYTHING)
    bench.server.answer = lambda _: refusal(422, "Refused", "body_part: no")
    asked: list[str] = []

    def count(name: str, usual: Callable[..., Any]) -> Callable[..., Any]:
        def ask(what: Any, *rest: Any) -> Any:
            uid = what if name == "study" else str(getattr(what, "SOPInstanceUID", what))
            asked.append(uid)
            if failure is not None and uid in ("4711-0815", PRIOR):
                raise failure
            return usual(what, *rest)

        return ask

    for name in ("studies_of", "study", "image"):
        monkeypatch.setattr(bench.pacs, name, count(name, getattr(bench.pacs, name)))
    bench.queue.notify(STUDY, 0)
    bench.run()

    assert bench.state() == ("refused", "422_body_part")
    assert asked.count("4711-0815") == asked.count(f"{STUDY}.1.2") == 1
    assert asked.count(EARLIER) == asked.count(PRIOR) == (failure is None)


@pytest.mark.parametrize("options", [{"context": ["lateral"]}, {"images": 2}])
def test_images_of_two_patients_in_one_study_are_not_read_together(
    make_bench: MakeBench, options: dict[str, Any]
) -> None:
    """A modality that kept the study of the patient before: the draft is on the image of one of them."""
    view = "LL" if "context" in options else "PA"
    other = radiograph(2, **(NOW | {"ViewPosition": view, "PatientID": "X1", "AcquisitionDate": "20000101"}))
    bench = make_bench(radiograph(1, **NOW), other, server_options=options)
    draft(bench)

    (body,) = bench.server.received
    assert body.count(b"DICM") == 1


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"ViewPosition": "LL"}, True),
        ({"ViewPosition": "LAT", "BodyPartExamined": ""}, True),
        ({"ViewPosition": "", "BodyPartExamined": "CHEST LAT"}, True),
        ({"ViewPosition": "LL", "BodyPartExamined": "KNEE"}, False),
        ({"ViewPosition": "LLD"}, False),
        ({"ViewPosition": "LAT OBL"}, False),
        ({"ViewPosition": "PA LAT"}, False),
        ({"ViewPosition": ""}, False),
        ({"ViewPosition": "LL", "PresentationIntentType": "FOR PROCESSING"}, False),
    ],
)
def test_laterals(header: dict[str, Any], expected: bool) -> None:
    """By the tags that say that an image is not frontal; decubitus, oblique and unnamed views are not laterals."""
    assert is_lateral(dcmread(BytesIO(radiograph(**header)))) == expected


def test_an_image_of_another_body_part_has_no_prior() -> None:
    """It is tried, because a label can be wrong; but nothing is known to be comparable with it."""
    knee = dcmread(BytesIO(radiograph(BodyPartExamined="KNEE")))
    assert not is_as_certain(knee, knee)


def test_headers_without_anything_contradict_nobody_and_are_nobodys() -> None:
    """What is absent contradicts nothing and proves nothing."""
    whole = dcmread(BytesIO(radiograph()))
    assert not contradict(Dataset(), whole)
    assert not is_same_patient(Dataset(), Dataset())


@pytest.mark.parametrize(
    ("date", "words"),
    [("20260620", "earlier on the same day"), ("20260619", "1 day earlier"), ("20250620", "365 days earlier")],
)
def test_intervals(date: str, words: str) -> None:
    """In days, as no date leaves the bridge."""
    image, before = (dcmread(BytesIO(radiograph(StudyDate=day))) for day in ("20260620", date))
    assert describe_interval(image, before) == f"Chest radiograph {words}"


def test_settings_that_cannot_work_are_named(tmp_path: Any) -> None:
    """Several frontal images with roles, and a search without a PACS that answers one."""
    with pytest.raises(ConfigError, match=r"server\.images is 2 and server\.context has lateral"):
        ServerSettings(images=2, context=("lateral",))
    sections = {
        "state": "state",
        "server": {"context": ["prior"]},
        "store_scp": {"peers": ["A"]},
        "store_scu": {"host": "h", "port": 104, "ae_title": "A"},
    }
    with pytest.raises(ConfigError, match=r"server\.context has prior, for which .* give dicomweb"):
        Settings.read(sections, "test", tmp_path)
