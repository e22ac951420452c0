"""Checkpoints in the forms in which training scripts save them are imported, or refused for the true reason."""

import argparse
import datetime
import decimal
import fractions
import json
import pathlib
import re
import uuid
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from export.checkpoints.checkpoint import read_checkpoint
from export.import_checkpoint import import_checkpoint
from prelim.archive.archive import WEIGHTS
from prelim.decoders.weights_file import read_weights
from prelim.errors import ArchiveError
from prelim.networks.model_folder import MODEL_CARD
from tests.export.test_import_checkpoint import published

__all__ = ["published"]

SYSTEM = "mobilenet_graph"
State = dict[str, Tensor]


def averaged(state: State) -> Any:
    """The state of torch.optim.swa_utils.AveragedModel."""
    return {"n_averaged": torch.tensor(7), **{f"module.{key}": value for key, value in state.items()}}


FORMS: dict[str, Callable[[State], Any]] = {
    "compiled": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
    "compiled part": lambda state: {key.replace("encoder.", "encoder._orig_mod."): v for key, v in state.items()},
    "sharded": lambda state: {
        key.replace("encoder.", "encoder._fsdp_wrapped_module._checkpoint_wrapped_module."): value
        for key, value in state.items()
    },
    "parallel part": lambda state: {key.replace("encoder.", "encoder.module."): value for key, value in state.items()},
    "parallel parts": lambda state: {
        "model." + re.sub(r"^(encoder|embedding|fc_out)\.", r"\1.module.", key): value for key, value in state.items()
    },
    "parallel and compiled": lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
    "lightning": lambda state: {
        "state_dict": {f"model.{key}": value for key, value in state.items()},
        "epoch": 3,
        "pytorch-lightning_version": "2.2.0",
        "hyper_parameters": {"lr": 1e-4},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
    },
    "lightning, losses and metrics": lambda state: {
        "state_dict": {
            **{f"model.{key}": value for key, value in state.items()},
            "criterion.weight": torch.ones(20),
            "val_metrics.total": torch.tensor(3),
            "ce_loss.pos_weight": torch.ones(1),
        }
    },
    "lightning, net": lambda state: {"state_dict": {f"net.{key}": value for key, value in state.items()}},
    "module": lambda state: {"module": state, "optimizer": {}},
    "net": lambda state: {"net": OrderedDict(state), "acc": 0.9, "epoch": 2},
    "model_state": lambda state: {"model_state": state},
    "weights": lambda state: {"weights": state},
    "params": lambda state: {"params": state, "epoch": 1},
    "average alone": lambda state: {"model_ema": state, "optimizer": {"state": {}, "param_groups": []}},
    "a name of their own": lambda state: {"best": {"captioner": state}, "callbacks": {"best": torch.ones(1)}},
    "nested": lambda state: {"model": {"state_dict": state}},
    "average": averaged,
    "average in a container": lambda state: {"state_dict": averaged(state)},
    "numpy scalars": lambda state: {
        "model": state,
        "loss": np.float64(0.5),
        "best": np.float32(1),
        "step": np.int64(3),
    },
    "numpy array": lambda state: {"model": state, "history": np.arange(4.0)},
    "arguments": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, out=Path("a"))},
}


def import_file(path: Path, **options: Any) -> State:
    """Import a checkpoint of system 1; returns the imported weights."""
    import_checkpoint(SYSTEM, [path], None, path.parent / "model", "small", **options)
    return read_weights(path.parent / "model" / WEIGHTS)


@pytest.fixture
def expected(published: State, tmp_path: Path) -> State:
    """What a bare state_dict is imported as."""
    (tmp_path / "bare").mkdir()
    torch.save(published, tmp_path / "bare" / "a.pth")
    return import_file(tmp_path / "bare" / "a.pth")


def assert_equal(found: State, expected: State) -> None:
    """Raise AssertionError if keys or values differ."""
    assert found.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


@pytest.mark.parametrize("form", FORMS)
def test_ordinary_forms_are_imported(form: str, published: State, expected: State, tmp_path: Path) -> None:
    """Wrappers, containers and harmless extras change nothing."""
    torch.save(FORMS[form](published), tmp_path / "a.ckpt")

    assert_equal(import_file(tmp_path / "a.ckpt"), expected)


@pytest.mark.parametrize(
    ("others", "named"),
    [
        (lambda state: {"ema": state}, "'ema'"),
        (lambda state: {"model_ema": {"state_dict": averaged(state)}, "epoch": 3}, "'model_ema'"),
        (lambda state: {"weights": state, "teacher": state}, "'teacher', 'weights'"),
        (
            lambda _: {
                "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
                "callbacks": {"a": {"b": torch.ones(1)}},
            },
            "",
        ),
    ],
)
def test_second_set_of_weights_is_named(
    others: Callable[[State], Any], named: str, published: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a file has the weights of a moving average too, the ones taken are printed and on the card."""
    torch.save({"model": published, **others(published)}, tmp_path / "a.ckpt")
    import_file(tmp_path / "a.ckpt")

    card = (tmp_path / "model" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assumption = f"assumed: the weights under 'model' of a.ckpt; it has others under {named}"
    for text in (capsys.readouterr().out, card):
        assert (assumption in text) == bool(named)
        assert ("it has others" in text) == bool(named)


def test_two_sets_without_a_usual_name_are_refused(published: State, tmp_path: Path) -> None:
    """None of them is taken by chance."""
    torch.save({"student": published, "teacher": published}, tmp_path / "a.ckpt")

    with pytest.raises(ArchiveError, match="weights under 'student', 'teacher', and none of these is a usual name"):
        import_file(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "model.", "module._orig_mod.", "module.module.", "model.module.", "model.model."),
        *("_forward_module.", "_forward_module.model.", "network._orig_mod.module."),
    ],
)
def test_wrappers_in_safetensors_are_removed(prefix: str, published: State, expected: State, tmp_path: Path) -> None:
    """Prefixes are removed whatever the file format is."""
    save_file({f"{prefix}{key}": value.contiguous() for key, value in published.items()}, tmp_path / "a.safetensors")

    assert_equal(import_file(tmp_path / "a.safetensors"), expected)


@pytest.mark.parametrize("name", ["a.pth", "a.bin", "a.safetensors"])
@pytest.mark.parametrize("kind", ["torch", "old", "safetensors"])
def test_kind_of_a_file_is_that_of_its_contents(
    kind: str, name: str, published: State, expected: State, tmp_path: Path
) -> None:
    """Files are often renamed."""
    if kind == "safetensors":
        save_file({key: value.contiguous() for key, value in published.items()}, tmp_path / name)
    else:
        torch.save(published, tmp_path / name, _use_new_zipfile_serialization=kind == "torch")

    assert_equal(import_file(tmp_path / name), expected)


def test_checksums_can_be_absent(published: State, expected: State, tmp_path: Path) -> None:
    """PyTorch has an option to leave them out."""
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        torch.save(published, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)

    assert_equal(import_file(tmp_path / "a.pth"), expected)


EXTRAS: dict[str, Any] = {
    "defaultdict": defaultdict(list, {"loss": [0.5]}),
    "deque": deque([1.0], maxlen=5),
    "date": datetime.date(2026, 1, 2),
    "time": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    "path": pathlib.PureWindowsPath("C:/data"),
    "decimal": decimal.Decimal("0.1"),
    "fraction": fractions.Fraction(1, 3),
    "uuid": uuid.UUID(int=1),
    "range": range(3),
    "frozenset": frozenset({1}),
    "type": int,
    "ellipsis": ...,
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_harmless_extras_are_skipped(extra: str, tmp_path: Path) -> None:
    """Values of the standard library next to the weights."""
    torch.save({"model": {"a": torch.ones(2)}, "extra": {"inner": EXTRAS[extra]}}, tmp_path / "a.pth")

    assert read_checkpoint(tmp_path / "a.pth").keys() == {"a"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, published: State, tmp_path: Path) -> None:
    """A single one is enough to make every report a failure."""
    key = next(key for key, tensor in published.items() if tensor.is_floating_point() and tensor.ndim > 1)
    damaged = published[key].clone()
    damaged.view(-1)[-1] = value
    torch.save(published | {key: damaged}, tmp_path / "a.pth")

    with pytest.raises(ArchiveError, match="has NaN or infinite values"):
        import_file(tmp_path / "a.pth")


def test_old_file_format_is_read(published: State, expected: State, tmp_path: Path) -> None:
    """The format of PyTorch before 1.6, which is not a zip file, is read."""
    torch.save(published, tmp_path / "a.pth", _use_new_zipfile_serialization=False)

    assert_equal(import_file(tmp_path / "a.pth"), expected)


def test_index_can_be_given_as_a_file(published: State, expected: State, tmp_path: Path) -> None:
    """An index of shards stands for its folder, and a missing shard is named."""
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    places = {key: shards[i % 2] for i, key in enumerate(published)}
    for shard in shards:
        save_file({k: v.contiguous() for k, v in published.items() if places[k] == shard}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}), encoding="utf-8")

    assert_equal(import_file(index), expected)
    assert shards[1] in (tmp_path / "model" / MODEL_CARD).read_text(encoding="utf-8")
    (tmp_path / shards[1]).unlink()
    with pytest.raises(ArchiveError, match=f"lists shards that are missing: {shards[1]}"):
        import_file(index)
