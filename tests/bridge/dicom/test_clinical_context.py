"""What a study's header says besides the picture, and that it is sent only where the configuration lists it."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from bridge.configuration.section import ConfigError
from bridge.configuration.server import CONTEXT_FIELDS, ServerSettings
from bridge.dicom.clinical_context import read_context
from tests.bridge.conftest import Bench
from tests.bridge.fake_server import refusal
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
        (
            {
                "PatientBirthDate": "",
                "PatientSex": "",
                "SpecificCharacterSet": "ISO_IR 192",
                "ReasonForStudy": "می\u200cکند\u202e\u200b1",
            },
            {"indication": "می\u200cکند 1"},
        ),
        ({"PatientBirthDate": "", "PatientSex": "", "StudyDescription": "XR CHEST AP"}, {"technique": "XR CHEST AP"}),
        ({"PatientAge": ["064Y", "065Y"], "PatientBirthDate": ["19600620", ""], "PatientSex": ["F", "M"]}, {}),
        ({"PatientBirthDate": "", "PatientSex": "", "ReasonForStudy": "fever\\cough"}, {"indication": "fever, cough"}),
        ({"PatientBirthDate": "", "PatientSex": "", "ReasonForStudy": "x" * 1001}, {"indication": "x" * 1000}),
    ],
)
def test_fields_of_a_header(header: dict[str, Any], context: dict[str, str]) -> None:
    """Valid values, on one line; the rest is left out."""
    made = dcmread(BytesIO(radiograph(**header)))
    for keyword in ("StudyDescription", "SeriesDescription", "PerformedProcedureStepDescription"):
        if keyword not in header and keyword in made:
            del made[keyword]
    assert read_context(made, CONTEXT_FIELDS) == context


def test_the_indication_of_the_order_is_found() -> None:
    """Modalities write it into the Request Attributes Sequence (PS3.3 Table 10-9), which can have several items."""
    orders = [Dataset(), Dataset()]
    orders[1].ReasonForTheRequestedProcedure = "fever"
    made = dcmread(BytesIO(radiograph(RequestAttributesSequence=orders, AdmittingDiagnosesDescription="fall")))
    assert read_context(made, ("indication",)) == {"indication": "fever"}


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


@pytest.mark.parametrize(
    ("words", "status", "kind", "message"),
    [
        ("fever ### Doctor", 400, "InvalidOption", "indication has the text '###', which separates turns here"),
        (
            "発熱" * 400,
            413,
            "TooLarge",
            "the prompt takes 2412 tokens; this model reads at most 512; shorten indication, which is part of it",
        ),
    ],
)
def test_words_that_the_server_does_not_take_do_not_cost_the_draft(
    make_bench: Callable[..., Bench], words: str, status: int, kind: str, message: str
) -> None:
    """They are left out, with a warning in the draft; the other fields stay."""
    header = {"PatientAge": "064Y", "ReasonForTheRequestedProcedure": words, "SpecificCharacterSet": "ISO_IR 192"}
    bench = make_bench(radiograph(**header), server_options={"context": ["age", "indication"]})
    bench.server.answer = lambda body: (
        refusal(status, kind, message) if b"indication" in body else bench.server.report(body)
    )
    bench.queue.notify(STUDY, 0)
    bench.run()

    assert bench.state() == ("reported", "")
    assert [(b"indication" in body, b'name="age"' in body) for body in bench.server.received] == [
        (True, True),
        (False, True),
    ]
    (report,) = bench.pacs.reports()
    assert "context_left_out: the server does not take the words of indication" in report.to_json()


def test_a_field_that_the_model_does_not_read_is_a_mistake_of_the_configuration(
    make_bench: Callable[..., Bench],
) -> None:
    """Studies wait until somebody has changed it, rather than that the site believes the field to count."""
    bench = make_bench(radiograph(ReasonForTheRequestedProcedure="fever"), server_options={"context": ["indication"]})
    bench.server.answer = lambda _: refusal(400, "InvalidOption", "indication is set, but this model does not read it")
    bench.queue.notify(STUDY, 0)
    bench.run()
    assert bench.state() == ("waiting", "server_options_refused")


def test_an_unknown_field_is_a_mistake_of_the_configuration() -> None:
    """It is named with the known ones."""
    with pytest.raises(ConfigError, match=r"server\.context has 'name'; allowed: indication"):
        ServerSettings(context=("name",))
