"""A real language model behind a random encoder is served: from a GGUF file to fluent text over HTTP."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.models.smollm2 import IM_END, original
from export.package import write_archive
from launcher.local_server import LocalServer
from launcher.sample_radiograph import as_png, sample_radiograph
from prelim.archive.archive import load_tokenizer
from prelim.generation.options import GenerationOptions
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from prelim_client.http_client import HttpClient
from tests.smollm2 import CHAT, QUESTION, perplexity, shuffled

pytestmark = [pytest.mark.server, pytest.mark.slow]

MODEL = "smollm2"


@pytest.fixture(scope="module")
def store(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with the archive."""
    folder = tmp_path_factory.mktemp("store")
    write_archive(smollm2, folder, batching="in-flight", slots=2)
    return folder


@pytest.fixture(scope="module")
def client(store: Path) -> Iterator[HttpClient]:
    """A client of a server with nothing but this model."""
    with LocalServer(store) as server:
        server.wait_until_ready(MODEL, 600)
        yield HttpClient(server.url, server.key(), MODEL, timeout=600)


@pytest.fixture(scope="module")
def generator(store: Path, tmp_path_factory: pytest.TempPathFactory) -> ReportGenerator:
    """The same archive in this process."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(store / f"{MODEL}.mar") as archive:
        archive.extractall(folder)
    return ReportGenerator.load(folder, slots=2)


@pytest.mark.parametrize("beams", [1, 3])
def test_http_answers_as_in_process(client: HttpClient, generator: ReportGenerator, beams: int) -> None:
    """A real radiograph, as DICOM and as PNG, and a question get the same token ids over HTTP and in this process."""
    decoding = GenerationOptions(num_beams=beams, max_new_tokens=16)
    options = {"prompt": QUESTION, "num_beams": beams, "max_new_tokens": 16, "return_token_ids": True}
    images = [sample_radiograph(), as_png(sample_radiograph())]

    answers = [client.report(image, **options) for image in images]

    reports = generator.generate([ReportRequest(image=image, prompt=QUESTION, options=decoding) for image in images])
    assert [answer["token_ids"] for answer in answers] == [list(r.token_ids) for r in reports if isinstance(r, Report)]
    assert {answer["status"] for answer in answers} == {"UNVERIFIED"}


@pytest.mark.parametrize(
    "prompt",
    [
        "Repeat after me: nodule ≥5 mm, ≤3 cm, 20 µm",
        "Translate into Chinese: The lungs are clear.",
        "Write five emoji, nothing else.",
        "Écris une phrase sur l'œdème.",
    ],
)
def test_stream_is_the_report(client: HttpClient, prompt: str) -> None:
    """Characters of several tokens arrive whole, and the first words of a stop text are not sent."""
    options = {"prompt": prompt, "max_new_tokens": 32, "do_sample": True, "temperature": 1.5, "seed": 1}
    text = client.report(sample_radiograph(), **options)["report"]
    stop = text[len(text) * 2 // 3 :][:8]

    for more in ({}, {"stop": stop}):
        *pieces, answer = client.stream(sample_radiograph(), **options, **more)

        assert len(pieces) > 1
        assert "".join(piece["text"] for piece in pieces) == answer["report"]


@pytest.mark.usefixtures("smollm2_read_once")
def test_served_text_is_fluent(client: HttpClient, smollm2: Path) -> None:
    """The language model, asked without an image, takes the answer for its own words, but not the same shuffled."""
    peer, tokenizer = original(), load_tokenizer(smollm2)
    before = tokenizer.encode(f"{CHAT.before}{CHAT.after}".replace("{prompt}", QUESTION), add_special_tokens=False).ids
    with torch.inference_mode():
        written = peer.generate(
            torch.tensor([before]), max_new_tokens=48, do_sample=False, pad_token_id=IM_END, eos_token_id=IM_END
        )
    own = perplexity(peer, before, written[0, len(before) :].tolist())

    answer = client.report(sample_radiograph(), prompt=QUESTION, return_token_ids=True)

    mixed = tokenizer.encode(shuffled(answer["report"]), add_special_tokens=False).ids
    assert perplexity(peer, before, answer["token_ids"]) < 3 * own
    assert perplexity(peer, before, mixed) > 20 * perplexity(peer, before, answer["token_ids"])
