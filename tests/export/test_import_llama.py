"""System 2's language model is imported from one state_dict, or from the folders of Llama and the adapter."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import bitsandbytes
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from export.checkpoints.lora import AdapterSettings, merge_adapters
from export.checkpoints.published_weights import our_weights
from export.import_checkpoint import import_checkpoint
from prelim.archive.archive import CONFIG, WEIGHTS
from prelim.archive.model_config import ModelConfig, SpecialTokens
from prelim.decoders.weights_file import LazyTensor, read_weights
from prelim.errors import ArchiveError
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.architectures.facts import Facts
from prelim.networks.model_folder import MODEL_CARD
from tests.parity.fixture import fixture_path, read_fixture

SYSTEM = "densenet_disease_llama"
WIDTH, RANK, ALPHA = 16, 2, 6
LLAMA = {
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_theta": 5000.0,
    "max_position_embeddings": 128,
}
SETTINGS = {"lora_alpha": ALPHA, "r": RANK, "peft_type": "LORA", "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder's published file."""
    torch.manual_seed(0)
    network = ARCHITECTURES[SYSTEM].vision()
    weights = {f"densenet121.{key}": value for key, value in network.state_dict().items()}
    weights["attention_module.attention_weights"] = torch.randn(14, 49, 1)
    weights["classifier.1.weight"], weights["classifier.1.bias"] = torch.zeros(14, 14 * 1024), torch.zeros(14)
    path = tmp_path_factory.mktemp("vision") / "dense_net_121_d_e50.pth"
    torch.save(weights, path)
    return path


def llama(folder: Path, vocab_size: int = 40) -> dict[str, Tensor]:
    """Save a random Llama in shards; returns its weights."""
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **LLAMA))
    model.save_pretrained(folder, max_shard_size="8KB")
    return model.state_dict()


def adapter() -> dict[str, Tensor]:
    """Weights of an adapter, with keys like `layers.0.self_attn.q_proj.lora_A`."""
    draw = torch.Generator().manual_seed(2)
    weights = {}
    for layer in range(2):
        for name, rows in (("q_proj", WIDTH), ("v_proj", WIDTH // 2)):
            weights[f"layers.{layer}.self_attn.{name}.lora_A"] = torch.randn(RANK, WIDTH, generator=draw)
            weights[f"layers.{layer}.self_attn.{name}.lora_B"] = torch.randn(rows, RANK, generator=draw)
    return weights


def projection() -> dict[str, Tensor]:
    """The linear layer between image and language model."""
    return {"visual_projection.weight": torch.ones(WIDTH, 1024), "visual_projection.bias": torch.zeros(WIDTH)}


def save_adapter(folder: Path, settings: Mapping[str, object] = SETTINGS) -> Path:
    """Save an adapter folder like `peft`."""
    folder.mkdir()
    named = {f"base_model.model.model.{name}.weight": value for name, value in adapter().items()}
    save_file(named, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def whole(weights: Mapping[str, Tensor], base_layer: str = "base_layer.") -> dict[str, Tensor]:
    """The state_dict of the original's Model_PreCarDiv; `peft` before 0.5 had no base_layer."""
    adapted = re.compile(r"((q|v)_proj\.)weight(?=$|\.)")
    prefix = "llm_model.base_model.model."
    named = {prefix + adapted.sub(rf"\1{base_layer}weight", key): value for key, value in weights.items()}
    named |= {f"{prefix}model.{name}.default.weight": value for name, value in adapter().items()}
    return named | projection()


def import_weights(paths: list[Path], out: Path) -> dict[str, Tensor]:
    """Import checkpoints; returns the weights of the model folder."""
    import_checkpoint(SYSTEM, paths, None, out, "small")
    return read_weights(out / WEIGHTS)


def test_both_ways_give_the_same_model(vision: Path, tmp_path: Path) -> None:
    """Projection, sharded folder and adapter folder give the same weights as one state_dict."""
    weights = llama(tmp_path / "llama")
    torch.save(projection(), tmp_path / "projection.pth")
    torch.save(whole(weights), tmp_path / "checkpoint.pth")
    (tmp_path / "adapter_config.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    assert len(list((tmp_path / "llama").glob("*.safetensors"))) > 1

    parts = import_weights(
        [vision, tmp_path / "projection.pth", tmp_path / "llama", save_adapter(tmp_path / "adapter")], tmp_path / "a"
    )
    together = import_weights(
        [vision, tmp_path / "checkpoint.pth", tmp_path / "llama" / "config.json", tmp_path / "adapter_config.json"],
        tmp_path / "b",
    )

    assert parts.keys() == together.keys()
    assert all(torch.equal(value, together[key]) for key, value in parts.items())
    expected = weights["model.layers.1.self_attn.q_proj.weight"] + ALPHA / RANK * (
        adapter()["layers.1.self_attn.q_proj.lora_B"] @ adapter()["layers.1.self_attn.q_proj.lora_A"]
    )
    torch.testing.assert_close(parts["decoder.body.layers.1.self_attn.q_proj.weight"], expected)
    config = ModelConfig.read(tmp_path / "a" / CONFIG)
    assert config.decoder == ModelConfig.read(tmp_path / "b" / CONFIG).decoder
    assert (config.decoder["num_attention_heads"], config.decoder["num_key_value_heads"]) == (4, 2)
    assert config.decoder["rope_parameters"]["rope_theta"] == 5000.0


def test_old_files_load(vision: Path, tmp_path: Path) -> None:
    """A state_dict without base_layer and with rotary frequencies is read; the published alpha is used."""
    weights = llama(tmp_path / "llama")
    old = whole(weights, base_layer="")
    old["llm_model.base_model.model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    torch.save(old, tmp_path / "checkpoint.pth")

    found = import_weights([vision, tmp_path / "checkpoint.pth", tmp_path / "llama" / "config.json"], tmp_path / "out")

    expected = weights["model.layers.0.self_attn.v_proj.weight"] + 8 / RANK * (
        adapter()["layers.0.self_attn.v_proj.lora_B"] @ adapter()["layers.0.self_attn.v_proj.lora_A"]
    )
    torch.testing.assert_close(found["decoder.body.layers.0.self_attn.v_proj.weight"], expected)


def quantize_4bit(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state_dict of a Llama with 4-bit linear layers, and the dequantized weights."""
    model = LlamaForCausalLM.from_pretrained(folder)
    meant = dict(model.state_dict())
    for name, layer in list(model.model.named_modules()):
        if isinstance(layer, torch.nn.Linear):
            quantized = bitsandbytes.nn.Linear4bit(layer.in_features, layer.out_features, bias=False, quant_type="nf4")
            quantized.weight = bitsandbytes.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
            quantized = quantized.to("cpu")
            model.model.set_submodule(name, quantized)
            state = quantized.weight.quant_state
            meant[f"model.{name}.weight"] = bitsandbytes.functional.dequantize_4bit(quantized.weight, state)
    return model.state_dict(), meant


@pytest.mark.parametrize("base_layer", ["base_layer.", ""])
def test_4bit_state_dict_is_dequantized_and_merged(vision: Path, tmp_path: Path, base_layer: str) -> None:
    """A state_dict with an adapter on 4-bit layers gives their dequantized weights, merged."""
    llama(tmp_path / "llama")
    quantized, meant = quantize_4bit(tmp_path / "llama")
    paths = [vision, tmp_path / "checkpoint.pth", tmp_path / "llama" / "config.json"]
    torch.save(whole(meant, base_layer), tmp_path / "checkpoint.pth")
    expected = import_weights(paths, tmp_path / "meant")

    torch.save(whole(quantized, base_layer), tmp_path / "checkpoint.pth")
    found = import_weights(paths, tmp_path / "model")

    assert quantized["model.layers.0.mlp.up_proj.weight"].dtype == torch.uint8
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []
    assert "14 weights quantized by bitsandbytes" in (tmp_path / "model" / MODEL_CARD).read_text(encoding="utf-8")


def test_4bit_folder_is_dequantized(vision: Path, tmp_path: Path) -> None:
    """A folder of a quantized, sharded Llama gives the same weights as the dequantized state_dict."""
    llama(tmp_path / "llama")
    quantized, meant = quantize_4bit(tmp_path / "llama")
    torch.save(projection(), tmp_path / "projection.pth")
    torch.save(meant, tmp_path / "meant.pth")
    folder = tmp_path / "quantized"
    folder.mkdir()
    (tmp_path / "llama" / "config.json").rename(folder / "config.json")
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    places = {key: shards[i % 2] for i, key in enumerate(quantized)}
    for shard in shards:
        save_file({key: value for key, value in quantized.items() if places[key] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    others = [vision, tmp_path / "projection.pth"]

    found = import_weights([*others, folder], tmp_path / "a")
    expected = import_weights([*others, tmp_path / "meant.pth", folder / "config.json"], tmp_path / "b")

    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


def test_vocabulary_of_llama_gets_a_padding_token(vision: Path, tmp_path: Path) -> None:
    """32,000 tokens become 32,001; the padding token's score is the mean of all scores, so it is never the best."""
    weights = llama(tmp_path / "llama", vocab_size=32000)
    torch.save(projection(), tmp_path / "projection.pth")

    found = import_weights([vision, tmp_path / "projection.pth", tmp_path / "llama"], tmp_path / "out")

    head = found["decoder.lm_head.weight"]
    assert head.shape == found["decoder.body.embed_tokens.weight"].shape == (32001, WIDTH)
    torch.testing.assert_close(head[:-1], weights["lm_head.weight"])
    torch.testing.assert_close(head[-1], weights["lm_head.weight"].mean(0))


def test_decoder_with_another_vocabulary_has_its_own_special_tokens(vision: Path, tmp_path: Path) -> None:
    """A Llama with another vocabulary uses the special tokens of its config.json, also in prompts."""
    llama(tmp_path / "llama")
    path = tmp_path / "llama" / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps({**settings, "bos_token_id": 7, "eos_token_id": 5, "pad_token_id": None}), encoding="utf-8"
    )
    (tmp_path / "llama" / "generation_config.json").unlink()
    torch.save(projection(), tmp_path / "projection.pth")
    files = [vision, tmp_path / "projection.pth", tmp_path / "llama"]

    import_weights(files, tmp_path / "out")

    config = ModelConfig.read(tmp_path / "out" / CONFIG)
    assert config.tokenizer == SpecialTokens(bos_token_id=7, eos_token_id=5, pad_token_id=5)
    assert config.prompt is not None
    assert config.prompt.start_ids == (7,)
    path.write_text(json.dumps({**settings, "eos_token_id": [5, 6]}), encoding="utf-8")
    import_weights(files, tmp_path / "again")
    assert ModelConfig.read(tmp_path / "again" / CONFIG).tokenizer.eos_token_ids == (5, 6)
    path.write_text(json.dumps({**settings, "eos_token_id": [5, 60]}), encoding="utf-8")
    with pytest.raises(ArchiveError, match=r"eos_token_id is \[5, 60\] .* tokens below 40"):
        import_weights(files, tmp_path / "third")


def test_missing_keys_are_listed(vision: Path, tmp_path: Path) -> None:
    """A message lists all missing keys."""
    weights = whole(llama(tmp_path / "llama"))
    del weights["llm_model.base_model.model.model.norm.weight"]
    del weights["visual_projection.bias"]
    torch.save(weights, tmp_path / "checkpoint.pth")

    with pytest.raises(ArchiveError, match=r"missing: visual_projection\.bias, model\.norm\.weight"):
        import_weights([vision, tmp_path / "checkpoint.pth", tmp_path / "llama" / "config.json"], tmp_path / "out")


LAYER = {"x.weight": torch.zeros(4, 6), "x.lora_A.weight": torch.ones(2, 6), "x.lora_B.weight": torch.ones(4, 2)}


def test_adapter_keeps_the_layers_dtype() -> None:
    """A half-precision layer is merged in float32 and stays in half precision; rank-stabilized scaling is supported."""
    layer = {**LAYER, "x.weight": LAYER["x.weight"].bfloat16()}

    merged = merge_adapters(layer, AdapterSettings({"lora_alpha": 4, "use_rslora": True}, Facts()))

    lazy = merged["x.weight"]
    assert isinstance(lazy, LazyTensor)
    assert lazy.make().dtype == torch.bfloat16
    torch.testing.assert_close(lazy.make().float(), torch.full((4, 6), 4 / 2**0.5 * 2), rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"x.weight": None}, {"lora_alpha": 1}, "x needs weight, lora_A.weight and lora_B.weight"),
        ({"x.lora_B.weight": None}, {"lora_alpha": 1}, "x needs weight, lora_A.weight and lora_B.weight"),
        ({"x.lora_B.weight": torch.ones(5, 2)}, {"lora_alpha": 1}, r"lora_B \(5, 2\) .* does not fit \(4, 6\)"),
        ({}, {}, "adapter of unknown alpha"),
        ({}, {"lora_alpha": 1, "use_dora": True}, "x has no lora_magnitude_vector, but .* use_dora = True"),
        ({}, {"lora_alpha": 1, "use_qalora": True}, "use_qalora = True, which is not supported"),
    ],
)
def test_adapter_that_cannot_be_merged_is_refused(
    changes: Mapping[str, Tensor | None], settings: Mapping[str, object], message: str
) -> None:
    """An incomplete, mis-shaped or unsupported adapter is an error with the reason."""
    weights = {key: value for key, value in {**LAYER, **changes}.items() if value is not None}

    with pytest.raises(ArchiveError, match=message):
        merge_adapters(weights, AdapterSettings(settings, Facts()))


def test_keys_of_the_true_size_are_known() -> None:
    """Every key of the published state_dict maps to a key of the full-size network with the same shape."""
    fixture = read_fixture(fixture_path(2))
    entries = fixture["true_size_keys_layer0_only"] + fixture["modules"]["vision"]["state_dict"]
    published = ARCHITECTURES[SYSTEM].published
    tensors = {entry["key"]: torch.empty(entry["shape"], device="meta") for entry in entries}

    weights, ignored = our_weights(published, tensors)
    merged = merge_adapters(weights, AdapterSettings({}, Facts(), published.lora_alpha))
    shapes = {key: tuple(value.shape) for key, value in merged.items()}
    with torch.device("meta"):
        network = ARCHITECTURES[SYSTEM].build(published.dimensions(shapes, Facts()))

    assert ignored == {}
    assert shapes.keys() == network.state_dict().keys()
    different = [key for key, value in network.state_dict().items() if tuple(value.shape) != shapes[key]]
    assert different == ["connector.attention_weights"]
