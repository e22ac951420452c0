"""The page and the real TorchServe: what it sends is accepted, and what it shows is the model's answer."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import BasicTextSRStorage

from export.package import write_archive
from launcher.gateway.gateway import Gateway
from launcher.gateway.page import SAMPLES
from launcher.gateway.settings import Settings
from launcher.local_server import LocalServer
from launcher.ports import free_ports
from launcher.sample_radiograph import sample_radiograph
from prelim.networks.model_folder import write_model_folder
from prelim_client.http_client import HttpClient
from tests.gateway.conftest import has_nginx
from tests.model_src.networks.architectures import small_xraygpt
from tests.tiny_model import CONFIG
from tests.web.conftest import MODES, open_page

pytestmark = [pytest.mark.browser, pytest.mark.server]
pytest.importorskip("playwright", reason="the group dev is not installed")


TALKER = "talker"
QUESTION = "describe the chest"


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """TorchServe with the tiny model, and one that holds conversations."""
    folder, store = tmp_path_factory.mktemp("talker"), tmp_path_factory.mktemp("store")
    model = small_xraygpt.small_model()
    config = dataclasses.replace(model.config, name=TALKER)
    write_model_folder(folder, config, model.network.state_dict(), model.tokenizer)
    for source in (tiny_model, folder):
        write_archive(source, store, batching="in-flight", slots=4)
    with LocalServer(store) as server:
        for name in (CONFIG.name, TALKER):
            server.wait_until_ready(name)
        yield server


@contextlib.contextmanager
def open_gateway(server: LocalServer, model: str) -> Iterator[str]:
    """Run the gateway as `make web` does, with this default model; yields its address."""
    if not has_nginx():
        pytest.skip("nginx is not installed; `make test-web` installs it")
    http_port, grpc_port = free_ports(2)
    with Gateway(server, Settings(f"127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}", model=model)) as gateway:
        gateway.start()
        yield gateway.settings.listen


@pytest.fixture(scope="module")
def address(server: LocalServer) -> Iterator[str]:
    """Of a gateway whose default is the tiny model."""
    with open_gateway(server, CONFIG.name) as address:
        yield address


def test_conversation(browser: Any, server: LocalServer) -> None:
    """Two questions about a picture are answered; another model, which reads only the image, is not asked any."""
    with open_gateway(server, TALKER) as address, open_page(browser, address, **MODES["light"]) as page:
        page.get_by_role("button", name=SAMPLES["chest.jpg"]).click()
        page.locator("#chat").wait_for(timeout=60_000)
        for number in (1, 2):
            page.locator("#question").fill(QUESTION)
            page.locator("#question").press("Enter")
            page.locator("#state:has-text('Answered.')").wait_for(timeout=60_000)
            assert page.locator("#turns li").count() == 2 * number
        page.locator("#model").select_option(CONFIG.name)
        page.locator("#state:has-text('Ready')").wait_for(timeout=60_000)
        page.locator("#write").click()
        page.locator("#state:has-text('Draft finished.')").wait_for(timeout=60_000)
        assert not page.locator("#chat").is_visible()


def test_newcomer_gets_the_models_report(browser: Any, address: str, server: LocalServer) -> None:
    """One click on the DICOM sample: its picture, and the report that /predictions gives; another saves it as SR."""
    direct = HttpClient(server.url, server.key(), CONFIG.name).report(sample_radiograph())
    with open_page(browser, address, accept_downloads=True, **MODES["light"]) as page:
        page.get_by_role("button", name=SAMPLES["rg1.dcm"]).click()
        page.locator("#state:has-text('Draft finished.')").wait_for(timeout=60_000)
        assert " ".join(page.locator("#text").inner_text().split()) == " ".join(direct["report"].split())
        assert page.locator("#warnings li").count() == len(direct["warnings"])
        size = CONFIG.preprocess.size
        assert f"{size} × {size} pixels" in page.locator("#caption").inner_text()
        with page.expect_download() as download:
            page.locator("#sr").click()
        document = dcmread(download.value.path())
        assert document.SOPClassUID == BasicTextSRStorage
        assert (document.VerificationFlag, document.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
        assert direct["report"] in document.to_json()


def test_refusal_comes_before_the_report(browser: Any, address: str) -> None:
    """A file that the model cannot read is refused when it is chosen; the next one is read."""
    with open_page(browser, address, **MODES["light"]) as page:
        broken = {"name": "a.dcm", "mimeType": "", "buffer": sample_radiograph()[:300_000]}
        page.locator("#file").set_input_files(broken)
        page.locator("#problem-text:has-text('truncated')").wait_for(timeout=60_000)
        assert page.locator("#write").is_disabled()
        page.get_by_role("button", name=SAMPLES["chest.jpg"]).click()
        page.locator("#state:has-text('Draft finished.')").wait_for(timeout=60_000)
        assert "Only DICOM files say what they show" in page.locator("#warnings").inner_text()
