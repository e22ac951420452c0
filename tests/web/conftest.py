"""The page in headless Chromium, served by the gateway, with prepared answers instead of a model."""

import base64
import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.gateway.conftest import Site, open_site
from tests.gateway.recorder import Recorder

CHROMIUM = Path("/usr/bin/chromium")
PREDICT = "POST /predictions/demo"
CHAT = "POST /predictions/demo/1.0/v1/chat/completions"
MODELS = "GET /predictions/demo/1.0/v1/models"
MODES: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1200, "height": 900}},
    "dark": {"viewport": {"width": 1200, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 375, "height": 800}, "has_touch": True, "is_mobile": True},
}


def gradient() -> bytes:
    """PNG, 256 x 64: every column has the gray level of its number."""
    file = io.BytesIO()
    Image.fromarray(np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (64, 1, 3))).save(file, "PNG")
    return file.getvalue()


REPORT: dict[str, Any] = {
    "report": "Findings: Clear lungs. Impression: Normal.",
    "sections": {"findings": "Clear lungs.", "impression": "Normal."},
    "status": "UNVERIFIED",
    "finish_reason": "eos",
    "num_tokens": 7,
    "avg_logprob": -0.2,
    "alternatives": [],
    "model": {"name": "demo", "version": "1.0", "architecture": "a", "sha256": 64 * "0"},
    "warnings": ["burned_in_unknown: (0028,0301) Burned In Annotation is absent"],
    "timing_ms": {"queue": 10, "preprocess": 20, "vision": 30, "decode": 40},
    "images": [base64.b64encode(gradient()).decode()],
}


def answer(body: str, code: int = 200, kind: str = "application/json") -> bytes:
    """An HTTP answer."""
    head = f"HTTP/1.1 {code} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body.encode())}\r\n\r\n"
    return (head + body).encode()


def stream(report: dict[str, Any]) -> bytes:
    """The answer that carries a report, streamed."""
    text = json.dumps({"text": "Findings: Clear lungs. "}) + "\n" + json.dumps(report) + "\n"
    return answer(text, kind="application/x-ndjson")


def failure(code: int, message: str, kind: str = "X") -> bytes:
    """The handler's answer that carries an error, which is in a header too."""
    error = json.dumps({"error": {"code": code, "type": kind, "message": message}})
    return answer(error, code).replace(b"\r\n\r\n", f"\r\nX-Prelim-Error: {error}\r\n\r\n".encode(), 1)


def models(*, chat: bool) -> bytes:
    """The list of one model."""
    served = {"id": "demo", "prelim": {"takes_prompts": chat, "takes_messages": chat}}
    return answer(json.dumps({"data": [served]}))


def wait_for_state(page: Any, text: str) -> None:
    """Wait for the line that says what the page does."""
    page.locator(f"#state:has-text('{text}')").wait_for()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A gateway without keys; what it asks the bridge comes to the recorder too."""
    recorder = Recorder()
    recorder.answers = {PREDICT: stream(REPORT), MODELS: models(chat=False)}
    site = open_site(tmp_path, recorder, keys=None)
    with site.nginx:
        yield site
    recorder.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium."""
    if not CHROMIUM.exists():
        pytest.skip("Chromium is not installed; `make test-web` installs it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@contextlib.contextmanager
def open_page(browser: Any, address: str, config: dict[str, Any] | None = None, **mode: Any) -> Iterator[Any]:
    """Open the page; nothing but the gateway may be asked, and no script or policy may fail.

    address : of the gateway, HOST:PORT
    config  : changes of /config.json
    """
    context = browser.new_context(**mode)
    context.set_default_timeout(10_000)
    page = context.new_page()
    hosts: set[str] = set()
    problems: list[str] = []
    page.on("request", lambda sent: hosts.add(sent.url.split("/")[2]) if sent.url.startswith("http") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if "Content Security Policy" in said.text else None)
    if config:
        page.route("**/config.json", lambda route: route.fulfill(json=route.fetch().json() | config))
    page.goto(f"http://{address}/")
    page.locator("#samples button").first.wait_for()
    yield page
    assert hosts == {address}
    assert problems == []
    context.close()


@pytest.fixture
def page(browser: Any, site: Site) -> Iterator[Any]:
    """The page on a desktop."""
    with open_page(browser, site.settings.listen, **MODES["light"]) as page:
        yield page


@pytest.fixture(params=MODES)
def any_page(request: pytest.FixtureRequest, browser: Any, site: Site) -> Iterator[Any]:
    """The page in light and dark colors, and on a phone."""
    with open_page(browser, site.settings.listen, **MODES[request.param]) as page:
        yield page


@pytest.fixture
def choose(page: Any) -> Callable[..., None]:
    """Chooses a file, as the dialog of a browser does."""

    def choose(contents: bytes = b"DICOM bytes", name: str = "DOE^JANE.dcm") -> None:
        page.locator("#file").set_input_files({"name": name, "mimeType": "", "buffer": contents})

    return choose
