"""Settings are checked before anything is loaded."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prelim.archive.model_config import ModelConfig
from prelim.errors import ArchiveError, PrelimError
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.model_folder import build_network
from tests.tiny_model import png
from training.datasets.study import DatasetError
from training.network.starting_model import starting_model
from training.run.preparation import prepare
from training.settings import Settings, SettingsError, read_settings

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
CONFIG = CONFIGS / "demo.yaml"

PUBLISHED = {"mobilenet_graph": 49_566_298, "xreport": 53_942_011}
"""Parameters of the systems at their published size; Keras counts the statistics of batch norms, too."""


def test_the_command_line_changes_the_file() -> None:
    """A section.key=value override wins over the file and takes the type of its default, also inside `model`."""
    overrides = ["optimization.learning_rate=1", "run.resume=true", "freeze=vision", "model.decoder.layers=1"]
    settings = read_settings(CONFIG, overrides)
    assert (settings.optimization.learning_rate, settings.run.resume, settings.freeze) == (1.0, True, ("vision",))
    assert settings.model["decoder"]["layers"] == 1
    assert settings.model["decoder"]["width"] == 256


@pytest.mark.parametrize(
    ("override", "known"),
    [
        ("optimization.epoch=3", "'optimization.epoch'.*seed, epochs"),
        ("optimizer.epochs=3", "'optimizer'.*model, freeze, dataset"),
        ("epochs=3", "'epochs'.*model, freeze, dataset"),
    ],
)
def test_an_unknown_key_lists_the_known_ones(override: str, known: str) -> None:
    """A mistyped key is an error that names it and every key there is in its place."""
    with pytest.raises(SettingsError, match=known):
        read_settings(CONFIG, [override])


@pytest.mark.parametrize(
    "override",
    [
        *("optimization.epochs=many", "optimization.epochs=true", "optimization.schedule=sine", "auxiliary.reports=2"),
        *("dataset.sections=[1]", "freeze=3", "optimization=3", "lora.quantize=nf4", "run.dtype=int8", "seed"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(override: str) -> None:
    """A value of another type, or out of its range, is an error that names the key."""
    with pytest.raises(SettingsError, match=override.partition("=")[0]):
        read_settings(CONFIG, [override])


def test_an_unknown_key_of_the_model_lists_the_known_ones(settings: Settings) -> None:
    """`model` is checked as model.yaml is."""
    with pytest.raises(ArchiveError, match="unknown key 'sise'; known: size, channels"):
        starting_model(replace(settings, model={**settings.model, "preprocess": {"sise": 3}}), ["a report"])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_read(path: Path) -> None:
    """The committed configurations are valid, and those from random weights describe a network of the named system."""
    settings = read_settings(path)
    if not settings.start.weights:
        assert settings.model["architecture"] in (path.stem, "mobilenet_graph")


@pytest.mark.parametrize("system", ["mobilenet_graph", "xreport"])
def test_a_recipe_from_random_weights_has_the_published_size(system: str) -> None:
    """With the published vocabulary the network has as many parameters as the published one."""
    settings = read_settings(CONFIGS / f"{system}.yaml")
    words = {"mobilenet_graph": 30522, "xreport": 30523}[system]
    model = dict(settings.model) | {"decoder": {**settings.model["decoder"], "vocab_size": words, "pad_token_id": 0}}
    contents = {**ARCHITECTURES[system].published.defaults, "name": "x", "version": "1", **model}
    if "preprocess" in model:
        contents["preprocess"] = {
            **ARCHITECTURES[system].published.defaults.get("preprocess", {}),
            **model["preprocess"],
        }
    with torch.device("meta"):
        network = build_network(ModelConfig.from_mapping(contents, system))
    counted = sum(p.numel() for p in network.parameters())
    statistics = sum(b.numel() for b in network.buffers() if b.ndim)
    assert PUBLISHED[system] == counted + (statistics if system == "xreport" else 0)


def test_prompts_of_the_data_are_ignored_by_a_model_without(small: Callable[..., Settings], tmp_path: Path) -> None:
    """A recipe's own format has questions that its model does not take: they are not used, and the run says so."""
    (tmp_path / "images").mkdir()
    rows = []
    for i in range(8):
        (tmp_path / "images" / f"{i}.png").write_bytes(png(i))
        rows.append({"file": f"{i}.png", "report": f"Finding {i}.", "prompt": "What is seen?"})
    (tmp_path / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    settings = small(dataset={"format": "pairs", "path": str(tmp_path), "val_fraction": 0.0, "test_fraction": 0.0})
    counts = prepare(settings, 1, main=False).counts
    assert (counts.train, counts.val, counts.unknown) == (8, 0, 8)
    asked = small(dataset={**vars(settings.dataset), "prompts": ["Describe."]})
    with pytest.raises(SettingsError, match=r"dataset.prompts is set, but mobilenet_graph takes none"):
        prepare(asked, 1, main=False)


def test_every_error_has_one_root() -> None:
    """What the project raises on purpose can be caught as PrelimError; one mistake is one error."""
    assert issubclass(SettingsError, PrelimError)
    assert issubclass(DatasetError, PrelimError)
    for override in (
        "dataset.splits=other",
        "dataset.images=all",
        "dataset.val_fraction=1",
        "dataset.missing_images=2",
    ):
        with pytest.raises(SettingsError, match=override.partition("=")[0]):
            read_settings(CONFIG, [override])


def test_an_override_that_is_not_yaml_is_named(tmp_path: Path) -> None:
    """A question mark in a list, for instance: no traceback, but the setting and the way out."""
    path = tmp_path / "mine.yaml"
    path.write_text("dataset: {format: pairs, path: x}", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"dataset\.prompts is .* which is not YAML: .*between quotes"):
        read_settings(path, ["dataset.prompts=[What is it?]"])
    assert read_settings(path, ["dataset.prompts=['What is it?']"]).dataset.prompts == ("What is it?",)
