"""The page with the real TorchServe behind it: what it sends is accepted, and what it shows is the model's answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from export.package import write_archive
from launcher.gateway.gateway import SAMPLES, Gateway
from launcher.gateway.settings import Settings
from launcher.local_server import LocalServer
from launcher.ports import free_ports
from launcher.sample_radiograph import sample_radiograph
from prelim_client.http_client import HttpClient
from tests.gateway.conftest import has_nginx
from tests.tiny_model import CONFIG
from tests.web.conftest import MODES, open_page

pytestmark = [pytest.mark.browser, pytest.mark.server]
pytest.importorskip("playwright", reason="the group dev is not installed")


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """TorchServe with the tiny model."""
    store = tmp_path_factory.mktemp("store")
    write_archive(tiny_model, store, batching="in-flight", slots=4)
    with LocalServer(store) as server:
        server.wait_until_ready(CONFIG.name)
        yield server


@pytest.fixture(scope="module")
def gateway(server: LocalServer) -> Iterator[Gateway]:
    """The gateway as `make web` starts it."""
    if not has_nginx():
        pytest.skip("nginx is not installed; `make test-web` installs it")
    http_port, grpc_port = free_ports(2)
    settings = Settings(f"127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}", model=CONFIG.name)
    with Gateway(server, settings) as gateway:
        gateway.start()
        yield gateway


def test_newcomer_gets_the_models_report(browser: Any, gateway: Gateway, server: LocalServer) -> None:
    """One click on the DICOM sample: its picture, and the report that /predictions gives."""
    direct = HttpClient(server.url, server.key(), CONFIG.name).report(sample_radiograph())
    with open_page(browser, gateway.settings.listen, **MODES["light"]) as page:
        page.get_by_role("button", name=SAMPLES["rg1.dcm"]).click()
        page.locator("#state:has-text('Draft finished.')").wait_for(timeout=60_000)
        assert " ".join(page.locator("#text").inner_text().split()) == " ".join(direct["report"].split())
        assert page.locator("#warnings li").count() == len(direct["warnings"])
        size = CONFIG.preprocess.size
        assert f"{size} × {size} pixels" in page.locator("#caption").inner_text()


def test_refusal_comes_before_the_report(browser: Any, gateway: Gateway) -> None:
    """A file that the model cannot read is refused when it is chosen; the next one is read."""
    with open_page(browser, gateway.settings.listen, **MODES["light"]) as page:
        broken = {"name": "a.dcm", "mimeType": "", "buffer": sample_radiograph()[:300_000]}
        page.locator("#file").set_input_files(broken)
        page.locator("#problem-text:has-text('truncated')").wait_for(timeout=60_000)
        assert page.locator("#write").is_disabled()
        page.get_by_role("button", name=SAMPLES["chest.jpg"]).click()
        page.locator("#state:has-text('Draft finished.')").wait_for(timeout=60_000)
        assert "Only DICOM files say what they show" in page.locator("#warnings").inner_text()
