"""From storescu to a draft that QIDO finds, through a real Orthanc."""

from collections.abc import Callable
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.bridge.studies import STUDY, radiograph
from tests.bridge.test_objects import OUTCOMES, refuse_as_the_real_one, written
from tests.pacs.conftest import HTTP_PORT, Department, check_file, wait_for

pytestmark = pytest.mark.pacs

MakeDepartment = Callable[..., Department]

LONG_UID = "1.2.826.0.1.3680043.9.7777." + "1" * (64 - 27)
IDENTITIES = {
    "an ordinary patient": {},
    "a Japanese name": {
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "SpecificCharacterSet": "ISO_IR 192",
    },
    "an unnamed patient without sex and birth date": {
        "drop": ("PatientName", "PatientSex", "PatientBirthDate", "StudyID", "ReferringPhysicianName"),
    },
    "invalid values": {"PatientSex": "F", "PatientBirthDate": "", "AccessionNumber": "", "StudyTime": ""},
    "UIDs of 64 characters": {"study": LONG_UID[:60], "SOPInstanceUID": LONG_UID},
}


def test_a_study_that_is_sent_gets_a_draft(make_department: MakeDepartment) -> None:
    """The hook announces it, the draft is found by QIDO, valid, and stays the only one."""
    department = make_department(poll={"every_s": 3600})
    files = [radiograph(**{"study": f"{STUDY}.{n}", **header}) for n, header in enumerate(IDENTITIES.values(), start=1)]
    department.send(*files)
    reports = wait_for(lambda: len(found := department.pacs.reports()) == len(files) and found)

    for number, report in enumerate(reports):
        path = department.folder / f"report{number}.dcm"
        path.write_bytes(department.pacs.file(report))
        assert check_file(path) == []
    names = {str(dcmread(BytesIO(department.pacs.file(report))).get("PatientName", "")) for report in reports}
    assert "Yamada^Tarou=山田^太郎=やまだ^たろう" in names
    # The drafts make their studies stable again, and the hook fires for them.
    wait_for(lambda: department.bridge.output().count("unchanged") >= len(files))
    assert department.pacs.reports() == reports
    assert len(department.server.received) == len(files)


def test_polling_finds_what_the_hook_has_lost(make_department: MakeDepartment) -> None:
    """A study that arrives while the bridge is away is reported after it has started."""
    department = make_department()
    department.bridge.stop()
    department.send(radiograph())
    wait_for(lambda: department.pacs.get("/studies"))
    department.bridge.start()

    assert wait_for(department.pacs.reports)


def test_a_corrected_patient_gets_a_draft_that_replaces_the_first(make_department: MakeDepartment) -> None:
    """The image is deleted and sent again with the corrected name; Orthanc 1.10 does not overwrite."""
    department = make_department()
    department.send(radiograph())
    (first,) = wait_for(department.pacs.reports)
    department.pacs.delete(f"{STUDY}.1.1")
    department.send(radiograph(PatientName="Corrected^Name"))

    def corrected() -> list[Dataset]:
        files = [dcmread(BytesIO(department.pacs.file(uid))) for uid in department.pacs.reports()]
        return [file for file in files if file.PatientName == "Corrected^Name"]

    (report,) = wait_for(corrected)
    # A poll in between finds no image, and the first draft is replaced by a document that says so.
    others = set(department.pacs.reports()) - {report.SOPInstanceUID}
    (series,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    (replaced,) = (item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence)
    assert replaced == first if others == {first} else replaced in others - {first}


def test_the_change_feed_finds_what_has_no_date(make_department: MakeDepartment) -> None:
    """Neither the hook nor a poll by Study Date would: the hook has no bridge, and the dates are absent or old."""
    department = make_department(hook={"port": 18191}, poll={"every_s": 1, "orthanc": f"http://127.0.0.1:{HTTP_PORT}"})
    # The first look is at the end of the feed, whatever the PACS had before.
    wait_for(lambda: department.bridge.recalled("orthanc_changes") is not None)
    dates = {f"{STUDY}.1": "", f"{STUDY}.2": "19991231"}
    department.send(*(radiograph(study=study, StudyDate=date) for study, date in dates.items()))

    wait_for(lambda: "reported  2\n" in department.bridge.queue("status").stdout)
    assert [len(department.pacs.reports(study)) for study in dates] == [1, 1]


def test_every_object_has_an_outcome_in_a_real_pacs(make_department: MakeDepartment) -> None:
    """As in tests/bridge/test_objects.py, with the headers that Orthanc shows."""
    department = make_department(poll={"every_s": 3600})
    refuse_as_the_real_one(department.server)
    names = [name for name, (files, _) in OUTCOMES.items() if files]
    for number, name in enumerate(names, start=1):
        for image in map(dcmread, map(BytesIO, OUTCOMES[name][0])):
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                setattr(image, keyword, getattr(image, keyword).replace(STUDY, f"{STUDY}.{number}"))
            image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
            department.pacs.upload(written(image))

    def outcomes() -> dict[str, tuple[str, str]]:
        rows = [line.split() for line in department.bridge.queue("list", "--uids").stdout.splitlines()]
        return {row[0]: (row[1], row[4] if len(row) > 4 else "") for row in rows}

    expected = {f"{STUDY}.{number}": OUTCOMES[name][1] for number, name in enumerate(names, start=1)}
    wait_for(lambda: outcomes() == expected)
