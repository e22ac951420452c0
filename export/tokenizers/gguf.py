"""Converts the tokenizer of a GGUF file to the `tokenizers` library."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer, get_gguf_tokenizer
from transformers.integrations.gguf.reader import read_gguf_metadata

from export.tokenizers import llama
from prelim.errors import ArchiveError

_PREFIX = "tokenizer.ggml."
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6
"""Token types of llama.cpp."""


def gguf_tokenizer(path: Path) -> Tokenizer:
    """Read the tokenizer of a GGUF file: Llama's SentencePiece or SmolLM's byte-level BPE. It adds no special tokens.

    Raises ArchiveError if the file cannot be read, or uses another tokenizer, whose rules are not in the file.
    """
    try:
        metadata, _ = read_gguf_metadata(str(path), (f"{_PREFIX}tokens",))
    except (OSError, ValueError, struct.error) as error:
        raise ArchiveError(f"{path} cannot be read as a GGUF file: {error}") from error
    of_file = {name.removeprefix(_PREFIX): value for name, value in metadata.items() if name.startswith(_PREFIX)}
    kind = (of_file.get("model"), of_file.get("pre", "default"), of_file.get("add_space_prefix", True))
    if kind[:2] == ("gpt2", "smollm"):
        return _smollm(path)
    if kind == ("llama", "default", True):
        return _sentencepiece(of_file)
    raise ArchiveError(
        f"{path} has a tokenizer of model {kind[0]!r}, pre {kind[1]!r}, add_space_prefix {kind[2]}; supported:"
        " llama, default, True and gpt2, smollm; pass the folder with its tokenizer.json or tokenizer.model"
    )


def _smollm(path: Path) -> Tokenizer:
    architecture, vocabulary, _ = get_gguf_tokenizer(str(path))
    tokenizer, _ = convert_gguf_tokenizer(architecture, vocabulary)
    # `transformers` 5.23 splits like GPT-2; SmolLM first splits off every digit.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def _sentencepiece(of_file: Mapping[str, Any]) -> Tokenizer:
    pieces, kinds = of_file["tokens"], of_file["token_type"]
    tokenizer = llama.build_tokenizer(
        pieces,
        of_file["scores"],
        special=[i for i, kind in enumerate(kinds) if kind in {_UNKNOWN, _CONTROL}],
        single_bytes=[i for i, kind in enumerate(kinds) if kind == _BYTE],
        unknown=of_file.get("unknown_token_id", kinds.index(_UNKNOWN)),
    )
    whole = [piece for piece, kind in zip(pieces, kinds, strict=True) if kind == _USER_DEFINED]
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in whole])
    return tokenizer
