"""Published checkpoints are imported completely or refused with the reason."""

import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from export.checkpoints.checkpoint import read_checkpoint
from export.import_checkpoint import import_checkpoint
from prelim.errors import ArchiveError
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.model_folder import read_network

OURS_TO_PUBLISHED = (
    (r"^vision\.", "encoder."),
    (r"^connector\.proj\.", "vis_proj."),
    (r"^connector\.message\.", "graph_layer.msg_linear."),
    (r"^decoder\.token_embedding\.", "embedding."),
    (r"^decoder\.position_embedding$", "pos_encoder"),
    (r"^decoder\.lm_head\.", "fc_out."),
    (r"\.self_attention\.", ".self_attn."),
    (r"\.cross_attention\.", ".multihead_attn."),
    (r"\.in_proj\.(weight|bias)$", r".in_proj_\1"),
)
PARTS = {
    "vision": {},
    "connector": {"width": 32},
    "decoder": {
        "kind": "cross_attention",
        "vocab_size": 20,
        "width": 32,
        "layers": 2,
        "heads": 8,
        "feedforward": 64,
        "max_positions": 30,
    },
}


@pytest.fixture
def published() -> dict[str, Tensor]:
    """A small checkpoint of system 1 under its published names."""
    torch.manual_seed(0)
    weights = {}
    for key, tensor in ARCHITECTURES["mobilenet_graph"].build(PARTS).state_dict().items():
        for pattern, replacement in OURS_TO_PUBLISHED:
            key = re.sub(pattern, replacement, key)  # noqa: PLW2901
        weights[key] = tensor[None] if key == "pos_encoder" else tensor
    return weights


def import_contents(contents: object, folder: Path) -> Path:
    """Import a checkpoint with these contents; returns the model folder."""
    torch.save(contents, folder / "pytorch_model.bin")
    import_checkpoint("mobilenet_graph", [folder / "pytorch_model.bin"], None, folder / "model", "small")
    return folder / "model"


@pytest.mark.parametrize("container", ["bare", "model_state_dict", "module."])
def test_dimensions_and_weights_come_from_the_checkpoint(
    published: dict[str, Tensor], tmp_path: Path, container: str
) -> None:
    """Dimensions come from the checkpoint: a bare state_dict, one next to an optimizer, or one of DataParallel."""
    contents: object = published
    if container == "model_state_dict":
        contents = {"model_state_dict": OrderedDict(published), "epoch": 3, "loss": 0.5}
    elif container == "module.":
        contents = {f"module.{key}": value for key, value in published.items()}

    config, network = read_network(import_contents(contents, tmp_path))

    assert config.decoder["layers"] == 2
    assert config.decoder["max_positions"] == 30
    assert torch.equal(network.decoder.lm_head.weight, published["fc_out.weight"])
    assert torch.equal(network.decoder.position_embedding, published["pos_encoder"][0])


def test_missing_unknown_and_misshaped_keys_are_listed(published: dict[str, Tensor], tmp_path: Path) -> None:
    """One message lists all faults of a checkpoint."""
    del published["fc_out.bias"]
    published["surprise"] = torch.zeros(3)
    published["vis_proj.bias"] = torch.zeros(7)

    with pytest.raises(ArchiveError) as raised:
        import_contents(published, tmp_path)

    message = str(raised.value)
    assert "missing: fc_out.bias;" in message
    assert "unknown: surprise;" in message
    assert "vis_proj.bias has shape (7,), expected (32,)" in message


def test_checkpoint_of_another_system_is_named(tmp_path: Path) -> None:
    """A checkpoint without the system's keys is an error with the first missing one."""
    with pytest.raises(
        ArchiveError,
        match=r"none of the 1 keys is that of mobilenet_graph or of another system here; the first is weight",
    ):
        import_contents({"weight": torch.zeros(2, 2)}, tmp_path)


class Dangerous:
    """An object whose unpickling runs code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("a checkpoint ran code",)


@pytest.mark.parametrize("contents", [Dangerous(), {"model": Dangerous()}, [1, 2], {"a": 1}])
def test_other_contents_are_refused(contents: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Code in a checkpoint is not run; contents other than a state_dict are refused."""
    torch.save(contents, tmp_path / "a.pth")

    with pytest.raises(ArchiveError, match=r"a\.pth"):
        read_checkpoint(tmp_path / "a.pth")

    assert "ran code" not in capsys.readouterr().out


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    """A file that is not a checkpoint is an ArchiveError with its name."""
    (tmp_path / "a.pth").write_bytes(b"not a checkpoint")

    with pytest.raises(ArchiveError, match=r"a\.pth is a text file, not a checkpoint"):
        read_checkpoint(tmp_path / "a.pth")
