"""A checkpoint fits the system that it is imported as, or the message says what it is and what is missing."""

import re
from pathlib import Path

import pytest
import torch

from export.checkpoints.published_weights import EVERYWHERE_IGNORED
from export.import_checkpoint import import_checkpoint
from prelim.archive.archive import CONFIG, WEIGHTS
from prelim.archive.model_config import ModelConfig
from prelim.decoders.weights_file import read_weights
from prelim.errors import ArchiveError
from prelim.networks.architectures import ARCHITECTURES
from tests.export.test_import_checkpoint import published
from tests.export.test_ordinary_checkpoints import State, import_file
from tests.model_src.networks.architectures.small_biogpt import PARTS as BIOGPT_PARTS
from tests.model_src.networks.architectures.small_biogpt import small_network

__all__ = ["published"]


def system_0() -> State:
    """A state_dict of system 0 in its published names."""
    about = ARCHITECTURES["biomedclip_qformer_biogpt"].published
    return {about.published_key(key): value for key, value in small_network().state_dict().items()}


def test_checkpoint_of_another_system_is_named(published: State, tmp_path: Path) -> None:
    """The message says which system the keys are those of."""
    torch.save(system_0(), tmp_path / "a.pth")

    with pytest.raises(ArchiveError, match="is a checkpoint of biomedclip_qformer_biogpt, not of mobilenet_graph"):
        import_file(tmp_path / "a.pth")


_JOINED = {"xreport": "in_proj", "llava_rad": r"vision\..*[qkv]_proj"}


@pytest.mark.parametrize("system", ARCHITECTURES)
def test_published_keys_and_ours_are_inverse(system: str) -> None:
    """Every key of the published size has a published name, which is converted back to it."""
    about = ARCHITECTURES[system].published
    with torch.device("meta"):
        ours = ARCHITECTURES[system].build(about.size).state_dict()

    names = {key: about.published_key(key) for key in ours if "num_batches_tracked" not in key or system != "xreport"}
    # Matrices that are one in the published files, or one here.
    joined = {key for key in names if re.search(_JOINED.get(system, "$^"), key)}
    assert len(set(names.values())) == len(names) - (len(joined) * 2 // 3 if system == "llava_rad" else 0)
    assert not [name for name in names.values() for pattern in EVERYWHERE_IGNORED if re.search(pattern, name)]
    assert {key: about.our_key(name) for key, name in names.items() if key not in joined} == {
        key: key for key in names if key not in joined
    }


def test_missing_part_lists_its_keys_in_the_checkpoints_names(published: State, tmp_path: Path) -> None:
    """Everything that is missing is listed, layers of one kind on one line."""
    torch.save({key: value for key, value in published.items() if not key.startswith("embedding.")}, tmp_path / "a.pth")
    with pytest.raises(ArchiveError, match=r"missing, in the published size: embedding\.weight$"):
        import_file(tmp_path / "a.pth")

    state = {key: value for key, value in system_0().items() if "visual" not in key}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ArchiveError) as raised:
        import_checkpoint("biomedclip_qformer_biogpt", [tmp_path / "a.pth"], None, tmp_path / "model", "small")
    message = str(raised.value)
    assert "biomedclip_encoder.model.visual.trunk.blocks.{0..11}.norm1.weight" in message
    assert "biomedclip_encoder.model.visual.head.proj.weight" in message
    assert "qformer." not in message


def test_system_0_without_projection(tmp_path: Path) -> None:
    """Queries of the decoder's width need no projection."""
    parts = {**BIOGPT_PARTS, "connector": {**BIOGPT_PARTS["connector"], "width": 64, "heads": 1, "out_width": None}}
    about = ARCHITECTURES["biomedclip_qformer_biogpt"]
    torch.manual_seed(0)
    state = {about.published.published_key(k): v for k, v in about.build(parts).state_dict().items()}
    torch.save(state, tmp_path / "a.pth")

    import_checkpoint("biomedclip_qformer_biogpt", [tmp_path / "a.pth"], None, tmp_path / "model", "small")

    assert ModelConfig.read(tmp_path / "model" / CONFIG).connector["out_width"] is None
    assert not any("proj" in key for key in state if key.startswith("qformer_output"))


@pytest.mark.parametrize("saved_under", ["output_projection", "embed_tokens"])
def test_tied_weights_saved_once(saved_under: str, tmp_path: Path) -> None:
    """BioGPT's one table is found under either of its two names."""
    state = system_0()
    words = state.pop("biogpt_decoder.biogpt.embed_tokens.weight")
    key = "output_projection" if saved_under == "output_projection" else "biogpt.embed_tokens"
    torch.save({**state, f"biogpt_decoder.{key}.weight": words}, tmp_path / "a.pth")

    import_checkpoint("biomedclip_qformer_biogpt", [tmp_path / "a.pth"], None, tmp_path / "model", "small")

    assert torch.equal(read_weights(tmp_path / "model" / WEIGHTS)["decoder.body.embed_tokens.weight"], words)


def test_image_size_of_a_fork_is_that_of_its_positions(tmp_path: Path) -> None:
    """A system 0 for other images is served with their size."""
    torch.save(system_0(), tmp_path / "a.pth")

    import_checkpoint("biomedclip_qformer_biogpt", [tmp_path / "a.pth"], None, tmp_path / "model", "small")

    assert ModelConfig.read(tmp_path / "model" / CONFIG).preprocess.size == BIOGPT_PARTS["vision"]["size"] == 32
