"""Reads the tokens that were added to a published tokenizer, which `transformers` keeps in files of their own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from export.checkpoints.settings import read_json
from prelim.errors import ArchiveError

OLD, NEW = "added_tokens.json", "tokenizer_config.json"
ADDED_TOKENS = (OLD, NEW)
"""Token -> id, and id -> token with its properties, in `added_tokens_decoder`."""

_PROPERTIES = ("lstrip", "rstrip", "single_word", "normalized")


def find_added_tokens(folder: Path) -> dict[int, AddedToken]:
    """The added tokens of a folder by id. Raises ArchiveError if their files cannot be read."""
    tokens: dict[int, AddedToken] = {}
    try:
        if (folder / OLD).is_file():
            tokens |= {int(i): AddedToken(token, normalized=False) for token, i in read_json(folder / OLD).items()}
        if (folder / NEW).is_file():
            listed: Mapping[str, Any] = read_json(folder / NEW).get("added_tokens_decoder") or {}
            tokens |= {int(i): _token(about) for i, about in listed.items()}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ArchiveError(f"{folder} has added tokens that cannot be read: {type(error).__name__}: {error}") from error
    return dict(sorted(tokens.items()))


def _token(about: Mapping[str, Any]) -> AddedToken:
    properties = {name: bool(about[name]) for name in _PROPERTIES if name in about}
    return AddedToken(about["content"], special=bool(about.get("special", False)), **properties)


def add_tokens(tokenizer: Tokenizer, tokens: Mapping[int, AddedToken], folder: Path) -> None:
    """Add tokens to a tokenizer, with the ids for which the decoder was trained.

    Raises ArchiveError if a token cannot have its id.
    """
    there = tokenizer.get_added_tokens_decoder()
    for i, token in tokens.items():
        if i in there and there[i].content == token.content:
            continue
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
        if tokenizer.token_to_id(token.content) != i:
            raise ArchiveError(
                f"{folder}: the added token {token.content!r} has the id {i}, but this tokenizer has "
                f"{tokenizer.get_vocab_size()} tokens, which gives it {tokenizer.token_to_id(token.content)}; "
                "its files are from different tokenizers"
            )
