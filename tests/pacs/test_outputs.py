"""A real bridge process with every output switched on: PDF, measurement report, HL7 v2 and FHIR."""

import contextlib
import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import hl7
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from pydicom import dcmread
from pydicom.uid import BasicTextSRStorage, Comprehensive3DSRStorage, EncapsulatedPDFStorage

from tests.bridge.drafts import COMPARED, EARLIER
from tests.bridge.peers.test_fhir import validate
from tests.bridge.receivers import fhir_server, ris
from tests.bridge.studies import STUDY, radiograph
from tests.pacs.conftest import Department, check_file, wait_for

pytestmark = pytest.mark.pacs

MakeDepartment = Callable[..., Department]

RIS_PORT, FHIR_PORT = 12575, 18443
"""In the namespace of the tests, where all ports are free."""

OUTPUTS: dict[str, dict[str, Any]] = {
    "report": {"pdf": True, "tid1500": True},
    "hl7": {"host": "127.0.0.1", "port": RIS_PORT, "timeout_s": 5.0},
    "fhir": {"url": f"http://127.0.0.1:{FHIR_PORT}"},
}
CLASSES = sorted([BasicTextSRStorage, Comprehensive3DSRStorage, EncapsulatedPDFStorage])
JAPANESE = {"PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう", "SpecificCharacterSet": "ISO_IR 192"}


def test_a_study_gets_every_document_and_message(make_department: MakeDepartment) -> None:
    """Three valid documents in the PACS, one valid message in the RIS, one valid transaction in the FHIR server.

    The patient has an earlier study, which the PACS finds by its ID.
    """
    department = make_department(**OUTPUTS, server={"context": ["comparison", "lateral", "prior"]})
    earlier = radiograph(study=EARLIER, **(JAPANESE | {"StudyDate": "20260608"}))
    with ris(port=RIS_PORT) as (_, messages), fhir_server(port=FHIR_PORT) as (_, bundles):
        department.send(earlier, radiograph(**JAPANESE), radiograph(2, **(JAPANESE | {"ViewPosition": "LL"})))
        wait_for(lambda: "reported  2\n" in department.bridge.queue("status").stdout)

    documents = department.pacs.documents()
    assert sorted(documents.values()) == sorted(CLASSES * 2)
    for uid in documents:
        path = department.folder / "document.dcm"
        path.write_bytes(department.pacs.file(uid))
        assert check_file(path) == []
    for message in messages:
        assert parse_message(message, validation_level=VALIDATION_LEVEL.TOLERANT).validate()
        assert str(hl7.parse(message).segment("OBR")[25]) == "P"
        assert "山田^太郎" in message
    (compared,) = [json.loads(body) for body in department.server.received if body.startswith(b"{")]
    assert compared["roles"] == ["frontal", "prior", "lateral"]
    drafts = [dcmread(BytesIO(department.pacs.file(uid))) for uid in department.pacs.reports()]
    named = [one.PertinentOtherEvidenceSequence for one in drafts if one.StudyInstanceUID == STUDY]
    assert [[prior.StudyInstanceUID for prior in priors] for priors in named] == [[EARLIER], [EARLIER]]
    assert sum(COMPARED in message for message in messages) == 1
    # Last: it skips the test where its validator is not installed.
    assert [validate(bundle) for bundle in bundles] == [[], []]


def test_receivers_that_are_away_get_the_draft_later_and_once(make_department: MakeDepartment) -> None:
    """RIS and FHIR server down, the bridge killed meanwhile: nothing is stored twice, both get the draft in the end."""
    department = make_department(**OUTPUTS)
    department.send(radiograph())
    wait_for(lambda: "ris_unreachable" in department.bridge.output())
    before = department.pacs.documents()
    department.bridge.kill()
    with contextlib.ExitStack() as stack:
        _, messages = stack.enter_context(ris(port=RIS_PORT))
        department.bridge.start()
        wait_for(lambda: "fhir_unreachable" in department.bridge.output())
        _, bundles = stack.enter_context(fhir_server(port=FHIR_PORT))
        wait_for(lambda: "reported  1\n" in department.bridge.queue("status").stdout)

    assert sorted(before.values()) == CLASSES
    assert department.pacs.documents() == before
    assert len({hl7.parse(message)["MSH.F10"] for message in messages}) == 1
    assert len(bundles) == 1


def test_a_changed_study_gets_new_documents_that_say_which_they_replace(make_department: MakeDepartment) -> None:
    """A late image: a second one of each kind; the structured reports name the first."""
    department = make_department(report=OUTPUTS["report"])
    department.send(radiograph())
    first = wait_for(lambda: len(found := department.pacs.documents()) == 3 and found)
    department.send(radiograph(2))
    both = wait_for(lambda: len(found := department.pacs.documents()) == 6 and found)

    for uid in set(both) - set(first):
        document = dcmread(BytesIO(department.pacs.file(uid)))
        assert document.InstanceNumber == 2
        if both[uid] != EncapsulatedPDFStorage:
            (series,) = document.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
            (replaced,) = series.ReferencedSOPSequence
            assert first[replaced.ReferencedSOPInstanceUID] == both[uid]
