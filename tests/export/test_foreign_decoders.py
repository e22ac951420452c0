"""What is not in a checkpoint's files is given by an option, printed and written as assumed, or refused by name."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from export.import_checkpoint import import_checkpoint
from prelim.errors import ArchiveError
from prelim.networks.model_folder import MODEL_CARD, read_network
from tests.export.test_import_llama import vision

__all__ = ["vision"]

# peft 0.21 uses a name that transformers has renamed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers:UserWarning"),
]

SYSTEM = "densenet_disease_llama"
WIDTH, WORDS = 32, 40
SIZE = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LORA = {"r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


def causal_lm(model_type: str, **changed: Any) -> Any:
    """A random language model of `transformers`, also in its biases and norms."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**SIZE, **changed}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if parameter.ndim == 1 else 0.0, std=0.3)
    return model.eval()


def edit(path: Path, **changed: Any) -> None:
    """Change values of a JSON file; None removes one."""
    contents = {**json.loads(path.read_text(encoding="utf-8")), **changed}
    path.write_text(json.dumps({k: v for k, v in contents.items() if v is not None}), encoding="utf-8")


@dataclass(frozen=True)
class Files:
    """The files of an import, and a reference.

    model : of `transformers` with the weights that the import must have
    """

    paths: list[Path]
    model: Any
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """One kind of checkpoint.

    write   : writes its files into a folder
    refused : pattern of the message; None: the import computes what `transformers` does
    assumed : printed and in the card, without the word `assumed`
    """

    write: Callable[[Path], Files]
    refused: str | None = None
    assumed: tuple[str, ...] = ()


def saved(model_type: str, changes: Mapping[str, Any] | None = None, **changed: Any) -> Callable[[Path], Files]:
    """A folder of `transformers`; `changes` are made to its config.json only."""

    def write(folder: Path) -> Files:
        model = causal_lm(model_type, **changed)
        model.save_pretrained(folder / "decoder")
        edit(folder / "decoder" / "config.json", **(changes or {}))
        return Files([folder / "decoder"], model, {})

    return write


def bare(model_type: str, options: Mapping[str, Any], **changed: Any) -> Callable[[Path], Files]:
    """Only the weights, without config.json."""

    def write(folder: Path) -> Files:
        model = causal_lm(model_type, **changed)
        torch.save(model.state_dict(), folder / "decoder.pth")
        return Files([folder / "decoder.pth"], model, options)

    return write


def adapted(
    change: Callable[[Any], None] | None = None,
    config: Mapping[str, Any] | None = None,
    base: str = "llama",
    settings: Mapping[str, Any] | None = None,
    *,
    keep_config: bool = True,
    options: Mapping[str, Any] | None = None,
) -> Callable[[Path], Files]:
    """Folders of a base model and a trained adapter; the reference is merged by `peft`.

    config      : of the adapter
    settings    : changes to adapter_config.json only
    keep_config : with adapter_config.json
    """

    def write(folder: Path) -> Files:
        model = causal_lm(base)
        model.save_pretrained(folder / "base")
        trained = get_peft_model(model, LoraConfig(**{**LORA, **(config or {})}))
        torch.manual_seed(2)
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.data += torch.randn_like(parameter) * 0.3
        if change is not None:
            change(trained)
        trained.save_pretrained(folder / "adapter")
        edit(folder / "adapter" / "adapter_config.json", **(settings or {}))
        if not keep_config:
            (folder / "adapter" / "adapter_config.json").unlink()
        return Files([folder / "base", folder / "adapter"], trained.merge_and_unload().eval(), options or {})

    return write


def delta(folder: Path) -> Files:
    """The difference of two models, as Vicuna v1 was published."""
    model, base = causal_lm("llama"), causal_lm("llama")
    for parameter, other in zip(model.parameters(), base.parameters(), strict=True):
        parameter.data -= other.data
    model.save_pretrained(folder / "decoder")
    return Files([folder / "decoder"], model, {})


def two_adapters(folder: Path) -> Files:
    """Two adapters of the same layers."""
    files = adapted()(folder)
    (folder / "more").mkdir()
    second = adapted()(folder / "more")
    return Files([*files.paths, second.paths[1]], files.model, {})


def float8(folder: Path) -> Files:
    """A folder with 8-bit floats, whose scales are apart."""
    files = saved("llama")(folder)
    path = folder / "decoder" / "model.safetensors"
    save_file({k: v.to(torch.float8_e4m3fn) if v.ndim == 2 else v for k, v in load_file(path).items()}, path)
    return files


def quantized(*parts: str) -> Callable[[Path], Files]:
    """A folder whose linear layers are quantized, into these tensors; nothing in config.json says so."""

    def write(folder: Path) -> Files:
        files = saved("llama")(folder)
        path = folder / "decoder" / "model.safetensors"
        weights = load_file(path)
        for key in [key for key in weights if "_proj." in key]:
            weights.pop(key)
            for part in parts:
                weights[key.replace("weight", part)] = torch.ones(4, 4, dtype=torch.int32)
        save_file(weights, path)
        return files

    return write


def by_file(write: Callable[[Path], Files]) -> Callable[[Path], Files]:
    """The weights files of folders instead of the folders."""

    def choose(folder: Path) -> Files:
        files = write(folder)
        paths = [next(path.glob("*model.safetensors")) for path in files.paths]
        return Files(paths, files.model, files.options)

    return choose


def incomplete_adapter(folder: Path) -> Files:
    """An adapter without its second layer."""
    files = adapted()(folder)
    path = folder / "adapter" / "adapter_model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if "layers.1." not in key}, path)
    return files


def stale_copy(folder: Path) -> Files:
    """Two shards, the second with zeros under the keys that the index finds in the first."""
    files = saved("llama")(folder)
    path = folder / "decoder" / "model.safetensors"
    weights = load_file(path)
    path.unlink()
    first = dict(list(weights.items())[:5])
    save_file(first, path.with_name("1.safetensors"))
    save_file(
        {**weights, **{key: torch.zeros_like(value) for key, value in first.items()}}, path.with_name("2.safetensors")
    )
    places = {key: "1.safetensors" if key in first else "2.safetensors" for key in weights}
    path.with_name("model.safetensors.index.json").write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    return files


QWEN = {"sliding_window": 4096, "max_window_layers": 2}
ASSUMED_LLAMA = (
    "decoder.model_type = 'llama'",
    "decoder.num_attention_heads = 32",
    "decoder.rms_norm_eps = 1e-05",
    "decoder.rope_theta = 10000.0",
    "decoder.hidden_act = 'silu'",
    "decoder.max_position_embeddings = 4096",
)
VARIANTS = {
    "llama": Variant(saved("llama", rope_theta=5000.0)),
    "llama with biases": Variant(saved("llama", attention_bias=True, mlp_bias=True)),
    "tied llama": Variant(saved("llama", tie_word_embeddings=True)),
    "old class name": Variant(saved("llama", {"architectures": ["LLaMAForCausalLM"]})),
    "mistral": Variant(saved("mistral", sliding_window=None)),
    "mistral with a window": Variant(saved("mistral", sliding_window=4096)),
    "mistral with wide heads": Variant(saved("mistral", head_dim=16, sliding_window=None)),
    "qwen2": Variant(saved("qwen2", **QWEN)),
    "tied qwen2": Variant(saved("qwen2", tie_word_embeddings=True, **QWEN)),
    "mistral with a short window": Variant(saved("mistral", sliding_window=5)),
    "qwen2 with short windows": Variant(saved("qwen2", use_sliding_window=True, sliding_window=5, max_window_layers=1)),
    "qwen3": Variant(saved("qwen3", head_dim=12)),
    "phi": Variant(saved("phi")),
    "phi with norms": Variant(saved("phi", qk_layernorm=True, num_key_value_heads=4, partial_rotary_factor=0.25)),
    "phi without a config": Variant(bare("phi", {}), refused="weights of a Phi.*give its config.json"),
    "tied phi": Variant(saved("phi", tie_word_embeddings=True), refused="tie_word_embeddings is True"),
    "eos as a list": Variant(saved("llama", eos_token_id=[2, 3])),
    "gemma": Variant(saved("gemma", head_dim=8), refused=r"decoder/config\.json: model_type is 'gemma'.*qwen2"),
    "granite": Variant(saved("granite"), refused="model_type is 'granite'"),
    "phi3": Variant(saved("phi3", pad_token_id=0), refused="model_type is 'phi3'"),
    "classifier": Variant(
        saved("llama", {"architectures": ["LlamaForSequenceClassification"]}), refused="LlamaForSequenceClassification"
    ),
    "own code": Variant(saved("llama", {"auto_map": {"AutoModel": "modeling.Model"}}), refused="auto_map"),
    "fp8 config": Variant(
        saved("llama", {"quantization_config": {"quant_method": "fp8"}}), refused="quant_method is 'fp8'"
    ),
    "fp8 weights": Variant(float8, refused=r"float8_e4m3fn.*16 or 32 bits"),
    "gptq": Variant(
        saved("llama", {"quantization_config": {"quant_method": "gptq"}}), refused="quant_method is 'gptq'"
    ),
    "gptq without a config": Variant(
        quantized("qweight", "qzeros", "scales", "g_idx"),
        refused=r"proj\.g_idx is a part of weights quantized by GPTQ,",
    ),
    "awq without a config": Variant(
        quantized("qweight", "qzeros", "scales"), refused=r"proj\.qweight is a part .* quantized by GPTQ or AWQ,"
    ),
    "hqq without a config": Variant(
        quantized("W_q", "scale", "zero", "nbits"), refused=r"proj\.W_q is a part .* quantized by HQQ,"
    ),
    "start beyond the vocabulary": Variant(
        saved("llama", {"bos_token_id": WORDS}), refused=f"bos_token_id is {WORDS} .* below {WORDS}.*Correct it"
    ),
    "start that is a text": Variant(saved("llama", {"bos_token_id": "1"}), refused="bos_token_id is '1'"),
    "padding beyond the vocabulary": Variant(
        saved("llama", {"pad_token_id": WORDS}), assumed=(f"pad_token_id = 2: {WORDS} is not a token below {WORDS}",)
    ),
    "another model's config": Variant(
        saved("llama", {"num_hidden_layers": 3}), refused="num_hidden_layers = 3, but the .* 2"
    ),
    "layers as a text": Variant(
        saved("llama", {"num_hidden_layers": "2"}), refused="num_hidden_layers = '2', but the weights have 2:"
    ),
    "heads that do not fit": Variant(
        saved("llama", {"num_attention_heads": 5, "head_dim": None}), refused="num_attention_heads is 5"
    ),
    "untied embeddings missing": Variant(
        saved("llama", {"tie_word_embeddings": False}, tie_word_embeddings=True), refused=r"missing: lm_head\.weight"
    ),
    "words tied wrongly": Variant(saved("llama", {"tie_word_embeddings": True}), refused="lm_head.weight differs"),
    "another activation": Variant(saved("llama", hidden_act="relu"), refused="hidden_act is 'relu'"),
    "dynamic positions": Variant(
        saved("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
        refused="rope_type 'dynamic'",
    ),
    "vicuna delta": Variant(delta, refused="delta weights"),
    "no config": Variant(
        bare(
            "llama", {}, num_attention_heads=32, num_key_value_heads=16, rms_norm_eps=1e-5, max_position_embeddings=4096
        ),
        assumed=ASSUMED_LLAMA,
    ),
    "no config, options": Variant(
        bare(
            "mistral",
            {
                f"decoder.{k}": v
                for k, v in {
                    "model_type": "mistral",
                    "num_attention_heads": 4,
                    "rms_norm_eps": 1e-6,
                    "rope_theta": 1e4,
                }.items()
            },
        ),
        assumed=("decoder.hidden_act = 'silu'", "decoder.max_position_embeddings = 4096"),
    ),
    "no config, biases": Variant(
        bare("qwen2", {"decoder.num_attention_heads": 4, "decoder.rms_norm_eps": "1e-6"}),
        assumed=("decoder.rope_theta",),
    ),
    "option of another type": Variant(
        bare("llama", {"decoder.num_attention_heads": "four"}),
        refused="--set decoder.num_attention_heads: 'four' is of another type",
    ),
    "unknown option": Variant(
        bare("llama", {"decoder.heads": 4}, num_attention_heads=32, num_key_value_heads=32),
        refused=r"--set decoder\.heads: .*decoder\.num_attention_heads",
    ),
    "lora": Variant(adapted()),
    "lora on qwen2": Variant(adapted(base="qwen2")),
    "rslora": Variant(adapted(config={"use_rslora": True})),
    "dora": Variant(adapted(config={"use_dora": True})),
    "rank_pattern": Variant(adapted(config={"rank_pattern": {"layers.0.self_attn.q_proj": 4}})),
    "alpha_pattern": Variant(adapted(config={"alpha_pattern": {"v_proj": 3, r"layers\.1\.self_attn\.q_proj": 8}})),
    "modules_to_save": Variant(adapted(config={"modules_to_save": ["lm_head", "embed_tokens"]})),
    "lora without its config": Variant(
        adapted(keep_config=False, options={"adapter.lora_alpha": 6}),
        assumed=("adapter.use_rslora = False", "adapter.init_lora_weights = True"),
    ),
    "gaussian": Variant(adapted(config={"init_lora_weights": "gaussian"})),
    "pissa": Variant(
        adapted(settings={"init_lora_weights": "pissa_niter_4"}),
        refused="init_lora_weights = 'pissa_niter_4'.*merge_and_unload",
    ),
    "olora": Variant(adapted(config={"init_lora_weights": "olora"}), refused="init_lora_weights = 'olora'"),
    "ia3": Variant(adapted(settings={"peft_type": "IA3"}), refused="peft_type = 'IA3'"),
    "invocation tokens": Variant(
        adapted(settings={"alora_invocation_tokens": [5]}), refused="alora_invocation_tokens = .*merge_and_unload"
    ),
    "adapted embeddings": Variant(
        adapted(config={"target_modules": ["q_proj", "embed_tokens"]}), refused="merge_and_unload"
    ),
    "lora with bias": Variant(adapted(settings={"lora_bias": True}), refused="lora_bias = True"),
    "lora by file": Variant(by_file(adapted())),
    "folder by file": Variant(by_file(saved("llama", rope_theta=5000.0))),
    "lora of some layers": Variant(adapted(config={"layers_to_transform": [1]})),
    "lora without a layer": Variant(incomplete_adapter, refused="a part of the adapter is missing"),
    "alpha_pattern as a list": Variant(
        adapted(settings={"alpha_pattern": ["q_proj"]}), refused="alpha_pattern = .*must map"
    ),
    "invalid pattern": Variant(
        adapted(settings={"alpha_pattern": {"q_proj(": 2}}),
        refused="a pattern in alpha_pattern that is not a regular expression",
    ),
    "stale copy in another shard": Variant(stale_copy),
    "two adapters": Variant(two_adapters, refused="is a second adapter"),
}


def run(variant: Variant, vision: Path, folder: Path) -> tuple[Files, Any]:
    """Import a variant with the rest of the system; returns its files and the imported network."""
    files = variant.write(folder)
    width = files.model.get_input_embeddings().weight.shape[1]
    rest = {"visual_projection.weight": torch.ones(width, 1024), "visual_projection.bias": torch.zeros(width)}
    torch.save(rest, folder / "projection.pth")
    paths = [vision, folder / "projection.pth", *files.paths]
    import_checkpoint(SYSTEM, paths, None, folder / "out", "small", options=files.options)
    return files, read_network(folder / "out")[1]


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.refused is None])
def test_imported_decoder_computes_what_transformers_does(
    name: str, vision: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Logits equal those of `transformers`; everything assumed is printed and in the card."""
    files, network = run(VARIANTS[name], vision, tmp_path)

    ids = torch.arange(12)[None] * 3 % WORDS
    decoder = network.decoder
    with torch.inference_mode():
        expected: Tensor = files.model(ids).logits
        found = decoder.logits(decoder.body(input_ids=ids).last_hidden_state)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    printed, card = capsys.readouterr().out, (tmp_path / "out" / MODEL_CARD).read_text(encoding="utf-8")
    for text in VARIANTS[name].assumed:
        assert f"assumed: {text}" in printed
        assert f"- assumed: {text}" in card
    named = [line for line in printed.splitlines() if line.startswith("assumed: decoder.")]
    assert bool(named) == any(text.startswith("decoder.") for text in VARIANTS[name].assumed)


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.refused])
def test_decoder_that_computes_something_else_is_refused(name: str, vision: Path, tmp_path: Path) -> None:
    """A model that this project would compute wrongly is refused by name, before anything is written."""
    with pytest.raises(ArchiveError, match=VARIANTS[name].refused):
        run(VARIANTS[name], vision, tmp_path)

    assert not (tmp_path / "out").exists()
