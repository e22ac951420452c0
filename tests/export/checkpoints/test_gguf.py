"""A Llama in a GGUF file is imported with its weights, settings and vocabulary."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, dequantize, quantize
from sentencepiece import SentencePieceProcessor
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from export.checkpoints.gguf_archive import read_gguf, read_gguf_settings
from export.import_checkpoint import import_checkpoint
from export.tokenizers.read import read_tokenizer
from prelim.archive.archive import CONFIG, TOKENIZER, WEIGHTS, load_tokenizer
from prelim.archive.model_config import ModelConfig
from prelim.decoders.weights_file import read_weights
from prelim.errors import ArchiveError
from prelim.networks.architectures import ARCHITECTURES

SYSTEM = "densenet_disease_llama"
WORDS = [
    *["<unk>", "<s>", "</s>"],
    *(f"<0x{i:02X}>" for i in range(256)),
    *["▁", "a", "b", "ab", "▁a", "▁ab", "<|end|>"],
]
LLAMA: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-4,
    "rope_theta": 5000.0,
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}
"""Key in `transformers` -> name in llama.cpp."""


def llama() -> dict[str, Tensor]:
    """The weights of a random Llama."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**LLAMA)).state_dict()


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """Permute rows of queries or keys as llama.cpp does: it interleaves the two halves of each head."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1)
    return halves.transpose(0, 2, 1, 3).reshape(rows.shape)


def write_gguf(
    path: Path,
    weights: Mapping[str, Tensor],
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    more: Mapping[str, Any] = {},
    architecture: str = "llama",
) -> Path:
    """Write a GGUF file like llama.cpp's converter; norms are never quantized."""
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(LLAMA["num_hidden_layers"])
    writer.add_context_length(LLAMA["max_position_embeddings"])
    writer.add_embedding_length(LLAMA["hidden_size"])
    writer.add_feed_forward_length(LLAMA["intermediate_size"])
    writer.add_head_count(LLAMA["num_attention_heads"])
    writer.add_head_count_kv(LLAMA["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(LLAMA["rms_norm_eps"])
    writer.add_rope_freq_base(LLAMA["rope_theta"])
    add_vocabulary(writer, WORDS, {WORDS.index("<|end|>")})
    writer.add_eos_token_id(WORDS.index("<|end|>"))
    writer.add_bos_token_id(1)
    for key, value in more.items():
        writer.add_string(key, value)
    for key, tensor in weights.items():
        name, rows = key, tensor.numpy()
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        if "attn_q" in name or "attn_k" in name:
            rows = interleave(rows, LLAMA["num_attention_heads" if "attn_q" in name else "num_key_value_heads"])
        stored = GGMLQuantizationType.F32 if rows.ndim == 1 else kind
        writer.add_tensor(name, quantize(np.ascontiguousarray(rows), stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_vocabulary(writer: GGUFWriter, pieces: list[str], control: set[int], scores: list[float] | None = None) -> None:
    """Add a SentencePiece vocabulary; the unknown token and the next two are special."""
    kinds = [TokenType.CONTROL if i in {1, 2} | control else TokenType.NORMAL for i in range(len(pieces))]
    kinds = [TokenType.BYTE if piece.startswith("<0x") else kind for piece, kind in zip(pieces, kinds, strict=True)]
    kinds[0] = TokenType.UNKNOWN
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_token_scores(scores or [float(-i) for i in range(len(pieces))])


def rest_of_system(path: Path, width: int = LLAMA["hidden_size"]) -> Path:
    """Write random weights of system 2's encoder and connector under the published keys."""
    torch.manual_seed(0)
    network = ARCHITECTURES[SYSTEM].vision()
    weights = {f"densenet121.{key}": value for key, value in network.state_dict().items()}
    weights["attention_module.attention_weights"] = torch.randn(14, 49, 1)
    weights["classifier.1.weight"], weights["classifier.1.bias"] = torch.zeros(14, 14 * 1024), torch.zeros(14)
    weights["visual_projection.weight"] = torch.randn(width, 1024)
    weights["visual_projection.bias"] = torch.zeros(width)
    torch.save(weights, path)
    return path


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_weights_equal_the_stored_ones(tmp_path: Path, kind: str) -> None:
    """Every tensor is restored with its name and row order, in the dtype of the file or dequantized."""
    weights = llama()
    stored = GGMLQuantizationType[kind]

    found = read_gguf(write_gguf(tmp_path / "x.gguf", weights, stored))

    assert found.keys() == weights.keys()
    for key, lazy in found.items():
        tensor = lazy.make()
        rounded = weights[key]
        if rounded.ndim > 1:
            rounded = torch.tensor(dequantize(quantize(rounded.numpy(), stored), stored))
            assert tensor.dtype == {"F16": torch.float16, "BF16": torch.bfloat16}.get(kind, torch.float32)
        assert (tuple(tensor.shape), tensor.dtype) == (lazy.shape, lazy.dtype)
        assert torch.equal(tensor.float(), rounded), key


def test_decoder_has_the_settings_and_tokens_of_the_file(tmp_path: Path) -> None:
    """A GGUF file gives system 2's heads, positions, special tokens and tokenizer; no token is added."""
    weights = llama()
    gguf = write_gguf(tmp_path / "x.gguf", weights)

    import_checkpoint(SYSTEM, [rest_of_system(tmp_path / "rest.pth"), gguf], gguf, tmp_path / "model", "small")

    config = ModelConfig.read(tmp_path / "model" / CONFIG)
    network = LlamaConfig(**{key: value for key, value in config.decoder.items() if key not in ("kind", "model_type")})
    assert network.rope_parameters["rope_theta"] == LLAMA["rope_theta"]
    named = {key: LLAMA[key] for key in LLAMA.keys() - {"rope_theta", "rms_norm_eps"}}
    assert {key: getattr(network, key) for key in named} == named
    assert network.rms_norm_eps == pytest.approx(LLAMA["rms_norm_eps"])
    end = WORDS.index("<|end|>")
    tokens = config.tokenizer
    assert (tokens.bos_token_id, tokens.eos_token_id, tokens.pad_token_id) == (1, end, end)
    assert config.prompt is not None
    assert config.prompt.start_ids == (1,)
    tokenizer = load_tokenizer(tmp_path / "model")
    assert tokenizer.get_vocab_size() == len(WORDS)
    assert tokenizer.encode("ab<|end|>", add_special_tokens=False).ids == [WORDS.index("▁ab"), end]
    assert (tmp_path / "model" / TOKENIZER).is_file()
    stored = read_weights(tmp_path / "model" / WEIGHTS)
    body = {key.removeprefix("decoder."): value for key, value in stored.items() if key.startswith("decoder.")}
    total = sum(value.double().abs().sum() for value in weights.values())
    assert sum(value.double().abs().sum() for value in body.values()) == pytest.approx(float(total))


def test_sentencepiece_of_a_gguf_file_gives_the_ids_of_the_shared_one(shared: Path, tmp_path: Path) -> None:
    """With Llama-2's pieces and scores in a GGUF file, real reports get the ids of SentencePiece."""
    source = SentencePieceProcessor(model_file=str(shared / "data" / "tokenizers" / "llama2" / "tokenizer.model"))
    count = range(source.get_piece_size())
    writer = GGUFWriter(tmp_path / "words.gguf", "llama")
    add_vocabulary(writer, [source.id_to_piece(i) for i in count], set(), [source.get_score(i) for i in count])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with (shared / "data" / "iu_xray" / "indiana_reports.csv").open(encoding="utf-8") as file:
        texts = [f"{row['findings']} {row['impression']}" for row in csv.DictReader(file)][:200]
    texts += ["émoji 🫁 中", "  two", "a\tb\n"]

    tokenizer = read_tokenizer("llama2", tmp_path / "words.gguf")

    assert [tokenizer.encode(text, add_special_tokens=False).ids for text in texts] == source.encode(texts)


@pytest.mark.parametrize(
    ("more", "architecture", "message"),
    [
        ({}, "qwen2", "has the architecture 'qwen2'; allowed: 'llama'"),
        ({"llama.rope.scaling.type": "yarn"}, "llama", r"rope\.scaling\.type = 'yarn'; allowed: 'none'"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, more: Mapping[str, str], architecture: str, message: str) -> None:
    """Another architecture or scaled positions are errors with the allowed values."""
    path = write_gguf(tmp_path / "x.gguf", {}, more=more, architecture=architecture)

    with pytest.raises(ArchiveError, match=message):
        read_gguf_settings(path)


def test_unknown_tensor_is_refused(tmp_path: Path) -> None:
    """A tensor of another network, such as the frequencies of Llama 3.1, is an error with its name."""
    gguf = write_gguf(tmp_path / "x.gguf", {**llama(), "rope_freqs.weight": torch.ones(8)})

    with pytest.raises(ArchiveError, match=r"unknown: rope_freqs\.weight"):
        import_checkpoint(SYSTEM, [rest_of_system(tmp_path / "rest.pth"), gguf], None, tmp_path / "model", "small")


@pytest.mark.parametrize("kept", [0, 4, 100, 3000, -1000])
def test_damaged_file_is_named(tmp_path: Path, kept: int) -> None:
    """A truncated file is an error with its name."""
    whole = write_gguf(tmp_path / "x.gguf", llama()).read_bytes()
    (tmp_path / "short.gguf").write_bytes(whole[:kept])

    with pytest.raises(ArchiveError, match=r"short\.gguf cannot be read as a GGUF file"):
        read_gguf(tmp_path / "short.gguf")


def test_unsupported_tokenizer_is_refused(tmp_path: Path) -> None:
    """Byte-level BPE with an unknown pre-tokenizer is an error with a solution."""
    writer = GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("unheard-of")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with pytest.raises(ArchiveError, match=r"pre 'unheard-of'.*pass the folder with its tokenizer\.json"):
        read_tokenizer("llama2", tmp_path / "x.gguf")
