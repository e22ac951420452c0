"""The plain handler does the same work as Prelim; otherwise the comparison would be invalid."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.models.random_model import write_random_model
from benchmarks.models.shapes import SHAPES, Shape, checkpoint
from benchmarks.serving.plain_handler.package import write_plain_archive
from benchmarks.serving.plain_handler.plain_handler import PlainHandler
from prelim.archive.archive import WEIGHTS
from prelim.generation.options import GenerationOptions
from prelim.images.preprocess import preprocess
from prelim.images.radiograph import read_radiograph
from prelim.networks.model_folder import read_model_folder
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.archives import write_files
from tests.tiny_model import png

_WIDTHS = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
BIOGPT = Shape("tiny", {**SHAPES["biogpt"].section, **_WIDTHS})


@pytest.fixture(scope="module")
def cross_attention(tiny_model: Path, tiny_archive: Path) -> tuple[Path, Path, Path | None]:
    """Model folder, its unpacked archive, and the decoder's checkpoint: none for a cross-attention decoder."""
    return tiny_model, tiny_archive, None


@pytest.fixture(scope="module")
def causal_lm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path | None]:
    """The same for a language model with the image as prefix."""
    folder = tmp_path_factory.mktemp("causal")
    model = write_random_model(
        folder / "tiny0",
        "biomedclip_qformer_biogpt",
        vision={"size": 32, "width": 64, "layers": 1, "heads": 1, "out_width": 16},
        connector={
            "in_width": 16,
            "out_width": 32,
            "queries": 4,
            "width": 32,
            "layers": 1,
            "heads": 2,
            "feedforward": 32,
        },
        decoder=BIOGPT,
        store=folder,
        generation={"max_new_tokens": 8},
        preprocess={"size": 32, "resize": "shortest_edge", "interpolation": "bicubic"},
    )
    weights = load_file(model / WEIGHTS)
    # Without training all images give similar features.
    weights["connector.proj.weight"] *= 30
    save_file(weights, model / WEIGHTS)
    archive = folder / "archive"
    archive.mkdir()
    write_files(read_model_folder(model), archive)
    return model, archive, checkpoint(BIOGPT, folder)


@pytest.fixture
def handler_of(tmp_path: Path) -> Callable[[tuple[Path, Path, Path | None]], PlainHandler]:
    """Makes the archive, unpacks it and loads it as TorchServe does."""

    def load(parts: tuple[Path, Path, Path | None]) -> PlainHandler:
        model, networks, weights = parts
        path = write_plain_archive(
            model, networks, tmp_path, "plain", dtype="float32", batch_size=4, checkpoint=weights
        )
        with zipfile.ZipFile(path) as packed:
            packed.extractall(tmp_path / "unpacked")
        handler = PlainHandler()
        handler.initialize(SimpleNamespace(system_properties={"model_dir": str(tmp_path / "unpacked")}))
        return handler

    return load


@pytest.mark.parametrize("kind", ["cross_attention", "causal_lm"])
def test_same_reports_as_prelim(
    kind: str, handler_of: Callable[[tuple[Path, Path, Path | None]], PlainHandler], request: pytest.FixtureRequest
) -> None:
    """In float32 pixels and token ids equal Prelim's, for a batch of reports of the same length."""
    parts = request.getfixturevalue(kind)
    handler, generator = handler_of(parts), ReportGenerator.load(parts[1], threads=1)
    images = [png(seed, side=96) for seed in range(3)]
    options = GenerationOptions(num_beams=3, min_new_tokens=7, max_new_tokens=7)
    expected = [
        report.token_ids for report in generator.generate([ReportRequest(image, options=options) for image in images])
    ]
    requests = [{"image": image, "num_beams": b"3", "max_new_tokens": b"7"} for image in images]
    batch = handler.preprocess(requests)
    radiograph = read_radiograph(images[0], generator.config.input)

    np.testing.assert_array_equal(batch[0][0], preprocess(radiograph, generator.config.preprocess))
    token_ids = handler.inference(batch)
    assert [tuple(ids) for ids in token_ids] == [tuple(ids) for ids in expected]
    assert len({tuple(ids) for ids in token_ids}) > 1
    assert [answer["num_tokens"] for answer in handler.postprocess(token_ids)] == [7, 7, 7]


def test_batch_is_written_as_long_as_its_longest(
    cross_attention: tuple[Path, Path, Path | None],
    handler_of: Callable[[tuple[Path, Path, Path | None]], PlainHandler],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each request gets its requested length from one call of `generate` for the batch."""
    handler = handler_of(cross_attention)
    calls: list[int] = []
    generate = handler.decoder.generate

    def counted(**arguments: object) -> torch.Tensor:
        calls.append(len(arguments["attention_mask"]))
        return generate(**arguments)

    monkeypatch.setattr(handler.decoder, "generate", counted)
    requests = [{"image": png(n), "num_beams": b"3", "max_new_tokens": f"{n}".encode()} for n in (3, 9)]

    assert [len(ids) for ids in handler.inference(handler.preprocess(requests))] == [3, 9]
    assert calls == [2]
