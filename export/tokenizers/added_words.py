"""Reads the words that were added to a published tokenizer, which `transformers` keeps in files of their own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from export.checkpoints.settings import read_json
from prelim.errors import ArchiveError

OLD, NEW = "added_tokens.json", "tokenizer_config.json"
ADDED_WORDS = (OLD, NEW)
"""Word -> id, and id -> word with its properties, in `added_tokens_decoder`."""

_PROPERTIES = ("lstrip", "rstrip", "single_word", "normalized")


def added_words(folder: Path) -> dict[int, AddedToken]:
    """The added words of a folder by id. Raises ArchiveError if their files cannot be read."""
    words: dict[int, AddedToken] = {}
    try:
        if (folder / OLD).is_file():
            words |= {int(i): AddedToken(word, normalized=False) for word, i in read_json(folder / OLD).items()}
        if (folder / NEW).is_file():
            listed: Mapping[str, Any] = read_json(folder / NEW).get("added_tokens_decoder") or {}
            words |= {int(i): _word(about) for i, about in listed.items()}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ArchiveError(f"{folder} has added words that cannot be read: {type(error).__name__}: {error}") from error
    return dict(sorted(words.items()))


def _word(about: Mapping[str, Any]) -> AddedToken:
    properties = {name: bool(about[name]) for name in _PROPERTIES if name in about}
    return AddedToken(about["content"], special=bool(about.get("special", False)), **properties)


def add_words(tokenizer: Tokenizer, words: Mapping[int, AddedToken], folder: Path) -> None:
    """Add words to a tokenizer, with the ids for which the decoder was trained.

    Raises ArchiveError if a word cannot have its id.
    """
    there = tokenizer.get_added_tokens_decoder()
    for i, word in words.items():
        if i in there and there[i].content == word.content:
            continue
        (tokenizer.add_special_tokens if word.special else tokenizer.add_tokens)([word])
        if tokenizer.token_to_id(word.content) != i:
            raise ArchiveError(
                f"{folder}: the added word {word.content!r} has the id {i}, but this tokenizer has "
                f"{tokenizer.get_vocab_size()} words, which gives it {tokenizer.token_to_id(word.content)}; its files "
                "are from different tokenizers"
            )
