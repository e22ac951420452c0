"""Keys under the prefixes of training scripts, and those of several networks in one state_dict."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from export.import_checkpoint import import_checkpoint
from prelim.archive.archive import CONFIG
from prelim.archive.model_config import ModelConfig
from prelim.errors import ArchiveError
from prelim.networks.model_folder import MODEL_CARD, build_network
from tests.export.test_import_checkpoint import published
from tests.export.test_ordinary_checkpoints import SYSTEM, assert_equal, expected, import_file

__all__ = ["expected", "published"]

State = dict[str, Tensor]


def under(prefix: str, state: State) -> State:
    """The state with a prefix before each key."""
    return {f"{prefix}{key}": value for key, value in state.items()}


def other(state: State) -> State:
    """Other weights of the same network."""
    return {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}


def parameters(state: State) -> State:
    """The state without the buffers of batch norms, as averages of parameters are saved."""
    return {key: value for key, value in state.items() if "running_" not in key and "num_batches" not in key}


FORMS: dict[str, tuple[Callable[[State], State], str]] = {
    "generator": (lambda state: under("generator.", state), ""),
    "two unknown wrappers": (lambda state: under("captioner.backbone.", state), ""),
    "known in unknown": (lambda state: under("captioner.model.", state), ""),
    "with a dash": (lambda state: under("my-model.", state), ""),
    "average": (
        lambda state: {**under("model.", state), **under("ema_model.", other(state))},
        "the weights under 'model.' of a.ckpt; it has others under 'ema_model.'",
    ),
    "average first": (
        lambda state: {**under("ema_model.", other(state)), **under("model.", state)},
        "the weights under 'model.' of a.ckpt; it has others under 'ema_model.'",
    ),
    "average with a counter": (
        lambda state: {
            **under("model.", state),
            **under("ema.module.", other(state)),
            "ema.n_averaged": torch.tensor(3),
        },
        "the weights under 'model.' of a.ckpt; it has others under 'ema.module.'",
    ),
    "average of parameters": (
        lambda state: {**under("net.", state), **under("shadow.", other(parameters(state)))},
        "the weights under 'net.' of a.ckpt; it has others under 'shadow.'",
    ),
    "average inside": (
        lambda state: {**under("model.", state), **under("model.ema.", other(state))},
        "the weights under 'model.' of a.ckpt; it has others under 'model.ema.'",
    ),
    "bare and wrapped": (
        lambda state: {**state, **under("module.", other(state))},
        "the weights under no prefix of a.ckpt; it has others under 'module.'",
    ),
    "wrapped and bare": (
        lambda state: {**under("module.", other(state)), **state},
        "the weights under no prefix of a.ckpt; it has others under 'module.'",
    ),
    "compiled and not": (
        lambda state: {**state, **under("_orig_mod.", other(state))},
        "the weights under no prefix of a.ckpt; it has others under '_orig_mod.'",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_one_network_of_a_state_dict_is_imported(
    form: str, published: State, expected: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under whatever prefix; copies do not count as layers, and the set that was taken is printed and on the card."""
    write, assumed = FORMS[form]
    torch.save({"state_dict": write(published)}, tmp_path / "a.ckpt")

    assert_equal(import_file(tmp_path / "a.ckpt"), expected)

    card = (tmp_path / "model" / MODEL_CARD).read_text(encoding="utf-8")
    for text in (capsys.readouterr().out, card):
        assert ("it has others under" in text) == bool(assumed)
        assert assumed in text


def test_copy_of_a_part_is_not_taken_for_it(published: State, tmp_path: Path) -> None:
    """A part under `module.` next to itself is a copy, such as an average, of which the system has no use."""
    encoder = {key: value for key, value in published.items() if key.startswith("encoder.")}
    copy = {key.replace("encoder.", "encoder.module."): value + 1 for key, value in encoder.items()}
    torch.save({**published, **copy}, tmp_path / "a.pth")

    with pytest.raises(ArchiveError, match=r"does not fit the system\. unknown: encoder\.module\."):
        import_file(tmp_path / "a.pth")


def test_two_networks_of_unusual_names_are_refused(published: State, tmp_path: Path) -> None:
    """Neither is the one that the user surely means."""
    torch.save({**under("student.", published), **under("teacher.", other(published))}, tmp_path / "a.pth")

    with pytest.raises(ArchiveError, match=r"'student\.', 'teacher\.', and none of these is a usual name"):
        import_file(tmp_path / "a.pth")


BROKEN: dict[str, Any] = {
    "decoder.heads": [0, -8, -1],
    "connector.steps": [0, -1],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BROKEN.items() for value in values])
def test_options_that_are_no_count_are_refused(name: str, value: int, published: State, tmp_path: Path) -> None:
    """PyTorch builds a network of -8 heads, which fails only when it is served."""
    torch.save(published, tmp_path / "a.pth")

    with pytest.raises(ArchiveError, match=f"--set {name}: {value}; allowed: numbers above 0"):
        import_file(tmp_path / "a.pth", options={name: value})

    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BROKEN.items() for value in values])
def test_settings_that_are_no_count_are_refused(name: str, value: int, published: State, tmp_path: Path) -> None:
    """In an edited model.yaml."""
    torch.save(published, tmp_path / "a.pth")
    import_checkpoint(SYSTEM, [tmp_path / "a.pth"], None, tmp_path / "model", "small")
    config = ModelConfig.read(tmp_path / "model" / CONFIG).to_mapping()
    part, field = name.split(".")
    config[part] = {**config[part], field: value}

    with pytest.raises(ArchiveError, match=f"{name} is {value}; allowed: integers of at least 1"):
        build_network(ModelConfig.from_mapping(config, "model.yaml"))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_integers_without_scales_are_refused(dtype: torch.dtype, published: State, tmp_path: Path) -> None:
    """Weights that were quantized, without what restores them."""
    state = {key: value.to(dtype) if value.ndim > 1 else value for key, value in published.items()}
    torch.save(state, tmp_path / "a.pth")

    with pytest.raises(ArchiveError, match=f"weight has the dtype {str(dtype)[6:]}, which needs scales"):
        import_file(tmp_path / "a.pth")


def test_two_keys_of_one_weight_are_refused(published: State, tmp_path: Path) -> None:
    """Neither silently replaces the other."""
    key = "fc_out.weight"
    torch.save({**published, "decoder.lm_head.weight": published[key] + 1}, tmp_path / "a.pth")

    with pytest.raises(ArchiveError, match=r"a\.pth: decoder\.lm_head\.weight and fc_out\.weight are the same weight"):
        import_file(tmp_path / "a.pth")
