"""What is saved of a draft: documents of the bridge where there is one, and the answer itself."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import Site
from tests.web.conftest import REPORT, answer, failure, open_page, wait_for_state

pytestmark = pytest.mark.browser
pytest.importorskip("playwright", reason="the group dev is not installed")


def test_documents_of_the_bridge(browser: Any, site: Site) -> None:
    """The file and the answer are sent, and what comes back is saved; a picture gets no DICOM document."""
    site.recorder.answers["POST /drafts/sr"] = answer("the document", kind="application/dicom")
    with open_page(browser, site.settings.listen, {"drafts": ["sr", "fhir", "pdf"]}, accept_downloads=True) as page:
        dicom = {"name": "a", "mimeType": "", "buffer": 128 * b"\0" + b"DICM and more"}
        page.locator("#file").set_input_files(dicom)
        wait_for_state(page, "Ready")
        page.locator("#write").click()
        wait_for_state(page, "Draft finished.")
        with page.expect_download() as download:
            page.locator("#sr").click()
        assert download.value.suggested_filename == "draft-sr.dcm"
        assert Path(download.value.path()).read_text() == "the document"
        (body,) = [seen.body for seen in site.recorder.seen if seen.target == "POST /drafts/sr"]
        assert b"DICM and more" in body
        assert json.dumps(REPORT["report"]).encode() in body
        assert b'name="options"\r\n\r\n{"num_beams":1,"num_return_sequences":1}' in body
        assert REPORT["images"][0].encode() not in body
        site.recorder.answers["POST /drafts/sr"] = failure(503, "the bridge does not answer")
        page.locator("#sr").click()
        page.locator("#problem-text:has-text('the bridge does not answer')").wait_for()
        assert page.locator("#report").is_visible()

        page.locator("#samples button").click()
        wait_for_state(page, "Draft finished.")
        assert [page.locator(f"#{name}").is_disabled() for name in ("sr", "pdf", "fhir")] == [True, True, False]
        assert "need a DICOM file" in page.locator("#limits").inner_text()


def test_without_a_bridge(page: Any) -> None:
    """The page says why documents cannot be saved, and saves the answer itself."""
    page.locator("#samples button").click()
    wait_for_state(page, "Draft finished.")
    assert page.locator("#sr").is_disabled()
    assert page.locator("#fhir").is_disabled()
    assert "no bridge runs" in page.locator("#limits").inner_text()
    with page.expect_download() as download:
        page.locator("#json").click()
    saved = json.loads(Path(download.value.path()).read_text())
    assert saved == {name: value for name, value in REPORT.items() if name != "images"}
