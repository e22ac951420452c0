"""Adapters in the forms in which they are saved are merged as `peft` computes them, or refused for the true reason."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from export.checkpoints.lora import adapter_name, published_layer
from prelim.errors import ArchiveError
from tests.export.test_foreign_decoders import LORA, Files, Variant, adapted, causal_lm, run, saved
from tests.export.test_foreign_decoders import WORDS as VOCABULARY
from tests.export.test_import_llama import vision

__all__ = ["vision"]

# peft 0.21 uses a name that transformers has renamed; it warns that it saves and merges tied tables.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing:FutureWarning",
    "ignore:Model has.*tie",
    "ignore:Model with.*tie",
    "ignore:Setting .save_embedding_layers.",
)

WHOLE = {"adapter.lora_alpha": 6, "decoder.num_attention_heads": 4, "decoder.rms_norm_eps": 1e-6}


def train(model: Any) -> None:
    """Change every trainable parameter."""
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or "lora_" in name:
            parameter.data += torch.randn_like(parameter) * 0.3


def tied(**config: Any) -> Callable[[Path], Files]:
    """An adapter of a model with tied embeddings; the reference is the trained model, which peft may merge wrongly."""

    def write(folder: Path) -> Files:
        model = causal_lm("llama", tie_word_embeddings=True)
        model.save_pretrained(folder / "base")
        trained = get_peft_model(model, LoraConfig(**{**LORA, **config}))
        train(trained)
        trained.save_pretrained(folder / "adapter")
        return Files([folder / "base", folder / "adapter"], trained.eval(), {})

    return write


def reversed_order(write: Callable[[Path], Files]) -> Callable[[Path], Files]:
    """The same files, the adapter first."""

    def written(folder: Path) -> Files:
        files = write(folder)
        return Files(files.paths[::-1], files.model, files.options)

    return written


def whole(*names: str, chosen: str | None = None, options: Mapping[str, Any] | None = None) -> Callable[[Path], Files]:
    """One state_dict with these adapters; the reference has the chosen one."""

    def write(folder: Path) -> Files:
        config = LoraConfig(**LORA)
        trained = get_peft_model(causal_lm("llama"), config, adapter_name=names[0])
        for name in names[1:]:
            trained.add_adapter(name, config)
        train(trained)
        state = {f"llm_model.{key}": value.clone() for key, value in trained.state_dict().items()}
        torch.save(state, folder / "whole.pth")
        trained.set_adapter(chosen or names[0])
        return Files([folder / "whole.pth"], trained.eval(), {**WHOLE, **(options or {})})

    return write


def changed(change: Callable[[dict[str, Tensor]], dict[str, Tensor]], part: str = "adapter") -> Callable[[Path], Files]:
    """Base model and adapter, one of whose weights files is changed."""

    def write(folder: Path) -> Files:
        files = adapted()(folder)
        path = next((folder / part).glob("*.safetensors"))
        save_file(change(load_file(path)), path)
        return files

    return write


def without_adapter(folder: Path) -> Files:
    """A base model and only the settings of an adapter."""
    files = adapted()(folder)
    return Files([files.paths[0], files.paths[1] / "adapter_config.json"], files.model, {})


def emptied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What DeepSpeed's ZeRO-3 leaves of weights that are saved without gathering."""
    return {key: torch.empty(0) for key in state}


def one_infinite(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a training that diverged."""
    return {
        key: value.fill_(torch.inf) if "layers.0.self_attn.q_proj.lora_B" in key else value
        for key, value in state.items()
    }


Q_PROJ = r"^model\.layers\.0\.self_attn\.q_proj "
EMBEDDINGS, HEAD = {"modules_to_save": ["embed_tokens"]}, {"modules_to_save": ["lm_head"]}
EQUAL = {
    "tied, embeddings trained": tied(**EMBEDDINGS),
    "tied, embeddings trained, adapter first": reversed_order(tied(**EMBEDDINGS)),
    "tied, head trained": tied(**HEAD),
    "tied, both trained": tied(modules_to_save=["embed_tokens", "lm_head"]),
    "tied, head adapted": tied(target_modules=["q_proj", "lm_head"]),
    "tied, kept tied": tied(**EMBEDDINGS, ensure_weight_tying=True),
    "one adapter": whole("default"),
    "one adapter with a dash": whole("chest-xray"),
    "first of two": whole("default", "second", chosen="default", options={"adapter.name": "default"}),
    "second of two": whole("default", "second", chosen="second", options={"adapter.name": "second"}),
}
REFUSED = {
    "two adapters": Variant(whole("default", "second"), "2 adapters, 'default', 'second'.*--set adapter.name=NAME"),
    "unknown adapter": Variant(
        whole("default", "second", options={"adapter.name": "third"}), "no adapter 'third'; its adapters: 'default', "
    ),
    "another rank": Variant(adapted(settings={"r": 64}), Q_PROJ + "has an adapter of rank 2, but .* gives it 64"),
    "another rank of a layer": Variant(
        adapted(settings={"rank_pattern": {"q_proj": 3}}), Q_PROJ + "has an adapter of rank 2, but .* gives it 3"
    ),
    "ZeRO-3 adapter": Variant(changed(emptied), "adapter: 8 of 8 tensors are empty.*ZeRO-3.*zero_to_fp32"),
    "ZeRO-3 base": Variant(changed(emptied, "base"), r"base: \d+ of \d+ tensors are empty.*ZeRO-3"),
    "no tensors": Variant(changed(lambda _: {}), "adapter contains no tensors"),
    "no weights": Variant(without_adapter, "no file has its weights"),
    "no lora_B": Variant(
        changed(lambda state: {key: value for key, value in state.items() if "lora_B" not in key}),
        Q_PROJ + "needs weight, lora_A.weight and lora_B.weight",
    ),
    "not finite": Variant(changed(one_infinite), Q_PROJ + "has an adapter with NaN or infinite values"),
    "int8 without scales": Variant(
        changed(lambda state: {k: v.to(torch.int8) if v.ndim == 2 else v for k, v in state.items()}, "base"),
        "int8, which needs scales",
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_merged_decoder_computes_what_peft_does(name: str, vision: Path, tmp_path: Path) -> None:
    """Logits of the import equal those of the trained model."""
    files, network = run(Variant(EQUAL[name]), vision, tmp_path)

    ids = torch.arange(12)[None] * 3 % VOCABULARY
    decoder = network.decoder
    with torch.inference_mode():
        expected: Tensor = files.model(ids).logits
        found = decoder.logits(decoder.body(input_ids=ids).last_hidden_state)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_faulty_adapter_is_refused(name: str, vision: Path, tmp_path: Path) -> None:
    """The message has the layer's own name."""
    with pytest.raises(ArchiveError, match=REFUSED[name].refused):
        run(REFUSED[name], vision, tmp_path)

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("a.q_proj.lora_A.weight", ""),
        ("a.q_proj.lora_A.default.weight", "default"),
        ("a.q_proj.lora_B.my-adapter.weight", "my-adapter"),
        ("a.q_proj.lora_B.default.bias", "default"),
        ("a.q_proj.lora_magnitude_vector", ""),
        ("a.q_proj.lora_magnitude_vector.second.weight", "second"),
        ("a.lm_head.modules_to_save.second.weight", "second"),
        ("a.embed_tokens.lora_embedding_A.default", "default"),
        ("a.q_proj.base_layer.weight", None),
        ("a.lm_head.original_module.weight", None),
    ],
)
def test_name_of_the_adapter_of_a_key(key: str, name: str | None) -> None:
    """Keys of all adapters of one layer are told apart."""
    assert adapter_name(key) == name
    if name is not None and "modules_to_save" not in key:
        assert re.fullmatch(r"a\.(q_proj|embed_tokens)", published_layer(f"llm.base_model.model.{key}"))


def renamed(folder: Path) -> Files:
    """A config.json of another name, which has nothing by which it is recognized."""
    files = saved("llama", {"model_type": None, "architectures": None})(folder)
    (folder / "decoder" / "config.json").rename(folder / "decoder" / "mine.json")
    return Files([*files.paths, folder / "decoder" / "mine.json"], files.model, {})


CONFIGS = {
    "another name": Variant(renamed, "mine.json describes no network or adapter"),
    "no model_type": Variant(saved("llama", {"model_type": None})),
    "no model_type, mistral": Variant(saved("mistral", {"model_type": None}, sliding_window=None)),
    "no model_type, gemma": Variant(
        saved("gemma", {"model_type": None}, head_dim=8), "architectures contains 'GemmaForCausalLM'"
    ),
    "neither": Variant(
        saved("llama", {"model_type": None, "architectures": None}), "neither model_type nor architectures"
    ),
    "architectures of numbers": Variant(saved("llama", {"architectures": [1]}), r"architectures is \[1\]; expected"),
    "architectures as a text": Variant(saved("llama", {"architectures": "LlamaForCausalLM"}), "expected a list"),
    "quantization as a text": Variant(saved("llama", {"quantization_config": "bnb"}), "is 'bnb'; expected an object"),
    "positions as a list": Variant(saved("llama", {"rope_parameters": [1]}), "rope_parameters is .1.; expected"),
    "positions without a factor": Variant(
        saved("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}), "rope_parameters.*factor"
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_is_used_or_refused(name: str, vision: Path, tmp_path: Path) -> None:
    """A config.json is never ignored, and never a traceback."""
    variant = CONFIGS[name]
    if variant.refused is not None:
        with pytest.raises(ArchiveError, match=variant.refused):
            run(variant, vision, tmp_path)
        return
    files, network = run(variant, vision, tmp_path)

    ids = torch.arange(12)[None] * 3 % VOCABULARY
    with torch.inference_mode():
        found = network.decoder.logits(network.decoder.body(input_ids=ids).last_hidden_state)
        torch.testing.assert_close(found, files.model(ids).logits, rtol=1e-4, atol=1e-4)
