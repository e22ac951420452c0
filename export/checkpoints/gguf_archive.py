"""Reads Llama models from GGUF files (llama.cpp) with the names and layout of `transformers`."""

import struct
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFReader, ReaderTensor, dequantize, get_tensor_name_map
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.gguf.reader import read_gguf_metadata
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

from prelim.decoders.weights_file import LazyTensor
from prelim.errors import ArchiveError

ARCHITECTURE = "llama"

_NEEDED = {
    "llama.block_count": "num_hidden_layers",
    "llama.embedding_length": "hidden_size",
    "llama.feed_forward_length": "intermediate_size",
    "llama.context_length": "max_position_embeddings",
    "llama.attention.head_count": "num_attention_heads",
    "llama.attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_OPTIONAL = {
    "llama.attention.head_count_kv": "num_key_value_heads",
    "llama.rope.dimension_count": "head_dim",
    "llama.rope.freq_base": "rope_theta",
    "tokenizer.ggml.bos_token_id": "bos_token_id",
    "tokenizer.ggml.eos_token_id": "eos_token_id",
    "tokenizer.ggml.padding_token_id": "pad_token_id",
}
"""GGUF metadata key -> name in config.json."""
_SCALING = "llama.rope.scaling.type"
_HALF = {GGMLQuantizationType.F16: torch.float16, GGMLQuantizationType.BF16: torch.bfloat16}


def read_gguf(path: Path) -> dict[str, LazyTensor]:
    """Read all tensors as lazy ones: float16 and bfloat16 keep their dtype, all others are dequantized to float32.

    llama.cpp permutes the rows of queries and keys, because its rotary embedding rotates adjacent elements instead of
    halves; this restores the order of `transformers`.

    returns : key of LlamaForCausalLM -> tensor; a tensor that LlamaForCausalLM lacks keeps its GGUF name

    Raises ArchiveError if the file cannot be read or has another architecture.
    """
    config = LlamaConfig(**read_gguf_settings(path))
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    order = LlamaTensorProcessor(config.to_dict())  # type: ignore[no-untyped-call]
    known = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    parts = {key: key.rpartition(".") for key in model.state_dict()}
    names = {f"{known[layer]}.{kind}": key for key, (layer, _, kind) in parts.items()}
    try:
        stored = GGUFReader(path).tensors
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise _unreadable(path, error) from error
    tensors = {}
    for tensor in stored:
        dtype = _HALF.get(tensor.tensor_type, torch.float32)
        # GGUF names the fastest dimension first.
        shape = tuple(int(side) for side in reversed(tensor.shape))
        tensors[names.get(tensor.name, tensor.name)] = LazyTensor(shape, dtype, partial(_load, tensor, order, dtype))
    return tensors


def read_gguf_settings(path: Path) -> dict[str, Any]:
    """The metadata under the names of config.json, including the ids of the special tokens.

    Raises ArchiveError as `read_gguf` does.
    """
    try:
        metadata, tensors = read_gguf_metadata(str(path))
    except (OSError, ValueError, struct.error) as error:
        raise _unreadable(path, error) from error
    architecture, scaling = metadata["general.architecture"], metadata.get(_SCALING, "none")
    if architecture != ARCHITECTURE:
        raise ArchiveError(f"{path} has the architecture {architecture!r}; allowed: {ARCHITECTURE!r}")
    if scaling != "none":
        raise ArchiveError(
            f"{path} has {_SCALING} = {scaling!r}; allowed: 'none'; import its folder with config.json and safetensors"
        )
    if missing := sorted(_NEEDED.keys() - metadata.keys()):
        raise ArchiveError(f"{path} lacks {', '.join(missing)}")
    names = {**_NEEDED, **_OPTIONAL}
    # llama.cpp scores tokens by their embeddings where a file has no output.weight.
    settings = {"model_type": ARCHITECTURE, "tie_word_embeddings": "output.weight" not in tensors}
    return {**settings, **{ours: metadata[name] for name, ours in names.items() if name in metadata}}


def _load(tensor: ReaderTensor, order: LlamaTensorProcessor, dtype: torch.dtype) -> Tensor:
    values = dequantize(tensor.data, tensor.tensor_type)
    # Copied, because tensors that are not quantized are read-only views of the file.
    ordered = order.process(values, tensor.name)  # type: ignore[no-untyped-call]
    return torch.tensor(ordered.weights, dtype=dtype)


def _unreadable(path: Path, error: Exception) -> ArchiveError:
    return ArchiveError(f"{path} cannot be read as a GGUF file: {error}")
