"""`precision: auto`: the first precision that keeps what a model writes, with its figures."""

import copy
import dataclasses
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from export import choose_precision as module
from export.choose_precision import choose_by, describe
from export.package import Settled, settle_precision, write_archive
from export.reference import Reference, read_reference
from prelim.archive import encoder_config
from prelim.archive.archive import read_archive
from prelim.archive.manifest import write_manifest
from prelim.archive.model_config import ChosenPrecision, ModelConfig
from prelim.decoders.precision import FASTEST_FIRST, PRECISIONS
from prelim.errors import ArchiveError
from prelim.generation.confidence import Confidence
from prelim.kernels import GPU, family, instructions
from prelim.networks.agreement import LIMIT, RealModel
from prelim.networks.model_folder import MODEL_CARD, read_model_folder
from prelim.networks.trained_decoder import serving_decoder
from tests.benchmarks.agreement.test_agreement import language_model, tiny
from tests.tiny_model import CONFIG, png, write_tiny_model


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of three pictures."""
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(png(seed))
    return folder


def test_every_kind_of_processor_has_an_order() -> None:
    """Of the decoder and of the encoder; fp32, which changes nothing, needs no place in it."""
    families = {one.family for one in instructions.KNOWN.values()} | {"without compiled steps", GPU}
    assert families == {*FASTEST_FIRST} == {*encoder_config.FASTEST_FIRST}
    assert family() in families
    for order in FASTEST_FIRST.values():
        assert {*order} <= {*PRECISIONS} - {"fp32"}


def spoil(monkeypatch: pytest.MonkeyPatch, spoiled: set[str]) -> None:
    """Precisions that serve another model."""

    def serve(decoder: Any, precision: str = "fp32", **options: Any) -> Any:
        if precision in spoiled:
            decoder = copy.deepcopy(decoder)
            for parameter in decoder.parameters():
                parameter.copy_(parameter.roll(1, dims=0))
        return serving_decoder(decoder, precision, **options)

    monkeypatch.setattr(module, "serving_decoder", serve)


@pytest.mark.parametrize("spoiled", [0, 1, 2])
def test_the_first_that_changes_little_is_taken(monkeypatch: pytest.MonkeyPatch, spoiled: int) -> None:
    """Those before it are tried, those after it are not; fp32 if there is none."""
    order = FASTEST_FIRST[family()]
    model: RealModel = tiny(language_model())
    # Of 60 random tokens one may differ.
    monkeypatch.setattr(module, "LIMIT", 0.2)
    spoil(monkeypatch, {*order[:spoiled]})

    choice = choose_by(Reference.of(model))
    chosen = choice.chosen

    assert chosen.precision == [*order, "fp32"][min(spoiled, len(order))]
    assert [*chosen.changed] == [*order[: spoiled + 1]]
    assert all((share > 0.5) == (precision in order[:spoiled]) for precision, share in chosen.changed.items())
    # Every other one, from the first on, is for rounding.
    assert (chosen.family, chosen.images) == (family(), len(model.prefixes) // 2)
    assert "layers.0.qkv" in choice.moments


def test_a_precision_that_is_named_is_measured_and_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken whatever it changes, and the card says how much that is."""
    spoil(monkeypatch, {"int4_dynamic"})

    choice = choose_by(Reference.of(tiny(language_model())), "int4_dynamic")

    assert choice.chosen.precision == "int4_dynamic"
    assert [*choice.chosen.changed] == ["int4_dynamic"]
    assert choice.chosen.changed["int4_dynamic"] > 0.5
    assert "layers.0.qkv" in choice.moments
    assert "`int4_dynamic` was wanted for processors" in describe(choice.chosen)
    assert describe(choice.chosen).endswith("allowed for a default: 2%.")


def test_a_gpu_gets_bf16(tmp_path: Path, images: Path) -> None:
    """Where that keeps what the model writes: whoever packages the model says that it is for a GPU."""
    folder = write_tiny_model(tmp_path / "mine", dataclasses.replace(CONFIG, precision="auto"))

    settled = settle_precision(read_model_folder(folder, decoder_as_stored=True), images, GPU)

    chosen = settled.model.config.chosen_precision
    assert chosen is not None
    assert (settled.model.config.precision, chosen.family, [*chosen.changed]) == ("bf16", family("cuda:0"), ["bf16"])
    assert describe(chosen).startswith("`bf16` was chosen for processors GPU")


def test_an_archive_has_the_choice(tmp_path: Path, images: Path) -> None:
    """In model.yaml and in the card; packaging again gives the same bytes."""
    folder = write_tiny_model(tmp_path / "mine", dataclasses.replace(CONFIG, precision="auto"))
    (folder / MODEL_CARD).write_text("# Mine\n", encoding="utf-8")

    first, again = (
        write_archive(folder, tmp_path / store, batching="dynamic", slots=2, images=images).read_bytes()
        for store in ("first", "again")
    )

    assert first == again
    with zipfile.ZipFile(next((tmp_path / "first").glob("*.mar"))) as archive:
        config = ModelConfig.from_mapping(yaml.safe_load(archive.read("model.yaml")), "model.yaml")
        card = archive.read(MODEL_CARD).decode()
    chosen = config.chosen_precision
    assert chosen is not None
    assert config.precision == chosen.precision in PRECISIONS
    assert chosen.images == 1
    assert describe(chosen) in card
    assert config == ModelConfig.from_mapping(config.to_mapping(), "again")


def test_what_the_choice_needs(tmp_path: Path, images: Path) -> None:
    """Images that can be read, and no calibration for another precision."""
    folder = write_tiny_model(tmp_path / "mine", dataclasses.replace(CONFIG, precision="auto"))
    model = read_model_folder(folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ArchiveError, match="pass --images FOLDER"):
        settle_precision(model, None)
    with pytest.raises(ArchiveError, match="has 0 files"):
        read_reference(model, empty, "a test")
    (images / "text.txt").write_text("no image", encoding="utf-8")
    with pytest.raises(ArchiveError, match="--images"):
        read_reference(model, images, "a test")
    calibrated = dataclasses.replace(model, confidence=object.__new__(Confidence))
    with pytest.raises(ArchiveError, match=r"confidence\.json is of one precision"):
        settle_precision(calibrated, images)
    named = dataclasses.replace(model, config=dataclasses.replace(CONFIG, precision="bf16"))
    assert settle_precision(named, None) == Settled(named)
    # A calibration is of weights that are rounded to the nearest.
    assert settle_precision(dataclasses.replace(calibrated, config=named.config), images) == Settled(
        dataclasses.replace(calibrated, config=named.config)
    )


def test_a_choice_in_words() -> None:
    """Every precision that was tried, and what is allowed."""
    chosen = ChosenPrecision("bf16", "x86-64 with AVX512-VNNI", 3, 50, {"int8_dynamic": 0.06, "bf16": 0.02})
    assert describe(chosen) == (
        "`bf16` was chosen for processors x86-64 with AVX512-VNNI: tokens changed of 50 that fp32 writes for 3 images: "
        "int8_dynamic 6.00%, bf16 2.00%; allowed: 2%."
    )
    assert LIMIT == 0.02


def test_an_archive_is_of_one_precision(tiny_archive: Path, tmp_path: Path) -> None:
    """One that was edited is an error at its start."""
    folder = shutil.copytree(tiny_archive, tmp_path / "archive")
    config = ModelConfig.read(folder / "model.yaml")
    dataclasses.replace(config, precision="auto").write(folder / "model.yaml")
    write_manifest(folder)
    with pytest.raises(ArchiveError, match="precision is auto; an archive has one"):
        read_archive(folder)
