"""What a study's header says besides the picture, and that it is sent only where the configuration lists it."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from pydicom import dcmread

from bridge.configuration.section import ConfigError
from bridge.configuration.server import CONTEXT_FIELDS, ServerSettings
from bridge.dicom.clinical_context import read_context
from tests.bridge.conftest import Bench
from tests.bridge.studies import STUDY, radiograph


@pytest.mark.parametrize(
    ("header", "context"),
    [
        ({"PatientAge": "064Y", "PatientSex": "F"}, {"age": "64", "sex": "F"}),
        ({"PatientAge": "018M", "PatientSex": "X"}, {"age": "1"}),
        ({"PatientBirthDate": "19600620", "StudyDate": "20260619", "PatientSex": ""}, {"age": "65"}),
        ({"PatientBirthDate": "18000101", "PatientSex": ""}, {}),
        ({"PatientBirthDate": "in 1950", "PatientSex": None}, {}),
        (
            {"PatientBirthDate": "", "PatientSex": "", "ReasonForTheRequestedProcedure": "fever,\tcough "},
            {"indication": "fever, cough"},
        ),
        ({"PatientBirthDate": "", "PatientSex": "", "StudyDescription": "XR CHEST AP"}, {"technique": "XR CHEST AP"}),
    ],
)
def test_fields_of_a_header(header: dict[str, Any], context: dict[str, str]) -> None:
    """Valid values, on one line; the rest is left out."""
    made = dcmread(BytesIO(radiograph(**header)))
    for keyword in ("StudyDescription", "SeriesDescription", "PerformedProcedureStepDescription"):
        if keyword not in header and keyword in made:
            del made[keyword]
    assert read_context(made, CONTEXT_FIELDS) == context


@pytest.mark.parametrize("wanted", [(), ("sex",), ("indication", "age")])
def test_only_what_is_listed_is_sent(make_bench: Callable[..., Bench], wanted: tuple[str, ...]) -> None:
    """By default nothing: the request has the image alone."""
    bench = make_bench(
        radiograph(PatientAge="064Y", PatientSex="F", ReasonForTheRequestedProcedure="PLANT"),
        server_options={"context": list(wanted)},
    )
    bench.queue.notify(STUDY, 0)
    bench.run()

    (body,) = bench.server.received
    for name, value in (("age", b"64"), ("sex", b"F"), ("indication", b"PLANT")):
        assert (b'name="%b"' % name.encode() in body) == (name in wanted)
        assert name not in wanted or value in body
    assert b"PLANT" not in body or "indication" in wanted


def test_an_unknown_field_is_a_mistake_of_the_configuration() -> None:
    """It is named with the known ones."""
    with pytest.raises(ConfigError, match=r"server\.context has 'name'; allowed: indication"):
        ServerSettings(context=("name",))
