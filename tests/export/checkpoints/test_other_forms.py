"""Weights of other libraries, and of trainings on many devices, are refused for what they are, with the way out."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed import checkpoint as distributed
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from export.checkpoints.checkpoint import read_checkpoint
from prelim.errors import ArchiveError
from tests.export.test_import_checkpoint import published
from tests.export.test_ordinary_checkpoints import State, assert_equal, expected, import_file

__all__ = ["expected", "published"]

LAYER = "model.layers.0.self_attn.q_proj"
QUANTIZED = {
    "GPTQ": ("qweight", "qzeros", "scales", "g_idx"),
    "GPTQ or AWQ": ("qweight", "qzeros", "scales"),
    "HQQ": ("W_q", "scale", "zero"),
    "AQLM": ("codes", "codebooks", "scales"),
    "QuIP#": ("Qidxs", "SU", "SV"),
    "VPTQ": ("indices", "centroids.weight"),
    "compressed-tensors": ("weight_packed", "weight_scale", "weight_shape"),
    "quanto": ("weight._data", "weight._scale"),
    "FP8, EETQ or a similar method": ("weight", "weight_scale_inv"),
    "PyTorch's own quantization": ("_packed_params._packed_params", "scale"),
}


@pytest.mark.parametrize("library", QUANTIZED)
@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_quantized_weights_are_named(library: str, name: str, tmp_path: Path) -> None:
    """By their keys, without a config.json that says so."""
    state = {f"{LAYER}.{part}": torch.ones(2) for part in QUANTIZED[library]}
    if name == "a.pth":
        torch.save({"model": state}, tmp_path / name)
    else:
        save_file(state, tmp_path / name)

    with pytest.raises(ArchiveError, match="quantized by") as raised:
        read_checkpoint(tmp_path / name)

    assert f"{LAYER}." in str(raised.value)
    assert f"quantized by {library}, which are not read here; load" in str(raised.value)


def test_layers_that_are_dictionaries(tmp_path: Path) -> None:
    """HQQ's own file has a dictionary for each layer."""
    layer = {"W_q": torch.ones(2), "meta": {"nbits": 4, "scale": torch.ones(2), "shape": torch.Size([2])}}
    torch.save({LAYER: layer, "model.norm": {"weight": torch.ones(2)}}, tmp_path / "qmodel.pt")

    with pytest.raises(ArchiveError, match=r"q_proj\.W_q is a part of weights quantized by HQQ"):
        read_checkpoint(tmp_path / "qmodel.pt")


@pytest.mark.parametrize("key", ["_flat_param", "encoder._fsdp_wrapped_module._flat_param", "flat_param_0"])
def test_flat_parameters_are_one_process_s(key: str, tmp_path: Path) -> None:
    """What FSDP saves of each process with LOCAL_STATE_DICT."""
    torch.save({key: torch.ones(9)}, tmp_path / "rank0.pt")

    with pytest.raises(ArchiveError, match=r"one process's part .*FULL_STATE_DICT"):
        read_checkpoint(tmp_path / "rank0.pt")


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_distributed_checkpoint_is_joined_first(
    published: State, expected: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folder, parts and accelerate's folder are refused, and the file that the message's command writes is equal."""
    folder = tmp_path / "checkpoint" / "pytorch_model_fsdp_0"
    distributed.save({"model": published}, checkpoint_id=folder, no_dist=True)
    part = next(folder.glob("*.distcp"))
    for given, kind in ((folder, "is a"), (part, "is a part of a"), (folder.parent, "its pytorch_model_fsdp_0 is a")):
        with pytest.raises(ArchiveError, match=f"{kind} distributed checkpoint .*format_utils dcp_to_torch FOLDER"):
            import_file(given)

    dcp_to_torch_save(folder, tmp_path / "weights.pth")

    assert_equal(import_file(tmp_path / "weights.pth"), expected)


def deepspeed(folder: Path, state: State) -> Path:
    """Write a checkpoint of DeepSpeed with ZeRO's stage 2; returns the file with the weights."""
    inner = folder / "global_step5"
    inner.mkdir(parents=True)
    (folder / "latest").write_text("global_step5")
    (folder / "zero_to_fp32.py").write_text("")
    contents = {
        "module": OrderedDict(state),
        "buffer_names": ["encoder.features.0.1.running_mean"],
        "optimizer": None,
        "param_shapes": [OrderedDict((key, value.shape) for key, value in state.items())],
        "frozen_param_shapes": None,
        "shared_params": {},
        "lr_scheduler": {"base_lrs": [1e-4], "last_epoch": 5},
        "sparse_tensor_module_names": set(),
        "ds_config": {"zero_optimization": {"stage": 2}},
        "ds_version": "0.14.4",
        "global_steps": 5,
    }
    torch.save(contents, inner / "mp_rank_00_model_states.pt")
    flat = [torch.ones(9)]
    optimizer = {"optimizer_state_dict": {"zero_stage": 2, "single_partition_of_fp32_groups": flat}}
    torch.save(optimizer, inner / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    return inner / "mp_rank_00_model_states.pt"


def test_deepspeed_is_joined_first(published: State, expected: State, tmp_path: Path) -> None:
    """Folders and the optimizer's file are refused; below stage 3 one file has the weights, and is equal."""
    weights = deepspeed(tmp_path / "a", published)
    states = weights.with_name("zero_pp_rank_0_mp_rank_00_optim_states.pt")
    for given in (weights.parent.parent, weights.parent, states):
        with pytest.raises(ArchiveError, match=r"a checkpoint of DeepSpeed; join it with the zero_to_fp32\.py"):
            import_file(given)
    with pytest.raises(ArchiveError, match="is the state of an optimizer"):
        import_file(states)

    assert_equal(import_file(weights), expected)


FOLDERS: dict[str, tuple[str, str]] = {
    "latest_checkpointed_iteration.txt": ("Megatron", "convert it to a folder of transformers"),
    "consolidated.00.pth": ("Meta's layout", "convert_llama_weights_to_hf"),
    "saved_model.pb": ("a SavedModel", r"save the Keras model as saved_model\.keras"),
    "model.ckpt.index": ("a checkpoint of TensorFlow", r"saved_model\.keras"),
    "tf_model.h5": ("a model of TensorFlow", r"model\.safetensors"),
    "flax_model.msgpack": ("a model of Flax", "from_flax=True"),
    "best.ckpt": ("has no weights: expected one of", r"; give one of its files: best\.ckpt$"),
    "training.log": ("has no weights: expected one of", "or its index$"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_other_folders_are_named(name: str, tmp_path: Path) -> None:
    """What a folder without usual weights is, or which file of it to give."""
    (tmp_path / name).touch()

    with pytest.raises(ArchiveError, match=f"{FOLDERS[name][0]}.*{FOLDERS[name][1]}"):
        read_checkpoint(tmp_path)


PLAIN: dict[str, Callable[[], Any]] = {
    "layer of that name": lambda: {"codes_embedding.weight": torch.ones(2)},
    "weight norm": lambda: {"conv.weight_g": torch.ones(2), "conv.weight_v": torch.ones(2)},
    "scale": lambda: {"norm.scale": torch.ones(2)},
}


@pytest.mark.parametrize("form", PLAIN)
def test_similar_names_are_read(form: str, tmp_path: Path) -> None:
    """Not every scale is that of quantized weights."""
    torch.save(PLAIN[form](), tmp_path / "a.pth")

    assert read_checkpoint(tmp_path / "a.pth").keys() == PLAIN[form]().keys()
