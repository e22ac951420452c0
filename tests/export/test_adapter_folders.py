"""Adapter folders of `peft` are merged into the language models of systems 0 and 3."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import BioGptConfig, BioGptForCausalLM, LlamaConfig, LlamaForCausalLM

from export.import_checkpoint import import_checkpoint
from prelim.archive.archive import WEIGHTS
from prelim.decoders.weights_file import read_weights
from tests.export.test_checkpoint_fit import system_0
from tests.export.test_import_xraygpt import PARTS as XRAYGPT_PARTS
from tests.export.test_import_xraygpt import write_published
from tests.model_src.networks.architectures.small_biogpt import DECODER

# peft 0.21 uses a name that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


def save_adapter(model: Any, folder: Path) -> dict[str, Tensor]:
    """Save a trained adapter of a language model; returns the merged weights."""
    trained = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj"]))
    torch.manual_seed(2)
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.3
    trained.save_pretrained(folder)
    merged: dict[str, Tensor] = trained.merge_and_unload().state_dict()
    return merged


def assert_merged(found: dict[str, Tensor], merged: dict[str, Tensor], prefix: str) -> None:
    """Raise AssertionError if the imported language model is not the merged one."""
    names = [key for key in merged if key.startswith(prefix)]
    assert names
    for key in names:
        torch.testing.assert_close(found[f"decoder.body.{key.removeprefix(prefix)}"].float(), merged[key].float())


def test_adapter_of_biogpt(tmp_path: Path) -> None:
    """System 0: its checkpoint, and an adapter folder of its decoder."""
    state = system_0()
    torch.save(state, tmp_path / "final_model.pth")
    model = BioGptForCausalLM(BioGptConfig(**DECODER))
    prefix = "biogpt_decoder."
    loaded = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    model.load_state_dict(loaded, strict=False)
    merged = save_adapter(model, tmp_path / "adapter")

    paths = [tmp_path / "final_model.pth", tmp_path / "adapter"]
    import_checkpoint("biomedclip_qformer_biogpt", paths, None, tmp_path / "model", "small")

    assert_merged(read_weights(tmp_path / "model" / WEIGHTS), merged, "biogpt.")


def test_adapter_of_vicuna(tmp_path: Path) -> None:
    """System 3: its four files, and an adapter folder of Vicuna, wherever it is in their order."""
    paths, network = write_published(tmp_path)
    decoder = {name: value for name, value in XRAYGPT_PARTS["decoder"].items() if name not in {"kind", "model_type"}}
    model = LlamaForCausalLM(LlamaConfig(**decoder))
    model.model.load_state_dict(network.decoder.body.half().float().state_dict())
    merged = save_adapter(model, tmp_path / "adapter")

    for place in (0, len(paths)):
        out = tmp_path / f"model{place}"
        given = [*paths[:place], tmp_path / "adapter", *paths[place:]]
        import_checkpoint("xraygpt", given, None, out, "small")
        found = read_weights(out / WEIGHTS)
        names = [key for key in merged if key.startswith("model.")]
        for key in names:
            ours = found[f"decoder.body.{key.removeprefix('model.')}"].float()
            torch.testing.assert_close(ours, merged[key].half().float(), rtol=2e-3, atol=2e-3)
