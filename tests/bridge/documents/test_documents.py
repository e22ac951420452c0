"""Every document of a draft is valid, whatever its study lacks."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pypdfium2
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from bridge.configuration.section import ConfigError
from bridge.configuration.settings import ReportSettings
from bridge.dicom.identity import DRAFT, MEASUREMENTS, PDF
from bridge.documents.draft import BANNER, CONFIRM, NOTICE
from bridge.documents.fonts import load_fonts
from bridge.documents.writers import WRITERS, chosen_kinds
from bridge.peers.fhir import write_bundle
from tests.bridge.drafts import COMPARED, DOUBT, EARLIER, PRIOR, SENTENCES, make_draft
from tests.bridge.studies import STUDY

SPARSE = ("PatientName", "PatientID", "PatientSex", "PatientBirthDate", "StudyID", "StudyTime", "AccessionNumber")
IODS = {DRAFT: "BasicTextSR", MEASUREMENTS: "Comprehensive3DSR", PDF: "EncapsulatedPDF"}
CASES: dict[str, dict[str, Any]] = {
    "ordinary": {},
    "replacing another": {"replaces": "2.25.7"},
    "Japanese": {
        "header": {"PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう", "SpecificCharacterSet": "ISO_IR 192"}
    },
    "no sex, no birth date, no name": {"header": {"drop": SPARSE}},
    "invalid birth date and sex": {"header": {"PatientBirthDate": "in 1950", "PatientSex": "WEIBLICH"}},
    "two birth dates and a long accession number": {
        "header": {"PatientBirthDate": ["19500101", "19500102"], "AccessionNumber": "A" * 40}
    },
    "dates and times that do not exist": {
        "header": {"PatientBirthDate": "19500200", "StudyDate": "20261100", "StudyTime": "235960"}
    },
    "names with control characters and too many components": {
        "header": {"PatientName": "A\x07^B\t^C^D^E^F^G", "ReferringPhysicianName": "A^B^C^D^E^F=" + "漢" * 60}
    },
    "values that are too long only as bytes": {
        "header": {"AccessionNumber": "漢" * 16, "StudyID": "ä" * 16, "SpecificCharacterSet": "ISO_IR 192"},
        "model": {"name": "胸部写真" * 6, "version": "版" * 30, "architecture": "a", "sha256": "f" * 64},
    },
    "sentences to confirm": {"sentences": SENTENCES},
    "compared with a prior": {"prior": True},
    "tabs": {"sections": {"findings": "a\tb", "impression": "\tc"}},
    "withdrawn": {"withdrawn": True, "replaces": "2.25.7"},
    "laterality": {"header": {"Laterality": ""}},
    "UIDs of 64 characters": {
        "header": {"SOPInstanceUID": "1.2." + "3" * 60},
        "uid": "2.25." + "4" * 59,
        "replaces": "2.25." + "5" * 59,
    },
    "a long model name": {
        "model": {"name": "m" * 90, "version": "1\\0", "architecture": "a", "sha256": "f" * 64},
    },
    "no sections": {"sections": {"findings": None, "impression": None}},
    "an empty report": {"report": " ", "sections": {"findings": None, "impression": None}},
    "every kind of character": {
        "report": "5 µm <b>&amp;</b> \\ ^ = | 心\n\nsecond line",
        "sections": {"findings": "5 µm <b> \\ ^ = | 心\n\nsecond line", "impression": None},
    },
    "control characters and half a character": {
        "sections": {"findings": "a\x00b\x1bc\ud800d\r\ne", "impression": None},
        "model": {"name": "de\x07mo", "version": "1", "architecture": "a\x00", "sha256": "f" * 64},
    },
    "several pages": {"sections": {"findings": "No effusion. " * 2000, "impression": "無" * 3000}},
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What is unusual about a draft."""
    return CASES[request.param]


def write(folder: Path, kind: str, case: dict[str, Any]) -> Path:
    """Write a document of a draft; its file."""
    path = folder / "draft.dcm"
    WRITERS[kind](make_draft(**case), ReportSettings()).save_as(path, enforce_file_format=True)
    return path


@pytest.mark.pacs
@pytest.mark.parametrize("kind", WRITERS)
def test_dciodvfy_finds_no_error(tmp_path: Path, kind: str, case: dict[str, Any]) -> None:
    """dicom3tools checks every attribute and the content tree against PS3.3."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed; `make test-pacs` installs it")
    file = write(tmp_path, kind, case)
    output = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False).stderr

    assert IODS[kind] in output
    assert [line for line in output.splitlines() if line.startswith("Error")] == []


@pytest.mark.slow
@pytest.mark.pacs
@pytest.mark.parametrize("kind", [DRAFT, MEASUREMENTS])
def test_pixelmed_finds_no_error(tmp_path: Path, kind: str) -> None:
    """PixelMed's validator checks the content tree against TID 2000 and TID 1500, which the header does not change."""
    if shutil.which("DicomSRValidator") is None:
        pytest.skip("PixelMed's DicomSRValidator is not installed; `make test-pacs` installs it")
    file = write(tmp_path, kind, CASES["replacing another"] | CASES["compared with a prior"])
    limits = ("TotalOpLimit=1000000", "ExprOpLimit=100000", "ExprGrpLimit=100000")
    # A JVM that ends after two seconds has no use for its second compiler and its collector of many threads.
    options = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", *(f"-Djdk.xml.xpath{limit}" for limit in limits)]
    environment = {**os.environ, "JAVA_TOOL_OPTIONS": " ".join(options)}
    done = subprocess.run(["DicomSRValidator", str(file)], capture_output=True, text=True, check=False, env=environment)
    lines = (done.stdout + done.stderr).splitlines()

    assert any("Root Template Validation Complete" in line for line in lines)
    assert [line for line in lines if line.startswith("Error")] == []


def test_the_notice_is_in_the_text() -> None:
    """Viewers hide the flags: the text itself says at its beginning, and in every section, that it is a draft."""
    document = WRITERS[DRAFT](make_draft(), ReportSettings())
    texts = [item for item in document.ContentSequence if item.RelationshipType == "CONTAINS"]

    assert texts[0].TextValue == NOTICE
    assert all(section.ContentSequence[0].TextValue.startswith(BANNER) for section in texts[1:])
    assert len(texts) == 3


def test_places_of_phrases_and_the_use_are_in_every_document() -> None:
    """As text, in pixels of the stored image; what has no pixels is left out. Reasoning is not in any document."""
    box = {"text": "A large  effusion.", "image": 1, "box": [10.4, 20.6, 30.0, 40.0]}
    draft = make_draft(regions=[box, {"text": "Other.", "image": 1, "box": None}], reasoning="THOUGHT")
    line = "- A large effusion.: (10, 21) to (30, 40), image 1"
    for kind in (DRAFT, MEASUREMENTS):
        document = WRITERS[kind](draft, ReportSettings())
        text = "\n".join(str(element.value) for element in document.iterall())
        assert line in text
        assert "Other." not in text
        assert "use=research" in text or kind == DRAFT
        assert "THOUGHT" not in text
    bundle = json.dumps(write_bundle(draft))
    assert line in bundle
    assert "use: research" in bundle
    assert "THOUGHT" not in bundle
    assert draft.remarks()[0][0] == "Places"
    assert make_draft().remarks() == []


def test_the_measurement_report_has_notice_text_and_probability() -> None:
    """Software that reads the measurement group alone finds the model; the texts say that they are drafts."""
    document = WRITERS[MEASUREMENTS](make_draft(), ReportSettings())
    measurements, evaluations = [item for item in document.ContentSequence if item.RelationshipType == "CONTAINS"]
    (group,) = measurements.ContentSequence
    (value,) = [item for item in group.ContentSequence if item.ValueType == "NUM"]
    notice, *texts = [item.TextValue for item in evaluations.ContentSequence]

    assert value.MeasuredValueSequence[0].NumericValue == -0.2
    assert any(item.ValueType == "IMAGE" for item in group.ContentSequence)
    assert notice == NOTICE
    assert [text.startswith(BANNER) for text in texts] == [True, True]
    assert (document.VerificationFlag, document.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


def test_sentences_to_confirm_are_in_every_document(tmp_path: Path) -> None:
    """With their confidence, and only these; a model that is not calibrated and one that is sure have no such text."""
    for sentences, expected in ((SENTENCES, 1), (SENTENCES[1:], 0), ([], 0)):
        for kind in (DRAFT, MEASUREMENTS):
            document = WRITERS[kind](make_draft(sentences=sentences), ReportSettings())
            found = texts_of(document)
            assert [text.startswith(BANNER) for text in found if DOUBT in text] == [True] * expected
            assert not any("0.97" in text for text in found)
    document = dcmread(write(tmp_path, PDF, {"sentences": SENTENCES}))
    text = " ".join(pypdfium2.PdfDocument(document.EncapsulatedDocument)[0].get_textpage().get_text_range().split())
    assert f"To confirm {CONFIRM} {DOUBT}" in text


def test_every_document_names_the_prior(tmp_path: Path) -> None:
    """With its date in words, and as evidence of another study; a draft without one says nothing of it."""
    for kind in (DRAFT, MEASUREMENTS):
        document = WRITERS[kind](make_draft(prior=True), ReportSettings())
        (other,) = document.PertinentOtherEvidenceSequence
        (own,) = document.CurrentRequestedProcedureEvidenceSequence
        assert (own.StudyInstanceUID, other.StudyInstanceUID) == (STUDY, EARLIER)
        assert document.StudyInstanceUID == STUDY
        assert [text for text in texts_of(document) if COMPARED in text] == [BANNER + COMPARED]
        alone = WRITERS[kind](make_draft(), ReportSettings())
        assert "PertinentOtherEvidenceSequence" not in alone
        assert not any(COMPARED in text for text in texts_of(alone))
    document = dcmread(write(tmp_path, PDF, {"prior": True}))
    text = " ".join(pypdfium2.PdfDocument(document.EncapsulatedDocument)[0].get_textpage().get_text_range().split())
    assert [item.ReferencedSOPInstanceUID for item in document.SourceInstanceSequence] == [f"{STUDY}.1.1", PRIOR]
    assert f"Prior Procedure Descriptions {COMPARED}" in text
    assert f"Earlier image {PRIOR}" in text


def test_sections_are_inferred_from_what_they_are_about() -> None:
    """Findings from the image and the prior, which is their baseline; the comparison from the prior alone."""
    document = WRITERS[DRAFT](make_draft(prior=True), ReportSettings())
    sections = [item for item in document.ContentSequence if item.ValueType == "CONTAINER"]
    references = [
        [
            (str(one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID), one.ConceptNameCodeSequence[0].CodeMeaning)
            for one in section.ContentSequence[0].ContentSequence
        ]
        for section in sections
    ]
    image, prior = (f"{STUDY}.1.1", "Best illustration of finding"), (PRIOR, "Baseline")
    assert references == [[prior], [image, prior], [image, prior]]


def texts_of(document: Dataset) -> list[str]:
    """All texts of a structured report."""
    children = document.get("ContentSequence", [])
    own = [str(document.TextValue)] if "TextValue" in document else []
    return own + [text for child in children for text in texts_of(child)]


def test_the_time_of_a_pdf_grows_with_its_lines() -> None:
    """Eight times the lines take about eight times the processor; with one paragraph for all it was sixty times."""

    def seconds(lines: int) -> float:
        """Of this thread only: threads that other tests left running are not counted. The least of three runs."""
        runs = []
        for _ in range(3):
            started = time.thread_time()
            WRITERS[PDF](make_draft(report="a\n" * lines, sections={}), ReportSettings(pdf=True))
            runs.append(time.thread_time() - started)
        return min(runs)

    seconds(1)
    assert seconds(4000) < 25 * seconds(500)


def test_the_pdf_shows_name_notice_and_text(tmp_path: Path) -> None:
    """The pages have the notice, the name in each script, every section, and a footer; fonts are embedded."""
    case = CASES["Japanese"] | {
        "sections": {"findings": "5 µm & <b>\nnext", "impression": "心拡大"},
        "replaces": "2.25.7",
    }
    document = dcmread(write(tmp_path, PDF, case))
    pages = pypdfium2.PdfDocument(document.EncapsulatedDocument)
    text = " ".join(pages[0].get_textpage().get_text_range().split())

    assert " ".join(NOTICE.split()) in text
    for shown in ("Yamada Tarou (山田 太郎, やまだ たろう)", "1948-12-31", "5 µm & <b>", "心拡大", "NOT A DIAGNOSIS"):
        assert shown in text
    assert "Version 2; replaces" in text
    assert document.EncapsulatedDocument[: document.EncapsulatedDocumentLength].endswith(b"%%EOF\n")
    assert b"/FontFile2" in document.EncapsulatedDocument
    assert (document.VerificationFlag, document.BurnedInAnnotation) == ("UNVERIFIED", "YES")


def test_a_character_without_a_glyph_is_seen_to_be_missing(tmp_path: Path) -> None:
    """Hangul is in none of the bundled fonts: the page shows U+FFFD and not an empty place."""
    document = dcmread(write(tmp_path, PDF, {"sections": {"findings": "김 here", "impression": None}}))
    text = pypdfium2.PdfDocument(document.EncapsulatedDocument)[0].get_textpage().get_text_range()
    assert "\N{REPLACEMENT CHARACTER} here" in text


def test_documents_are_chosen_and_fonts_checked_before_the_first_study(tmp_path: Path) -> None:
    """The SR is always written; a file that is not a font is named when the bridge starts."""
    assert chosen_kinds(ReportSettings()) == [DRAFT]
    assert chosen_kinds(ReportSettings(pdf=True, tid1500=True)) == [DRAFT, MEASUREMENTS, PDF]
    (tmp_path / "font.ttf").write_bytes(b"no font")
    with pytest.raises(ConfigError, match="is not a TrueType font"):
        load_fonts((tmp_path / "font.ttf",))
