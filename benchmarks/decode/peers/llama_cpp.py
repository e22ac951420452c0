"""llama.cpp through its low-level API: greedy decoding of several images in one batch; it has no beam search."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.decode.peers.conversion import convert_once
from benchmarks.decode.peers.peer import Unsupported

_TYPES = {
    "fp32": gguf.GGMLQuantizationType.F32,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "int8_dynamic": gguf.GGMLQuantizationType.Q8_0,
    "int4_dynamic": gguf.GGMLQuantizationType.Q4_0,
}
"""Types of the matrices. Q8_0 and Q4_0 have a scale per 32 weights (8.5 and 4.5 bits per weight); activations are
quantized to 8 bits with both."""

_COLUMNS = 256
"""Columns of the cache for one image."""
_MOST_IMAGES = 8


class Peer:
    """A loop over `llama_decode` that takes the most likely token."""

    precisions = tuple(_TYPES)
    note = "same weights as GGUF; greedy only, one image or several in a batch; the prefix is given as token ids"

    def __init__(self, folder: Path, threads: int) -> None:
        self.versions = {"llama-cpp-python": version("llama-cpp-python")}
        self._folder = folder
        self._threads = threads
        self._contexts: dict[str, Any] = {}
        self._vocab_size = 0
        llama_cpp.llama_backend_init()

    def load(self, precision: str) -> None:
        """Convert and load, once."""
        if precision in self._contexts:
            return
        config = self._folder / "config.json"
        values: dict[str, Any] = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        if values.get("model_type") != "llama":
            raise Unsupported("llama.cpp does not support this decoder; it is compared on Llama")
        self._vocab_size = values["vocab_size"]
        folder = convert_once(
            self._folder, f"gguf-{precision}", lambda target: _convert(self._folder, target, precision)
        )
        model = llama_cpp.llama_model_load_from_file(
            str(folder / "model.gguf").encode(), llama_cpp.llama_model_default_params()
        )
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = _COLUMNS * _MOST_IMAGES
        settings.n_batch = settings.n_ubatch = settings.n_ctx
        settings.n_seq_max = _MOST_IMAGES
        settings.n_threads = settings.n_threads_batch = self._threads
        self._contexts[precision] = llama_cpp.llama_init_from_model(model, settings)

    def run(self, precision: str, prefixes: list[list[int]], beams: int, new_tokens: int) -> list[list[int]]:
        """Decode all prefixes as sequences of one batch."""
        if beams > 1:
            raise Unsupported("llama.cpp has no beam search")
        if len(prefixes) > _MOST_IMAGES:
            raise Unsupported(f"at most {_MOST_IMAGES} images are supported here")
        context = self._contexts[precision]
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        batch = llama_cpp.llama_batch_init(sum(map(len, prefixes)), 0, 1)
        try:
            done: list[list[int]] = [[] for _ in prefixes]
            tokens = prefixes
            for step in range(new_tokens):
                position = 0 if step == 0 else len(prefixes[0]) + step - 1
                chosen = self._step(context, batch, tokens, position)
                for one, token in zip(done, chosen, strict=True):
                    one.append(token)
                tokens = [[token] for token in chosen]
            return done
        finally:
            llama_cpp.llama_batch_free(batch)

    def _step(self, context: Any, batch: Any, tokens: list[list[int]], position: int) -> list[int]:
        """Read the tokens of every sequence, starting at `position`, and choose the next token of each."""
        i, last = 0, []
        for sequence, words in enumerate(tokens):
            for offset, word in enumerate(words):
                batch.token[i], batch.pos[i] = word, position + offset
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
                batch.logits[i] = offset == len(words) - 1
                i += 1
            last.append(i - 1)
        batch.n_tokens = i
        code = llama_cpp.llama_decode(context, batch)
        if code:
            raise Unsupported(f"llama_decode gave {code}")
        chosen = []
        for row in last:
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, row), (self._vocab_size,))
            chosen.append(int(logits.argmax()))
        return chosen


def _convert(checkpoint: Path, target: Path, precision: str) -> None:
    """Write a Llama as GGUF, without a vocabulary."""
    c = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    target.mkdir()
    writer = gguf.GGUFWriter(target / "model.gguf", "llama")
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_rope_freq_base(c["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(c["head_dim"])
    writer.add_vocab_size(c["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c["num_hidden_layers"])
    heads = {"q_proj": c["num_attention_heads"], "k_proj": c["num_key_value_heads"]}
    for key, weight in load_file(checkpoint / "model.safetensors").items():
        name = names.get_name(key, try_suffixes=(".weight",))
        if name is None:
            raise Unsupported(f"GGUF has no name for {key}")
        layer = key.split(".")[-2]
        values = _interleave(weight, heads[layer]) if layer in heads else weight
        kind = _TYPES[precision] if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(values.float().numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleave(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder a head: rotary positions rotate adjacent pairs in llama.cpp, and the two halves in `transformers`."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape).contiguous()
