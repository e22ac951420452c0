"""What each token adds to the text of a report, as bytes, by what is written before it.

A tokenizer's decoder rewrites text: it drops the space before a stop and those around a hyphen. Here that is done token
by token: what a token adds depends on the last character of the text, of which there are a few kinds. Tokens whose
addition would depend on later tokens too, such as an apostrophe in BERT's vocabulary, are never written under a
grammar, and neither are those that add nothing. So the text under a grammar is known after every token.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from prelim.generation.text_stream import DecoderStep, decoder_steps, library_decoder
from prelim.generation.token_text import Piece, TokenTexts, UnknownDecoder, split_steps

END, NEVER = 0, 1
"""Strings that stand for the end of the text, and for all tokens that are not written."""

_PROBES = (" x", " \u5fc3", " -", " .", "x")
"""What follows a character, to find out whether a decoder joins them."""

_WORD = re.compile("[A-Za-z0-9]+")
_CLOSING = frozenset(".,:;?!%")
"""Signs that BioGPT's rules join to the word before, whatever follows."""


class WrittenTokens:
    """The tokens of one tokenizer as strings of bytes.

    strings : all that tokens add in any context; the first two are END and NEVER

    vocab_size : of the decoder; None: that of the tokenizer
    marks      : tokens that are not written

    Raises UnknownDecoder.
    """

    start = 0
    """The context at the beginning of a text."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        eos_token_ids: Sequence[int],
        vocab_size: int | None = None,
        marks: Collection[str] = (),
    ) -> None:
        texts = TokenTexts(tokenizer, vocab_size, dict.fromkeys(marks))
        contexts = _word_contexts(texts) if texts.words_only else _contexts(texts, _of_text(tokenizer))
        numbers = {b"<end>": END, b"<never>": NEVER}
        self._strings: list[NDArray[np.int64]] = []
        places_after: list[NDArray[np.int64]] = []
        for added in contexts:
            strings = np.full(len(added), NEVER, dtype=np.int64)
            after = np.zeros(len(added), dtype=np.int64)
            for token_id, entry in enumerate(added):
                if entry is not None:
                    strings[token_id] = numbers.setdefault(entry[0], len(numbers))
                    after[token_id] = entry[1]
            strings[[token_id for token_id in eos_token_ids if token_id < len(added)]] = END
            self._strings.append(strings)
            places_after.append(after)
        self.strings = tuple(numbers)
        # Of these single numbers are read, which are Python's own.
        self._string_numbers = [strings.data for strings in self._strings]
        self._contexts_after = [after.data for after in places_after]

    def string_of(self, context: int, token_id: int) -> int:
        """The string of one token in a context; NEVER for ids that the tokenizer does not know."""
        numbers = self._string_numbers[context]
        return numbers[token_id] if token_id < len(numbers) else NEVER

    def strings_in(self, context: int) -> NDArray[np.int64]:
        """The string of every token in a context, shape (tokens,)."""
        return self._strings[context]

    def after(self, context: int, token_id: int) -> int:
        """The context after a token that is a string in this one."""
        return self._contexts_after[context][token_id]


Added = tuple[bytes, int] | None
"""What a token adds and the context after it; None if it is not written."""


def _of_text(tokenizer: Tokenizer) -> list[DecoderStep]:
    return split_steps(decoder_steps(json.loads(tokenizer.to_str())["decoder"]))[1]


def _contexts(texts: TokenTexts, steps: Sequence[DecoderStep]) -> Iterator[list[Added]]:
    """What the tokens add at the beginning of a text, and then after each kind of last character."""
    rewrite = library_decoder(steps) if steps else None
    joins = any(step["type"] not in ("Fuse", "Strip") for step in steps)
    signs = _joined_signs(steps)

    def written(before: str, piece: Piece) -> bytes | None:
        """What a piece adds after a character, None if that is nothing or what follows decides on it."""
        text = _decode(piece) if isinstance(piece, bytes) else piece
        if text is None and isinstance(piece, bytes):
            return None if joins else piece
        if not text or signs.intersection(text) or (joins and text != text.rstrip()):
            return None
        whole = rewrite.decode([before + text]) if rewrite is not None and (joins or not before) else before + text
        return whole[len(before) :].encode() or None if whole.startswith(before) else None

    kinds = _Kinds(lambda text: rewrite.decode([text]) if rewrite is not None and joins else text)
    first = [written("", piece) for piece in texts.first]
    yield [None if addition is None else (addition, kinds.of(addition)) for addition in first]
    done = 0
    while done < len(kinds.examples):
        later = [written(kinds.examples[done], piece) for piece in texts.later]
        yield [None if addition is None else (addition, kinds.of(addition)) for addition in later]
        done += 1


def _decode(piece: bytes) -> str | None:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None


class _Kinds:
    """Numbers of the contexts after last characters that a decoder treats alike; 0 is the beginning of a text.

    examples : a character of each kind found so far, in the order of their numbers from 1
    """

    def __init__(self, rewrite: Callable[[str], str]) -> None:
        self.examples: list[str] = []
        self._rewrite = rewrite
        self._numbers: dict[tuple[str, ...], int] = {}
        self._of_characters: dict[str, int] = {}

    def of(self, text: bytes) -> int:
        """The number of the kind of the last character."""
        last = text.decode(errors="replace")[-1]
        if last not in self._of_characters:
            joined = tuple(self._rewrite(last + probe).removeprefix(last) for probe in _PROBES)
            if joined not in self._numbers:
                self._numbers[joined] = len(self._numbers) + 1
                self.examples.append(last)
            self._of_characters[last] = self._numbers[joined]
        return self._of_characters[last]


def _joined_signs(steps: Sequence[DecoderStep]) -> frozenset[str]:
    """Signs that a decoder replaces together with what several tokens can write. Raises UnknownDecoder."""
    signs: set[str] = set()
    for step in steps:
        if step["type"] == "Replace" and (found := step["pattern"].get("String")):
            if len(found) == 2 and found[0] == " " and not found[1].isalnum() and step["content"] == found[1]:
                continue
            inside = {c for c in found if not c.isalnum() and not c.isspace()}
            if not inside:
                raise UnknownDecoder(f"its decoder replaces {found!r:.40}")
            signs |= inside
    return frozenset(signs)


def _word_contexts(texts: TokenTexts) -> Iterator[list[Added]]:
    """As `_contexts`, for BioGPT's rules: whether the text so far has a space after it, which no text ends with."""
    for context in (0, 1):
        yield [_word(piece, bool(context)) for piece in texts.later]


def _word(piece: Piece, spaced: bool) -> Added:
    if not isinstance(piece, str):
        return None
    word, ends = piece.removesuffix(" "), piece.endswith(" ")
    if _WORD.fullmatch(word):
        return (" " * spaced + word).encode(), int(ends)
    return (word.encode(), 1) if spaced and ends and word in _CLOSING else None
