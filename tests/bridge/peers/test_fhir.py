"""A draft as FHIR R4: valid, preliminary, marked as asserted by AI, and the same resources when sent again."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bridge.configuration.settings import FhirSettings
from bridge.failures import Outage, StudyFailure
from bridge.peers.fhir import FhirClient, write_bundle
from tests.bridge.drafts import COMPARED, DOUBT, EARLIER, PRIOR, SENTENCES, make_draft
from tests.bridge.receivers import DETOURS, answer_all, fhir_server
from tests.bridge.studies import STUDY

VALIDATOR = Path(__file__).resolve().parents[3] / "build" / "fhir"
SCRIPT = """
const {Fhir} = require('fhir');
const bundle = JSON.parse(require('fs').readFileSync(0));
const messages = [bundle, ...bundle.entry.map(entry => entry.resource)]
  .flatMap(resource => new Fhir().validate(resource, {errorOnUnexpected: true}).messages);
console.log(JSON.stringify(messages.filter(message => !['info', 'information'].includes(message.severity))));
"""
CASES: dict[str, dict[str, Any]] = {
    "ordinary": {},
    "replacing another": {"replaces": "2.25.7"},
    "no identity": {"header": {"drop": ("PatientID", "PatientName", "AccessionNumber", "StudyDate")}},
    "sentences to confirm": {"sentences": SENTENCES},
    "compared with a prior": {"prior": True},
    "an invalid date": {"header": {"StudyDate": "20261399"}},
    "an image that is not DICOM": {"dicom": False},
    "a Japanese name": {"header": {"PatientName": "Yamada^Tarou=山田^太郎", "SpecificCharacterSet": "ISO_IR 192"}},
}


def resources(bundle: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the resources by type."""
    return {entry["resource"]["resourceType"]: entry["resource"] for entry in bundle["entry"]}


def validate(bundle: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what npm's `fhir` finds wrong, value sets included."""
    if shutil.which("node") is None or not (VALIDATOR / "node_modules").is_dir():
        pytest.skip("npm's fhir is not installed; `make test-pacs` installs it")
    done = subprocess.run(
        ["node", "-e", SCRIPT], cwd=VALIDATOR, input=json.dumps(bundle), capture_output=True, text=True, check=True
    )
    # It does not carry LOINC and HL7 v2, and warns that their codes are not in the value sets.
    return [one for one in json.loads(done.stdout) if one["severity"] == "error" or "value set" not in one["message"]]


@pytest.mark.pacs
@pytest.mark.parametrize("case", CASES)
def test_the_bundle_is_valid(case: str) -> None:
    """Neither the bundle nor a resource in it has an error or a warning."""
    assert validate(write_bundle(make_draft(**CASES[case]))) == []


@pytest.mark.pacs
def test_the_validator_notices_a_wrong_code() -> None:
    """A status outside its value set and an unknown element are found, so that the test above can fail."""
    bundle = write_bundle(make_draft())
    report = resources(bundle)["DiagnosticReport"]
    report |= {"status": "ai-draft", "surprise": 1}
    assert len(validate(bundle)) >= 2


def test_the_report_is_preliminary_and_says_who_wrote_it() -> None:
    """Status, security label, notice, author and sources."""
    found = resources(write_bundle(make_draft(replaces="2.25.7")))
    report, device, provenance = found["DiagnosticReport"], found["Device"], found["Provenance"]

    assert report["status"] == "preliminary"
    assert report["meta"]["security"][0]["code"] == "AIAST"
    assert DOUBT not in report["conclusion"]
    doubted = resources(write_bundle(make_draft(sentences=SENTENCES)))["DiagnosticReport"]
    assert doubted["conclusion"].endswith(DOUBT)
    assert report["conclusion"].startswith("UNVERIFIED DRAFT")
    assert device["serialNumber"] == "a" * 64
    assert provenance["target"] == [{"reference": f"DiagnosticReport/{report['id']}"}]
    assert provenance["agent"][0]["who"] == {"reference": f"Device/{device['id']}"}
    assert [entity["role"] for entity in provenance["entity"]] == ["source", "revision"]


def test_the_prior_is_a_source_and_not_the_study_of_the_report() -> None:
    """A report that named the earlier study as its own would be filed there."""
    found = resources(write_bundle(make_draft(prior=True)))
    sources = [entity["what"] for entity in found["Provenance"]["entity"]]

    assert [one["identifier"]["value"] for one in sources] == [f"urn:oid:{STUDY}.1.1", f"urn:oid:{PRIOR}"]
    assert sources[1]["display"] == f"image of the earlier study urn:oid:{EARLIER}, 2026-06-08"
    assert EARLIER not in json.dumps(found["DiagnosticReport"])
    assert f"Comparison: {COMPARED}" in found["DiagnosticReport"]["conclusion"]


def test_sending_twice_puts_the_same_resources() -> None:
    """Ids follow from the draft and the weights."""
    first, second = ([entry["request"]["url"] for entry in write_bundle(make_draft())["entry"]] for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("status", "header"), DETOURS)
def test_a_login_in_front_of_the_server_has_not_taken_the_draft(
    monkeypatch: pytest.MonkeyPatch, status: int, header: dict[str, str]
) -> None:
    """Its page comes with status 200, or after a redirect."""
    answer_all(monkeypatch, lambda _: (status, b"", header))
    with pytest.raises(Outage, match="fhir_Detour"):
        FhirClient(FhirSettings("http://127.0.0.1:1")).send(make_draft())


@pytest.mark.parametrize(
    ("status", "raised"), [(200, None), (400, StudyFailure), (422, StudyFailure), (401, Outage), (503, Outage)]
)
def test_answers_of_the_server_are_outages_or_failures(status: int, raised: type[Exception] | None) -> None:
    """What is about this draft is counted; what is about the server is waited for."""
    with fhir_server(status=status) as (url, got):
        client = FhirClient(FhirSettings(url))
        if raised is None:
            client.send(make_draft())
        else:
            with pytest.raises(raised):
                client.send(make_draft())
    assert got[0]["type"] == "transaction"
    with pytest.raises(Outage):
        client.send(make_draft())
