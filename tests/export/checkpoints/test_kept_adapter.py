"""A separate low-rank adapter computes the same as a merged one, also with 4-bit layers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from export.import_checkpoint import import_checkpoint
from prelim.decoders.decoder import IMAGE
from prelim.decoders.linear import AdaptedLinear
from prelim.decoders.quantized import NF4Linear
from prelim.errors import ArchiveError
from prelim.networks.model_folder import read_network
from prelim.networks.trained_decoder import for_serving, serving_decoder
from prelim.networks.transformers_lm import TransformersLM
from tests.export.test_import_llama import RANK, SYSTEM, adapter, llama, projection, save_adapter, vision

__all__ = ["vision"]


@pytest.fixture(scope="module")
def folders(vision: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The same checkpoint, adapter kept (True) and merged (False)."""
    folder = tmp_path_factory.mktemp("kept")
    llama(folder / "llama")
    torch.save(projection(), folder / "projection.pth")
    sources = [vision, folder / "projection.pth", folder / "llama", save_adapter(folder / "adapter")]
    for keep in (True, False):
        import_checkpoint(SYSTEM, sources, None, folder / str(keep), "kept", keep_adapter=keep)
    return {keep: folder / str(keep) for keep in (True, False)}


def prefill(decoder: Any) -> Tensor:
    """Logits of the first token for two random images."""
    state = decoder.new_state(2)
    state.cache.reserve(2, 8)
    embeds = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return decoder.prefill(
            state, state.cache.prefix_places(slice(0, 2), 5), embeds, torch.tensor([[1, IMAGE, 5]] * 2)
        ).float()


def test_kept_equals_merged(folders: dict[bool, Path]) -> None:
    """In float32, kept and merged adapters give the same logits, trained or served, and the adapter has an effect."""
    kept, merged = (read_network(folders[keep])[1].decoder for keep in (True, False))
    given = torch.randn(2, 5, 16), torch.full((2, 1), IMAGE), torch.tensor([[1, 2, 3], [4, 5, 6]])

    with torch.inference_mode():
        torch.testing.assert_close(kept.teacher_forcing(*given), merged.teacher_forcing(*given), atol=1e-4, rtol=1e-4)
    expected = prefill(serving_decoder(merged))
    torch.testing.assert_close(prefill(serving_decoder(kept)), expected, atol=1e-4, rtol=1e-4)
    for layer in kept.modules():
        if hasattr(layer, "lora_B"):
            layer.lora_B.weight.zero_()
    assert not torch.allclose(prefill(serving_decoder(kept)), expected, atol=1e-2)


def test_adapters_keep_16_bits_in_nf4() -> None:
    """In nf4 the adapter is stored in 16 bits, and the result is close to the 4-bit layers plus the adapter."""
    torch.manual_seed(0)
    section = {"model_type": "llama", "vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2}
    section |= {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}
    section |= {"adapter": {"rank": 4, "layers": ["q_proj", "v_proj", "down_proj"]}, "max_position_embeddings": 64}
    decoder = TransformersLM(section)
    _, served, weights = for_serving(decoder, "nf4")
    adapted = {name: layer for name, layer in served.named_modules() if isinstance(layer, AdaptedLinear)}

    assert {name.split(".")[-1] for name in adapted} == {"qkv", "down"}
    assert all(isinstance(layer.base, NF4Linear) for layer in adapted.values())
    for name, layer in adapted.items():
        assert weights[f"{name}.down"].dtype == weights[f"{name}.up"].dtype == torch.bfloat16
        # Queries and values have an adapter each, keys have none.
        assert weights[f"{name}.down"].shape[0] == layer.down.shape[0] == (8 if name.endswith("qkv") else 4)


def test_adapters_of_different_ranks_cannot_be_kept(vision: Path, tmp_path: Path) -> None:
    """Adapters of different ranks can only be merged, and the message says so."""
    llama(tmp_path / "llama")
    torch.save(projection(), tmp_path / "projection.pth")
    wide = {f"base_model.model.model.{name}.weight": value for name, value in adapter().items()}
    first = next(iter(wide))
    wide[first] = torch.cat([wide[first]] * 2)
    other = first.replace("lora_A", "lora_B")
    wide[other] = torch.cat([wide[other]] * 2, dim=1)
    torch.save(wide, tmp_path / "adapter.bin")
    sources = [vision, tmp_path / "projection.pth", tmp_path / "llama", tmp_path / "adapter.bin"]

    with pytest.raises(ArchiveError, match=rf"ranks \[{RANK}, {2 * RANK}\] cannot be kept"):
        import_checkpoint(SYSTEM, sources, None, tmp_path / "out", "kept", keep_adapter=True)


def test_adapter_of_an_unknown_layer_is_refused() -> None:
    """A layer that the decoder lacks is an error with its name."""
    section = {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1}
    section |= {"num_attention_heads": 2, "intermediate_size": 8}

    with pytest.raises(ValueError, match="'query', which is not a linear layer"):
        TransformersLM({**section, "adapter": {"rank": 2, "layers": ["query"]}})
