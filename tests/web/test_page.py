"""The page in headless Chromium, served by the gateway, with prepared answers instead of a model."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.environment import ROOT
from tests.gateway.conftest import Site, open_site
from tests.gateway.recorder import Recorder

pytestmark = pytest.mark.browser
pytest.importorskip("playwright", reason="the group dev is not installed")

REPORT = {
    "report": "Findings: Clear lungs. Impression: Normal.",
    "sections": {"findings": "Clear lungs.", "impression": "Normal."},
    "status": "UNVERIFIED",
    "finish_reason": "eos",
    "num_tokens": 7,
    "avg_logprob": -0.2,
    "alternatives": [],
    "model": {"name": "demo", "version": "1.0", "architecture": "a", "sha256": 64 * "0"},
    "warnings": ["the view is not stated"],
    "timing_ms": {"queue": 1, "preprocess": 2, "vision": 3, "decode": 4},
    "images": [base64.b64encode((ROOT / "docs" / "images" / "chest.jpg").read_bytes()).decode()],
}
CHROMIUM = Path("/usr/bin/chromium")
PREDICT = "POST /predictions/demo"
CHAT = "POST /predictions/demo/1.0/v1/chat/completions"
MODELS = "GET /predictions/demo/1.0/v1/models"


def answer(body: str, code: int = 200, kind: str = "application/json") -> bytes:
    """An HTTP answer."""
    head = f"HTTP/1.1 {code} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body.encode())}\r\n\r\n"
    return (head + body).encode()


def models(*, chat: bool) -> bytes:
    """The list of one model."""
    served = {"id": "demo", "prelim": {"takes_prompts": chat, "takes_messages": chat}}
    return answer(json.dumps({"data": [served]}))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A gateway without keys."""
    recorder = Recorder()
    text = json.dumps({"text": "Findings: Clear lungs. "}) + "\n" + json.dumps(REPORT) + "\n"
    recorder.answers = {PREDICT: answer(text, kind="application/x-ndjson"), MODELS: models(chat=False)}
    site = open_site(tmp_path, recorder, keys=None)
    with site.nginx:
        yield site
    recorder.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium."""
    if not CHROMIUM.exists():
        pytest.skip("Chromium is not installed; `make test-web` installs it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(params=["light", "dark", "phone"])
def page(request: pytest.FixtureRequest, browser: Any, site: Site) -> Iterator[Any]:
    """The page, opened; nothing but the gateway may be asked, and no script or policy may fail."""
    context = browser.new_context(
        color_scheme="dark" if request.param == "dark" else "light",
        viewport={"width": 375, "height": 800} if request.param == "phone" else {"width": 1200, "height": 900},
    )
    page = context.new_page()
    hosts: set[str] = set()
    problems: list[str] = []
    page.on("request", lambda sent: hosts.add(sent.url.split("/")[2]) if sent.url.startswith("http") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if "Content Security Policy" in said.text else None)
    page.goto(f"http://{site.settings.listen}/")
    page.locator("#samples button").wait_for()
    yield page
    assert hosts == {site.settings.listen}
    assert problems == []
    context.close()


def test_first_report_is_one_click_away(page: Any, site: Site) -> None:
    """A sample gives a report with its status, sections, warnings, model and picture; it fits the width."""
    page.locator("#samples button").click()
    page.locator("#actions").wait_for()
    assert "UNVERIFIED" in page.locator("#report .banner").inner_text()
    assert page.locator("#text p").all_inner_texts() == ["Clear lungs.", "Normal."]
    assert page.locator("#warnings li").all_inner_texts() == REPORT["warnings"]
    assert "7 tokens in 10 ms" in page.locator("#facts").inner_text()
    assert page.locator("#picture").is_visible()
    assert not page.locator("#chat").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    with page.expect_download() as download:
        page.locator("#fhir").click()
    resource = json.loads(Path(download.value.path()).read_text())
    assert (resource["status"], resource["meta"]["security"][0]["code"]) == ("preliminary", "AIAST")
    assert resource["conclusion"].startswith("UNVERIFIED")


def test_page_is_accessible(page: Any) -> None:
    """Before and after a report, axe-core finds nothing serious."""
    from axe_playwright_python.sync_playwright import Axe

    def serious() -> list[str]:
        found = Axe().run(page).response["violations"]
        worst = [each for each in found if each["impact"] in ("serious", "critical")]
        return [f"{each['id']}: {each['nodes'][0]['html']}" for each in worst]

    assert serious() == []
    page.locator("#samples button").click()
    page.locator("#actions").wait_for()
    assert serious() == []


def test_upload_by_keyboard(page: Any, site: Site) -> None:
    """A file is sent without its name, with the options; Enter in a field writes the report."""
    page.locator("#file").set_input_files({"name": "DOE^JANE.dcm", "mimeType": "", "buffer": b"DICOM bytes"})
    page.locator("#tokens").focus()
    page.keyboard.type("9")
    page.keyboard.press("Enter")
    page.locator("#actions").wait_for()
    (sent,) = [seen for seen in site.recorder.seen if seen.target == PREDICT]
    assert b"DICOM bytes" in sent.body
    assert b"DOE" not in sent.body
    assert b'name="max_new_tokens"\r\n\r\n9' in sent.body
    assert b'name="stream"\r\n\r\ntrue' in sent.body


@pytest.mark.parametrize(
    "sent",
    [
        answer(json.dumps({"error": {"code": 422, "type": "Refused", "message": "Modality is MR"}}), 422),
        answer('{"text": "Find"}\n' + json.dumps({"error": {"code": 500, "type": "X", "message": "Modality is MR"}})),
    ],
)
def test_refusals_and_errors_are_shown(page: Any, site: Site, sent: bytes) -> None:
    """In the server's words, also in the middle of a stream; no part of a report stays on the page."""
    site.recorder.answers[PREDICT] = sent
    page.locator("#samples button").click()
    page.locator("#problem").wait_for()
    assert "Modality is MR" in page.locator("#problem").inner_text()
    assert not page.locator("#report").is_visible()


def test_chat_about_the_image(page: Any, site: Site) -> None:
    """A conversational model answers questions; the second carries the first."""
    site.recorder.answers[MODELS] = models(chat=True)
    events = ["data: " + json.dumps({"choices": [{"delta": {"content": piece}}]}) for piece in ("No ", "effusion.")]
    site.recorder.answers[CHAT] = answer("\n\n".join([*events, "data: [DONE]", ""]), kind="text/event-stream")
    page.reload()
    page.locator("#samples button").click()
    page.locator("#chat").wait_for()
    for number in (1, 2):
        page.locator("#question").fill("Effusion?")
        page.locator("#question").press("Enter")
        page.locator(f"#turns li:nth-child({2 * number}):has-text('effusion.')").wait_for()
        page.wait_for_timeout(100)
    asked = [json.loads(seen.body) for seen in site.recorder.seen if seen.target == CHAT]
    assert [len(body["messages"]) for body in asked] == [1, 3]
    assert asked[1]["messages"][1] == {"role": "assistant", "content": "No effusion."}
    assert asked[0]["messages"][0]["content"][1]["image_url"]["url"].startswith("data:")
