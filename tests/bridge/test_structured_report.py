"""Every draft is a valid Basic Text SR, whatever its study lacks."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bridge.settings import Report
from bridge.structured_report import NOTICE, write_structured_report
from tests.bridge.drafts import make_draft

SPARSE = ("PatientName", "PatientID", "PatientSex", "PatientBirthDate", "StudyID", "StudyTime", "AccessionNumber")
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
    "laterality": {"header": {"Laterality": ""}},
    "a UID of 64 characters": {"header": {"SOPInstanceUID": "1.2." + "3" * 60}},
    "a long model name": {
        "model": {"name": "m" * 90, "version": "1\\0", "architecture": "a", "sha256": "f" * 64},
    },
    "no sections": {"sections": {"findings": None, "impression": None}},
    "an empty report": {"report": " ", "sections": {"findings": None, "impression": None}},
    "every kind of character": {
        "report": "5 µm <b>&amp;</b> \\ ^ = | 心\n\nsecond line",
        "sections": {"findings": "5 µm <b> \\ ^ = | 心\n\nsecond line", "impression": None},
    },
}


@pytest.fixture(params=CASES)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A draft on the disk."""
    path = tmp_path / "draft.dcm"
    write_structured_report(make_draft(**CASES[request.param]), Report()).save_as(path, enforce_file_format=True)
    return path


@pytest.mark.pacs
def test_dciodvfy_finds_no_error(file: Path) -> None:
    """dicom3tools checks every attribute and the content tree against PS3.3."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed; `make test-pacs` installs it")
    output = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False).stderr

    assert "BasicTextSR" in output
    assert [line for line in output.splitlines() if line.startswith("Error")] == []


@pytest.mark.pacs
def test_pixelmed_finds_no_error(file: Path) -> None:
    """PixelMed's validator checks the content tree against TID 2000."""
    if shutil.which("DicomSRValidator") is None:
        pytest.skip("PixelMed's DicomSRValidator is not installed")
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
    document = write_structured_report(make_draft(), Report())
    texts = [item for item in document.ContentSequence if item.RelationshipType == "CONTAINS"]

    assert texts[0].TextValue == NOTICE
    assert all(section.ContentSequence[0].TextValue.startswith("[UNVERIFIED DRAFT] ") for section in texts[1:])
    assert len(texts) == 3
