"""How one request wants its report decoded."""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from prelim.errors import InvalidOption

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""As in JSON, and with a sign or a bare point; Python also reads underscores and the digits of other scripts."""

MAX_BEAMS = 16
MAX_NEW_TOKENS = 16_384
"""What no setting exceeds; `ReportGenerator` has the limit of a request."""
USUAL_NEW_TOKENS = 1024
"""Largest `max_new_tokens` of a request unless set otherwise."""
MAX_TOP_K = 1_000_000
"""More tokens than any vocabulary has."""
MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 64
MAX_BANNED_PHRASES = 64
MAX_PHRASE_LENGTH = 64
MAX_GRAMMAR_LENGTH = 8192


@dataclass(frozen=True)
class GenerationOptions:
    """Options of one request. Names, defaults and meaning are those of `transformers` `generate`.

    num_beams            : 1 is greedy search or sampling, more is beam search, at most 16
    do_sample            : draw the next token instead of taking the best; with beams, beam sampling
    temperature          : divides the logits when sampling; at 0.000001 the best token is always drawn
    top_k                : sample from the k most likely tokens, 0 switches it off
    top_p                : sample from the smallest set of tokens whose probability reaches p
    seed                 : makes sampling repeatable; None draws a fresh seed for each request
    repetition_penalty   : divides (multiplies, where negative) the scores of tokens already written
    no_repeat_ngram_size : no n-gram of this size appears twice, 0 switches it off
    length_penalty       : exponent of the length that a finished beam's score is divided by
    early_stopping       : True stops at num_beams finished beams; False at a heuristic; "never" when no better
                           beam is possible
    min_new_tokens       : no end of text before so many tokens
    max_new_tokens       : at most so many tokens, which is bounded by a setting of the server too
    num_return_sequences : how many reports; beams: the best; sampling: independent draws
    stop                 : texts that end the report when they appear (`stop_strings` of `generate`)
    banned_phrases       : texts that no report contains as whole words, in upper or lower case
    grammar              : what the whole text of a report must match, a regular expression, or a JSON schema if it
                           begins with a brace; nothing if it is empty

    The bounds keep every score within float32: the sum of MAX_NEW_TOKENS log-probabilities of -1000, each multiplied
    by the largest `repetition_penalty`, divided by the smallest `temperature` and scaled by the longest length to the
    power of `length_penalty`, is above -1e37.

    Raises InvalidOption when a value is not allowed.
    """

    num_beams: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    min_new_tokens: int = 0
    max_new_tokens: int = 256
    num_return_sequences: int = 1
    stop: tuple[str, ...] = ()
    banned_phrases: tuple[str, ...] = ()
    grammar: str = ""

    def __post_init__(self) -> None:
        self._require("num_beams", 1 <= self.num_beams <= MAX_BEAMS, f"1 to {MAX_BEAMS}")
        self._require("temperature", 1e-6 <= self.temperature <= 100, "0.000001 to 100")
        self._require("top_k", 0 <= self.top_k <= MAX_TOP_K, f"0 to {MAX_TOP_K}")
        self._require("top_p", 1e-6 <= self.top_p <= 1, "0.000001 to 1")
        self._require("seed", self.seed is None or 0 <= self.seed < 2**63, "0 to 2**63 - 1")
        self._require("repetition_penalty", 1e-6 <= self.repetition_penalty <= 100, "0.000001 to 100")
        self._require("no_repeat_ngram_size", 0 <= self.no_repeat_ngram_size <= 100, "0 to 100")
        self._require("length_penalty", abs(self.length_penalty) <= 5, "-5 to 5")
        self._require("early_stopping", self.early_stopping in (True, False, "never"), "true, false or never")
        self._require("max_new_tokens", 1 <= self.max_new_tokens <= MAX_NEW_TOKENS, f"1 to {MAX_NEW_TOKENS}")
        self._require("min_new_tokens", 0 <= self.min_new_tokens <= self.max_new_tokens, "0 to max_new_tokens")
        self._require_returned()
        self._require("stop", len(self.stop) <= MAX_STOP_STRINGS, f"at most {MAX_STOP_STRINGS} texts")
        self._require(
            "stop", all(0 < len(s) <= MAX_STOP_LENGTH for s in self.stop), f"texts of 1 to {MAX_STOP_LENGTH} characters"
        )
        phrases = self.banned_phrases
        self._require("banned_phrases", len(phrases) <= MAX_BANNED_PHRASES, f"at most {MAX_BANNED_PHRASES} texts")
        self._require(
            "banned_phrases",
            all(phrase.strip() and len(phrase) <= MAX_PHRASE_LENGTH for phrase in phrases),
            f"texts of 1 to {MAX_PHRASE_LENGTH} characters, not only white space",
        )
        self._require("grammar", len(self.grammar) <= MAX_GRAMMAR_LENGTH, f"at most {MAX_GRAMMAR_LENGTH} characters")

    def _require(self, name: str, allowed: bool, values: str) -> None:
        if not allowed:
            raise InvalidOption(f"{name} is {getattr(self, name)!r:.80}; allowed: {values}", name)

    def _require_returned(self) -> None:
        if self.num_beams > 1:
            limit, reason = self.num_beams, "1 to num_beams"
        elif self.do_sample:
            limit, reason = MAX_BEAMS, f"1 to {MAX_BEAMS}"
        else:
            limit, reason = 1, "1 with greedy search; for more set num_beams or do_sample"
        self._require("num_return_sequences", 1 <= self.num_return_sequences <= limit, reason)

    @property
    def rows(self) -> int:
        """How many sequences are decoded side by side."""
        return self.num_beams if self.num_beams > 1 else self.num_return_sequences

    @classmethod
    def from_mapping(
        cls, mapping: Mapping[str, Any], defaults: "GenerationOptions | None" = None
    ) -> "GenerationOptions":
        """Options from text (form fields, gRPC) or JSON values, with `defaults` for what is not there.

        Raises InvalidOption: for an unknown name, listing the known ones, and for a value that is not allowed.
        """
        unknown = min(set(mapping) - set(_PARSERS), default=None)
        if unknown is not None:
            raise InvalidOption(f"unknown option {unknown!r:.40}; known: {', '.join(_PARSERS)}", unknown)
        values: dict[str, Any] = {name: _PARSERS[name](name, value) for name, value in mapping.items()}
        return dataclasses.replace(defaults or cls(), **values)


def _integer(name: str, value: Any) -> int:
    number = _number(name, value)
    if number != int(number):
        raise InvalidOption(f"{name} is {value!r:.40}; it must be a whole number", name)
    digits = value.strip() if isinstance(value, str) else value
    return int(digits) if isinstance(digits, int) or _is_plain_integer(digits) else int(number)


def _is_plain_integer(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip("+-").isdecimal()


def _optional_integer(name: str, value: Any) -> int | None:
    return None if value is None else _integer(name, value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidOption(f"{name} is {value!r:.40}; it must be a number", name)
    # `strip` takes more for white space than `float` and `int` do.
    digits = value.strip() if isinstance(value, str) else value
    if isinstance(digits, str) and _NUMBER.fullmatch(digits) is None:
        raise InvalidOption(f"{name} is {value!r:.40}; it must be a number", name)
    try:
        number = float(digits)
    except OverflowError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidOption(f"{name} is {value!r:.40}; it must be a number", name)
    return number


def _boolean(name: str, value: Any, allowed: str = "true or false") -> bool:
    if isinstance(value, str) and value.strip().lower() in ("true", "1", "false", "0"):
        return value.strip().lower() in ("true", "1")
    if isinstance(value, bool):
        return value
    raise InvalidOption(f"{name} is {value!r:.40}; it must be {allowed}", name)


def _early_stopping(name: str, value: Any) -> bool | str:
    return "never" if value == "never" else _boolean(name, value, "true, false or never")


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Iterable) and not isinstance(value, Mapping | bytes | bytearray):
        texts = tuple(value)
        if all(isinstance(text, str) for text in texts):
            return texts
    raise InvalidOption(f"{name} is {value!r:.40}; it must be a string or a list of strings", name)


def _grammar(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        try:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        except (RecursionError, TypeError, ValueError) as error:
            raise InvalidOption(f"{name} is not a JSON schema", name) from error
    if isinstance(value, str):
        return value
    raise InvalidOption(f"{name} is {value!r:.40}; it must be a regular expression or a JSON schema", name)


_PARSERS_OF_TYPES = {
    int: _integer,
    int | None: _optional_integer,
    float: _number,
    bool: _boolean,
    bool | str: _early_stopping,
    tuple[str, ...]: _texts,
    str: _grammar,
}
_KINDS = get_type_hints(GenerationOptions)
_PARSERS = {name: _PARSERS_OF_TYPES[kind] for name, kind in _KINDS.items()}

TEXTS = frozenset(name for name, kind in _KINDS.items() if kind in (str, tuple[str, ...]))
"""Options that are texts."""
