"""Phrases that a text must not contain: which tokens are forbidden after those so far.

After every token the text so far has none of the phrases at the limits of words, in whatever tokens it is written. So
a phrase can neither be completed nor be the beginning of a longer word that later tokens would complete: no search is
led into it and must then get out. docs/decisions/0033-banned-phrases.md
"""

import codecs
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from prelim.errors import InvalidOption
from prelim.generation.options import GenerationOptions
from prelim.generation.phrase_automaton import Characters, Strings
from prelim.generation.token_text import BAR, BROKEN, Piece, TokenTexts, UnknownDecoder, canonical, fold, is_word

NAME = "banned_phrases"

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")

_STEPS = 4096
"""Steps from a place by a token that are kept for each list."""

_COMPILED = 8
"""Lists of phrases that are kept; one of the longest takes 4 MB."""


@dataclass(frozen=True)
class Place:
    """How far the text of one row has come.

    state   : of the characters so far
    pending : bytes of a character that is not complete
    run     : state before a run of bytes that may turn out not to be UTF-8, None outside of one
    broken  : the run is not UTF-8
    empty   : there is no text yet
    """

    state: int
    pending: bytes = b""
    run: int | None = None
    broken: bool = False
    empty: bool = True


class Ban:
    """The automaton of one list of phrases over the tokens of one tokenizer."""

    def __init__(self, texts: "Vocabulary", patterns: Iterable[str]) -> None:
        self._texts = texts
        self._characters = Characters(patterns)
        self._banned: dict[Place, Tensor] = {}
        self._sets: dict[bytes, Tensor] = {}
        self._advance = lru_cache(_STEPS)(self._read)

    @property
    def start(self) -> Place:
        """The place of an empty text."""
        return Place(self._characters.start)

    def advance(self, place: Place, token_id: int) -> Place:
        """The place after one more token."""
        return self._advance(place, token_id)

    def _read(self, place: Place, token_id: int) -> Place:
        return self._step(place, self._texts.piece(token_id, first=place.empty))[0]

    def banned(self, place: Place) -> Tensor:
        """Tokens that would complete a phrase, int64, shape (tokens,). Computed once for each place.

        Places with the same tokens share one tensor.
        """
        found = self._banned.get(place)
        if found is None:
            tokens = self._find(place)
            found = self._banned[place] = self._sets.setdefault(tokens.tobytes(), torch.from_numpy(tokens))
        return found

    def _find(self, place: Place) -> np.ndarray:
        strings, others = self._texts.strings(first=place.empty)
        hit = self._characters.hits(self._settle(place), strings)
        pieces = ((i, self._texts.piece(i, first=place.empty)) for i in others)
        single = [i for i, piece in pieces if self._step(place, piece)[1]]
        return np.sort(np.concatenate([strings.order[hit], np.array(single, dtype=np.int64)]))

    def _settle(self, place: Place) -> int:
        """The state if what follows is text, which ends a run of bytes and an incomplete character."""
        if place.run is not None and (place.broken or place.pending):
            return self._characters.read(place.run, BROKEN)[0]
        return self._characters.read(place.state, BROKEN)[0] if place.pending else place.state

    def _step(self, place: Place, piece: Piece) -> tuple[Place, bool]:
        """The place after a piece, and whether the text so far has a phrase then."""
        if not piece:
            return place, False
        if isinstance(piece, str):
            state, hit = self._characters.read(self._settle(place), piece)
            return Place(state, empty=False), hit
        text, pending, wrong = _decode(place.pending, piece)
        state, hit = self._characters.read(place.state, text)
        if not self._texts.byte_runs:
            return Place(state, pending, empty=False), hit
        run = place.state if place.run is None else place.run
        broken = place.broken or wrong
        # Whatever the whole run becomes in the end, now it is BROKEN unless all of it is UTF-8.
        hit = False if broken or pending else hit
        return Place(run if broken else state, b"" if broken else pending, run, broken, empty=False), hit


def _decode(pending: bytes, data: bytes) -> tuple[str, bytes, bool]:
    """The characters of UTF-8, what is left of an incomplete one at the end, and whether any byte is wrong."""
    wrong, decoder = False, _Utf8Decoder()
    try:
        text = decoder.decode(pending + data)
    except UnicodeDecodeError:
        wrong, decoder = True, _Utf8Decoder("replace")
        text = decoder.decode(pending + data)
    left, _ = decoder.getstate()
    return text, left, wrong


class Vocabulary:
    """The tokens of one tokenizer as strings, made when they are first wanted."""

    def __init__(self, texts: TokenTexts) -> None:
        self._texts = texts
        self._strings: dict[bool, tuple[Strings, tuple[int, ...]]] = {}

    @property
    def byte_runs(self) -> bool:
        """See TokenTexts."""
        return self._texts.byte_runs

    def piece(self, token_id: int, *, first: bool) -> Piece:
        """What a token adds; nothing for ids that the tokenizer does not know."""
        pieces = self._texts.first if first else self._texts.later
        return pieces[token_id] if token_id < len(pieces) else None

    def strings(self, *, first: bool) -> tuple[Strings, tuple[int, ...]]:
        """The tokens that are text by themselves, and the ids of those that are parts of characters."""
        if first not in self._strings:
            whole: dict[int, str] = {}
            others = []
            for i, piece in enumerate(self._texts.first if first else self._texts.later):
                if isinstance(piece, str) and piece:
                    whole[i] = piece
                elif piece:
                    others.append(i)
            self._strings[first] = Strings.of(list(whole.values()), list(whole)), tuple(others)
        return self._strings[first]


class Bans:
    """Compiles lists of phrases for one tokenizer.

    vocab_size : of the decoder; None where tokenizer and decoder have the same vocabulary
    marks      : tokens that are not text, with words before and after them that belong together
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int | None = None, marks: Collection[str] = ()) -> None:
        self._tokenizer, self._vocab_size, self._marks = tokenizer, vocab_size, marks
        self._vocabulary: tuple[TokenTexts, Vocabulary] | None = None
        self._compile = lru_cache(_COMPILED)(self._make)

    def of(self, options: GenerationOptions) -> Ban | None:
        """The ban that options ask for, None if they ask for none.

        Raises InvalidOption for a tokenizer or a phrase that cannot be mapped.
        """
        return self._compile(options.banned_phrases, options.stop) if options.banned_phrases else None

    def _make(self, phrases: tuple[str, ...], stop: tuple[str, ...]) -> Ban:
        if self._vocabulary is None:
            try:
                texts = TokenTexts(self._tokenizer, self._vocab_size, dict.fromkeys(self._marks, " "))
            except UnknownDecoder as error:
                raise InvalidOption(
                    f"{NAME} is given, but this model's tokens cannot be mapped to text: {error}; leave it out", NAME
                ) from error
            self._vocabulary = texts, Vocabulary(texts)
        texts, vocabulary = self._vocabulary
        patterns: set[str] = set()
        for i, phrase in enumerate(phrases):
            found = canonical(phrase)
            if not found.strip(BAR):
                raise InvalidOption(f"{NAME} has nothing but white space in entry {i + 1}", NAME)
            if texts.words_only and not all(c == BAR or is_word(c) or c.isalnum() for c in found):
                raise InvalidOption(
                    f"{NAME} has signs in entry {i + 1}, which this model's tokenizer joins to words by rules; only "
                    "letters, digits and spaces can be banned here",
                    NAME,
                )
            patterns |= {found, *_cut_by_stop(phrase, stop)}
        for closed in texts.closed:
            patterns |= {apart for pattern in patterns for apart in _apart(pattern, canonical(closed).strip(BAR))}
        return Ban(vocabulary, patterns)


def _cut_by_stop(phrase: str, stop: tuple[str, ...]) -> set[str]:
    """Patterns of a phrase inside a longer word whose rest a stop text cuts off."""
    last = canonical(phrase).endswith(BAR)
    # What cannot be seen in front of it begins no word, and ends none.
    shown = (("".join(map(fold, text)) or " ", text) for text in stop)
    return {canonical(phrase + text).removesuffix(BAR) for first, text in shown if last and is_word(first[0])}


def _apart(pattern: str, closed: str) -> set[str]:
    """What a pattern was before a decoder has removed the space before `closed`, which begins a word.

    Where the pattern ends inside `closed`, the rest of it is added.
    """
    found = set()
    for place in range(1, len(pattern)):
        rest = pattern[place:]
        if not is_word(pattern[place - 1]):
            continue
        if rest.startswith(closed) or closed.startswith(rest):
            found.add(f"{pattern[:place]}{BAR}{rest if rest.startswith(closed) else closed}")
    return found


class BannedRows:
    """The rows of one request and how far their texts have come."""

    def __init__(self, ban: Ban, rows: int) -> None:
        self._ban = ban
        self._places = [ban.start] * rows

    def restart(self, row: int) -> None:
        """Let a row be at the beginning of a text."""
        self._places[row] = self._ban.start

    def forbid(self, scores: Tensor) -> Tensor:
        """Scores, shape (rows, vocab_size), with minus infinity for every token that would complete a phrase."""
        rows = [self._ban.banned(place) for place in self._places]
        if all(row is rows[0] for row in rows):
            return scores.index_fill(1, rows[0] if scores.is_cpu else rows[0].to(scores.device), -torch.inf)
        width = scores.shape[1]
        forbidden = [banned + row * width for row, banned in enumerate(rows)]
        return scores.flatten().index_fill(0, torch.cat(forbidden).to(scores.device), -torch.inf).view_as(scores)

    def advance(self, tokens: Sequence[int], parents: Sequence[int] | None = None) -> None:
        """Take the next token of every row; parents : the row that each row continues, None for itself."""
        before = self._places if parents is None else [self._places[i] for i in parents]
        self._places = [self._ban.advance(*pair) for pair in zip(before, tokens, strict=True)]
