"""MAIRA-2: a folder in its published form is imported exactly, and served reports equal `generate`."""

from pathlib import Path
from typing import Any

import pytest
import torch

from export.import_checkpoint import import_checkpoint
from prelim.errors import InputError
from prelim.generation.options import GenerationOptions
from prelim.networks.architectures.maira2 import ARCHITECTURE
from prelim.networks.model_folder import read_network
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.model_src.networks.architectures.imported_folder import import_folder, pixel_values, serve
from tests.model_src.networks.architectures.small_llava import SIDE, originals_rows
from tests.model_src.networks.architectures.small_maira2 import save_maira2, small_maira2
from tests.tiny_model import png

ASKED = "Provide a description of the findings in the radiology study in comparison to the prior frontal image."
"""The published question."""
GROUNDED = (
    f"{ASKED} Each finding should be described as a self-contained plain-text sentence. If the finding is groundable, "
    "locate the finding in the current frontal chest X-ray image, with bounding boxes indicating all locations where "
    "it can be seen in the current frontal image. Otherwise, generate just the ungrounded finding without bounding "
    "boxes."
)
"""The published question for boxes; docs/import.md has it too."""


@pytest.fixture(scope="module")
def original() -> Any:
    """The model."""
    return small_maira2()


@pytest.fixture(scope="module")
def folder(original: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of its import."""
    path = tmp_path_factory.mktemp("maira2")
    save_maira2(original, path / "checkpoint")
    return import_folder("maira2", path / "checkpoint")


@pytest.fixture(scope="module")
def generator(folder: Path) -> ReportGenerator:
    """Its archive, served."""
    return serve(folder)


def test_folder_is_imported_exactly(original: Any, folder: Path) -> None:
    """Image features and logits are those of the original."""
    _, network = read_network(folder)
    pixel_values = torch.randn(2, 3, SIDE, SIDE)
    ids = torch.arange(3, 15)[None]
    with torch.inference_mode():
        expected = torch.stack(original.model.get_image_features(pixel_values).pooler_output)
        assert (network.connector(network.vision(pixel_values)) - expected).abs().max() <= 1e-5
        logits = network.decoder.logits(network.decoder.body(input_ids=ids).last_hidden_state)
        assert (logits - original(input_ids=ids).logits).abs().max() == 0


CASES: list[tuple[tuple[str, ...], dict[str, str], dict[str, Any], list[str]]] = [
    (
        ("frontal",),
        {},
        {},
        ["Given the current frontal image only", " %s INDICATION: N/A TECHNIQUE: N/A COMPARISON: N/A"],
    ),
    (
        ("frontal", "lateral"),
        {"indication": "Cough."},
        {"num_beams": 3, "repetition_penalty": 1.3},
        [
            "Given the current frontal image",
            " and the current lateral image",
            " %s INDICATION: Cough. TECHNIQUE: N/A COMPARISON: N/A",
        ],
    ),
    (
        ("frontal", "prior"),
        {"technique": "PA.", "comparison": "None.", "prior_report": "FINDINGS: Clear.\nIMPRESSION: None."},
        {"no_repeat_ngram_size": 2},
        [
            "Given the current frontal image",
            " and the prior frontal image",
            " PRIOR_REPORT: FINDINGS: Clear. IMPRESSION: None. %s INDICATION: N/A TECHNIQUE: PA. COMPARISON: None.",
        ],
    ),
    (
        ("frontal", "lateral", "prior"),
        {},
        {"do_sample": True, "seed": 3, "num_beams": 2},
        [
            "Given the current frontal image",
            " the current lateral image",
            " and the prior frontal image",
            " PRIOR_REPORT: N/A %s INDICATION: N/A TECHNIQUE: N/A COMPARISON: N/A",
        ],
    ),
]


def test_served_reports_equal_generate(original: Any, folder: Path, generator: ReportGenerator) -> None:
    """With the words that MAIRA-2 has for its one, two or three images, in the turns of the folder's template."""
    requests, expected = [], []
    for seed, (roles, context, changed, texts) in enumerate(CASES):
        images = tuple(png(seed + i) for i in range(len(roles)))
        options = GenerationOptions(max_new_tokens=40, min_new_tokens=20, **changed)
        requests.append(ReportRequest(images=images, roles=roles, context=context, options=options))
        around = [f"You are an assistant. USER: {texts[0]}", *texts[1:-1], f"{texts[-1] % ASKED} ASSISTANT: "]
        expected.append(originals_rows(original, pixel_values(folder, images), around, options)[0])

    reports = generator.generate(requests)

    assert [list(report.token_ids) for report in reports if isinstance(report, Report)] == expected
    assert min(len({*ids}) for ids in expected) >= 10


def test_boxes_are_asked_for_by_the_prompt(original: Any, folder: Path, generator: ReportGenerator) -> None:
    """It replaces the other question, with the same words around it; the docs have the sentence."""
    options = GenerationOptions(max_new_tokens=20, min_new_tokens=20)
    around = ["You are an assistant. USER: Given the current frontal image only"]
    around += [f" {GROUNDED} INDICATION: N/A TECHNIQUE: N/A COMPARISON: N/A ASSISTANT: "]

    (report,) = generator.generate([ReportRequest(image=png(5), prompt=GROUNDED, options=options)])

    assert isinstance(report, Report)
    assert [*report.token_ids] == originals_rows(original, pixel_values(folder, [png(5)]), around, options)[0]
    docs = (Path(__file__).resolve().parents[4] / "docs" / "import.md").read_text(encoding="utf-8")
    assert GROUNDED in " ".join(docs.split())


def test_images_that_the_prompt_has_no_words_for(generator: ReportGenerator) -> None:
    """Several images need roles, and no others than the published ones."""
    assert generator.accepts == ("indication", "technique", "comparison", "prior_report", "lateral", "prior")
    (unnamed, named) = generator.generate(
        [ReportRequest(images=(png(0), png(1))), ReportRequest(images=(png(0),), context={"age": "64"})]
    )
    assert isinstance(unnamed, InputError)
    assert isinstance(named, InputError)
    assert "reads 1, or frontal, lateral, prior by their roles" in str(unnamed)


def test_template_can_be_left_out(original: Any, tmp_path: Path) -> None:
    """Then the prompt is the published one."""
    save_maira2(original, tmp_path / "checkpoint")
    arguments = ("maira2", [tmp_path / "checkpoint"], tmp_path / "checkpoint", tmp_path / "model", "maira2")

    import_checkpoint(*arguments, options={"prompt.chat_template": False})

    prompt = read_network(tmp_path / "model")[0].prompt
    assert prompt is not None
    assert (prompt.before, prompt.after, prompt.bos_token_id) == ("", " {prompt}", 1)


def test_published_size() -> None:
    """37 x 37 patches, three images of which leave room for prompt and report."""
    vision = ARCHITECTURE.published.size["vision"]
    tokens = (vision["image_size"] // 14) ** 2
    assert tokens == 1369
