"""Reports that a grammar describes: a regular expression or a JSON schema, over the whole text.

llguidance knows after which strings the grammar can go on; here its strings are what tokens add to the text. Every row
has a matcher of its own, which is copied where two rows continue one. docs/decisions/0041-grammars.md
"""

import json
import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from prelim.errors import InvalidOption
from prelim.formats.text import is_utf8
from prelim.generation.options import GenerationOptions
from prelim.generation.token_text import UnknownDecoder
from prelim.generation.written_tokens import END, NEVER, WrittenTokens

if TYPE_CHECKING:  # imported with the first grammar
    from llguidance import LLMatcher, LLTokenizer

NAME = "grammar"

_COMPILED = 8
"""Grammars that are kept."""

_MASKS = 64
"""Masks of a grammar that are kept: places of a text with the same next tokens share one."""

_LIMITS = {
    "max_items_in_row": 500,
    "initial_lexer_fuel": 200_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 10_000,
    "max_lexer_states": 10_000,
    "max_grammar_size": 20_000,
    "precompute_large_lexemes": False,
    "verbose_errors": False,
}
"""Of llguidance: a grammar compiles in at most some 10 ms, and a step over it takes as long at most."""

_COMBINED = 8
"""Patterns and formats of a schema that combines them. llguidance looks for a text that all of them match, and its
limits do not count that: 8 take no time, 16 a second and 100 MB."""

_COMBINING = ("allOf", "anyOf", "oneOf", "$ref", "not", "if")
"""Keywords of a schema that demand more of the same value."""

_NOTHING_FOLLOWS = "NoExtensionBias"
"""The error of llguidance where no token can follow, and the text is not one of the grammar."""

_VERBOSE = re.compile(r"\(\?[a-zA-Z]*x[a-zA-Z-]*[:)]")
"""What switches on the flag that allows comments."""

_NO_FORCING = '%llguidance {"no_forcing": true}\n'
"""Otherwise only one of the ways to write a text in tokens would be allowed where the text is certain."""


class Grammar:
    """One grammar over the tokens of one tokenizer. Raises InvalidOption where it cannot be compiled."""

    def __init__(self, tokens: WrittenTokens, strings: "LLTokenizer", grammar: str) -> None:
        self.tokens = tokens
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(**_LIMITS)
        self._matcher = LLMatcher(strings, _lark(grammar), log_level=0, limits=limits)
        self._forbidden: dict[tuple[int, int, bytes], Tensor] = {}
        if not self.start().allowed.any():
            raise InvalidOption(f"{NAME} allows no first token that this model can write", NAME)

    def start(self) -> "GrammarPlace":
        """The place of an empty text."""
        return GrammarPlace(self, self._matcher.deep_copy(), self.tokens.start)

    def forbidden(self, context: int, mask: bytes, width: int) -> Tensor:
        """Which tokens may not follow, bool, shape (width,), by the mask of the matcher. Equal masks are kept as one.

        context : of `WrittenTokens`
        mask    : a bit for each string; empty where nothing may follow
        """
        kept = self._forbidden.get((context, width, mask))
        if kept is None:
            kept = torch.ones(width, dtype=torch.bool)
            if mask:
                bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")
                strings = self.tokens.strings_in(context)
                kept[: len(strings)] = torch.from_numpy(bits[strings] == 0)
            if len(self._forbidden) >= _MASKS:
                self._forbidden.clear()
            self._forbidden[context, width, mask] = kept
        return kept


class GrammarPlace:
    """How far the text of one row has come; without a matcher it has ended, and nothing may follow."""

    def __init__(self, grammar: Grammar, matcher: "LLMatcher | None", context: int) -> None:
        self._grammar, self._matcher, self._context = grammar, matcher, context
        self._mask: bytes | None = None

    @property
    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may follow, shape (tokens,). Raises InvalidOption where the grammar is at fault."""
        width = len(self._grammar.tokens.strings_in(self._context))
        return ~self.forbidden(width).numpy()

    def forbidden(self, width: int) -> Tensor:
        """Which tokens may not follow, bool, shape (width,). Raises InvalidOption where the grammar is at fault."""
        return self._grammar.forbidden(self._context, self._strings(), width)

    def _strings(self) -> bytes:
        """A bit for each string that may follow; empty where nothing may."""
        if self._mask is None:
            self._mask = b"" if self._matcher is None else self._matcher.compute_bitmask()
            if self._matcher is not None and self._matcher.is_error():
                if not self._matcher.get_error().startswith(_NOTHING_FOLLOWS):
                    _check(self._matcher)
                self._mask = b""
        return self._mask

    def advance(self, token_id: int, *, last: bool) -> "GrammarPlace":
        """The place after one more token. `last`: this place is not needed any more, and gives its matcher away."""
        tokens = self._grammar.tokens
        string = tokens.string_of(self._context, token_id)
        if self._matcher is None or string in (END, NEVER) or not self._allows(string):
            return GrammarPlace(self._grammar, None, self._context)
        matcher = self._matcher if last else self._matcher.deep_copy()
        # What goes wrong here is known when it is asked what may follow.
        matcher.consume_token(string)
        return GrammarPlace(self._grammar, matcher, tokens.after(self._context, token_id))

    def allows(self, token_id: int) -> bool:
        """Whether a token may follow; never one that the tokenizer does not know."""
        return self._allows(self._grammar.tokens.string_of(self._context, token_id))

    def _allows(self, string: int) -> bool:
        mask = self._strings()
        return bool(mask and mask[string >> 3] >> (string & 7) & 1)


class GrammarRows:
    """The rows of one request and how far their texts have come; see `Constraint`."""

    def __init__(self, grammar: Grammar, rows: int) -> None:
        self._grammar = grammar
        self._places = [grammar.start()] * rows

    def restart(self, row: int) -> None:
        """Let a row be at the beginning of a text."""
        self._places[row] = self._grammar.start()

    def forbid(self, scores: Tensor) -> Tensor:
        """Scores with minus infinity for every token with which no text of the grammar begins."""
        width = scores.shape[1]
        rows = [place.forbidden(width) for place in self._places]
        forbidden = rows[0] if all(row is rows[0] for row in rows) else torch.stack(rows)
        return scores.masked_fill(forbidden if scores.is_cpu else forbidden.to(scores.device), -torch.inf)

    def advance(self, tokens: Sequence[int], parents: Sequence[int] | None = None) -> None:
        """Take the next token of every row."""
        before = self._places if parents is None else [self._places[i] for i in parents]
        last = {place: row for row, place in enumerate(before)}
        self._places = [
            place.advance(token_id, last=last[place] == row)
            for row, (place, token_id) in enumerate(zip(before, tokens, strict=True))
        ]


class Grammars:
    """Compiles grammars for one tokenizer.

    eos_token_ids : tokens that end a report
    vocab_size    : of the decoder; None where tokenizer and decoder have the same vocabulary
    marks         : tokens that are not text, and are not written under a grammar
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        eos_token_ids: Sequence[int],
        vocab_size: int | None = None,
        marks: Collection[str] = (),
    ) -> None:
        self._tokenizer, self._eos_token_ids, self._vocab_size = tokenizer, eos_token_ids, vocab_size
        self._marks = marks
        self._strings: tuple[WrittenTokens, LLTokenizer] | None = None
        self._compile = lru_cache(_COMPILED)(self._make)

    def of(self, options: GenerationOptions) -> Grammar | None:
        """The grammar that options ask for, None if they ask for none.

        Raises InvalidOption for a tokenizer or a grammar that cannot be used.
        """
        return self._compile(options.grammar) if options.grammar else None

    def _make(self, grammar: str) -> Grammar:
        if self._strings is None:
            try:
                tokens = WrittenTokens(self._tokenizer, self._eos_token_ids, self._vocab_size, self._marks)
            except UnknownDecoder as error:
                raise InvalidOption(
                    f"{NAME} is given, but this model's tokens cannot be mapped to text: {error}; leave it out", NAME
                ) from error
            from llguidance import LLTokenizer

            self._strings = tokens, LLTokenizer(_Strings(tokens.strings))
        return Grammar(*self._strings, grammar)


class _Strings:
    """The strings as llguidance takes a vocabulary."""

    is_tokenizer_wrapper = True
    eos_token_id = END
    bos_token_id = None
    special_token_ids = (END, NEVER)

    def __init__(self, strings: Sequence[bytes]) -> None:
        self.tokens = strings

    def __call__(self, text: str) -> list[int]:
        """Tokens of a text, which nothing here needs."""
        return []


def _lark(grammar: str) -> str:
    """A grammar as llguidance reads it. Raises InvalidOption for JSON that cannot be parsed."""
    if not is_utf8(grammar):
        raise InvalidOption(f"{NAME} has half of a surrogate pair", NAME)
    if not grammar.startswith("{"):
        from llguidance import regex_to_lark

        # Neither survives as what it is: the one is dropped, and line breaks, which end comments there, are escaped.
        if (len(grammar) - len(grammar.rstrip("\\"))) % 2:
            raise InvalidOption(f"{NAME} cannot be used: it ends with a backslash that escapes nothing", NAME)
        if "\n" in grammar and _VERBOSE.search(grammar):
            raise InvalidOption(f"{NAME} cannot be used: with the flag x it must be one line", NAME)
        return f"{_NO_FORCING}start: /{regex_to_lark(grammar, use_ascii='')}/"
    try:
        schema = json.loads(grammar)
    except (ValueError, RecursionError) as error:
        raise InvalidOption(f"{NAME} begins with a brace, but is not a JSON schema", NAME) from error
    _check_combined(schema)
    return f"{_NO_FORCING}start: %json {json.dumps(schema)}"


def _check_combined(schema: Any) -> None:
    """Raise InvalidOption for a schema that combines too many patterns."""
    patterns: set[str] = set()
    combines, rest = False, [schema]
    while rest:
        part = rest.pop()
        if isinstance(part, dict):
            combines |= not part.keys().isdisjoint(_COMBINING)
            named = part.get("patternProperties")
            patterns |= {str(part[name]) for name in ("pattern", "format") if name in part}
            patterns |= set(named) if isinstance(named, dict) else set()
            rest += part.values()
        elif isinstance(part, list):
            rest += part
    if combines and len(patterns) > _COMBINED:
        raise InvalidOption(
            f"{NAME} has {len(patterns)} patterns and formats and combines schemas; at most {_COMBINED} are possible "
            f"with {', '.join(_COMBINING)}",
            NAME,
        )


def _check(matcher: "LLMatcher") -> None:
    """Raise what is wrong with a grammar."""
    if matcher.is_error():
        lines = matcher.get_error().splitlines() or [""]
        reason = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
        reason = re.sub(r"^at \d+\(\d+\): ", "", reason)
        raise InvalidOption(f"{NAME} cannot be used: {reason:.200}", NAME)
