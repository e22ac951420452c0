"""The text of a report while its tokens arrive: what is decided of it is what no later token can change.

A tokenizer's decoder is a chain of steps, and later tokens can change what earlier ones gave: "covid -" and "19" make
"covid-19", and one character can be spread over four tokens. So each step is a stage here, which passes on what is
decided and holds the rest: an incomplete character, a possible beginning of a text to replace or of a stop text. What
leaves the last stage is a beginning of the whole text, whatever follows. Each piece is looked at once, except by rules
for whole words.

The library's own `DecodeStream` holds incomplete characters only: with the decoders of BERT and BioGPT it returns text
that later tokens change.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

from tokenizers import Tokenizer, decoders, models

Step = Mapping[str, Any]
"""One decoder as tokenizer.json has it."""


class Stage(Protocol):
    """One step from tokens to text. It has a state and serves one text."""

    def feed(self, pieces: list[str]) -> list[str]:
        """Take the next pieces, tokens or text, and return what is newly decided."""


class TextStreams:
    """Opens streams for texts of one tokenizer.

    From the first step of its decoder that is not known here on, nothing is decided before the end of a text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        self._stages = list(_stages(_steps(json.loads(tokenizer.to_str())["decoder"])))

    def open(self, stop: Sequence[str] = ()) -> "TextStream":
        """A stream for one text, which ends where `cut_at_stop` cuts it."""
        stages = [new_stage() for new_stage in self._stages]
        return TextStream(self._token, [*stages, _StopCut(stop)] if stop else stages)

    def _token(self, token_id: int) -> str | None:
        """The token, None for special tokens and unknown ids, which are not text."""
        token = self._tokenizer.id_to_token(token_id)
        return None if token in self._special else token


class TextStream:
    """The text of one sequence of tokens while it grows."""

    def __init__(self, token: Callable[[int], str | None], stages: Sequence[Stage]) -> None:
        self._token = token
        self._stages = stages
        self._fed = 0

    def feed(self, token_ids: Sequence[int]) -> str:
        """The newly decided text.

        token_ids : all tokens so far, beginning with those of the call before
        """
        tokens = map(self._token, token_ids[self._fed :])
        self._fed = len(token_ids)
        pieces = [token for token in tokens if token is not None]
        for stage in self._stages:
            pieces = stage.feed(pieces)
        return "".join(pieces)


class _EachToken:
    """A decoder that rewrites each token alone, the first perhaps in another way than the others."""

    def __init__(self, decoder: decoders.Decoder) -> None:
        self._decoder = decoder
        self._before: list[str] = []

    def feed(self, pieces: list[str]) -> list[str]:
        rewritten = []
        for piece in pieces:
            rewritten.append(self._decoder.decode([*self._before, piece]))
            self._before = [""]
        return rewritten


class _ByteRuns:
    """ByteFallback. A run of bytes is held to its end: if it is not UTF-8, none of its characters is kept."""

    _BYTE = re.compile("<0x[+0-9A-Fa-f][0-9A-Fa-f]>")

    def __init__(self) -> None:
        self._decoder = decoders.ByteFallback()
        self._run: list[str] = []

    def feed(self, pieces: list[str]) -> list[str]:
        decided = []
        for piece in pieces:
            if self._BYTE.fullmatch(piece):
                self._run.append(piece)
            else:
                decided += [self._decoder.decode(self._run), piece]
                self._run = []
        return decided


class _Bytes:
    """ByteLevel: every character of a token is a byte. An incomplete character is held.

    Source: `bytes_to_unicode` of GPT-2 (Radford et al., 2019).
    """

    _SHOWN = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
    _HIDDEN = tuple(sorted(set(range(0x100)) - set(_SHOWN)))
    _BYTE: ClassVar = {chr(byte): byte for byte in _SHOWN} | {chr(0x100 + i): byte for i, byte in enumerate(_HIDDEN)}

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, pieces: list[str]) -> list[str]:
        return [self._decoder.decode(b"".join(map(self._bytes, pieces)))]

    def _bytes(self, token: str) -> bytes:
        try:
            return bytes(self._BYTE[character] for character in token)
        except KeyError:
            return token.encode()  # an added token is text


class _Strip:
    """Strip at the beginning of the text."""

    def __init__(self, content: str, start: int) -> None:
        self._content, self._left = content, start

    def feed(self, pieces: list[str]) -> list[str]:
        text = "".join(pieces)
        cut = min(len(text) - len(text.lstrip(self._content)), self._left)
        self._left = 0 if cut < len(text) else self._left - cut
        return [text[cut:]]


class _Replace:
    """Replace of a fixed text. A possible beginning of it is held."""

    def __init__(self, found: str, content: str) -> None:
        self._found, self._content = found, content
        self._held = ""

    def feed(self, pieces: list[str]) -> list[str]:
        *before, last = "".join([self._held, *pieces]).split(self._found)
        decided = len(last) - _begun(last, self._found)
        self._held = last[decided:]
        return [self._content.join([*before, last[:decided]])]


class _CloseHyphens:
    r"""Replace of \s*-\s* by a hyphen, in our own tokenizers. White space at the end is held."""

    PATTERN = r"\s*-\s*"
    # What \s is in the library; in Python it is more.
    _SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"

    def __init__(self, decoder: decoders.Decoder) -> None:
        self._decoder = decoder
        self._held = ""
        self._after_hyphen = False

    def feed(self, pieces: list[str]) -> list[str]:
        text = "".join([self._held, *pieces])
        if self._after_hyphen:
            text = text.lstrip(self._SPACE)
        if not text:
            return []
        text = self._decoder.decode([text])
        decided = text.rstrip(self._SPACE)
        self._held = text[len(decided) :]
        self._after_hyphen = text.endswith("-")
        return [decided]


class _DropSpaces:
    r"""Replace by nothing of white space that one character before it or after it decides on, in our own tokenizers.

    White space at the end is held, and the character before it is kept to look behind.
    """

    PATTERNS = (
        r"\s+(?=[;:)\]%])|(?<=[(\[])\s+",
        r"(?<=\p{Han}|[，。；：、])\s+(?=\p{Han}|[，。；：、])",
    )

    def __init__(self, decoder: decoders.Decoder) -> None:
        self._decoder = decoder
        self._before = ""
        self._held = ""

    def feed(self, pieces: list[str]) -> list[str]:
        """Pass on what no later character can change."""
        text = self._held + "".join(pieces)
        decided = text.rstrip()
        self._held = text[len(decided) :]
        if not decided:
            return []
        dropped: str = self._decoder.decode([self._before + decided])
        new = dropped[len(self._before) :]
        self._before = decided[-1]
        return [new]


class _WordRules:
    r"""BioGPT's rules, which join words that each end with a space.

    The rules look no further ahead than to the end of the next word, and do not change the words before, but for the
    space between. The hyphen " @-@ " is replaced first and makes one word of two. So what the rules make of all words
    up to one that no hyphen can follow is decided, except white space at its end.
    """

    FRAME = (r"\A ?", r" ?\z")
    _HYPHEN = "@-@ "

    def __init__(self, decoder: decoders.Decoder) -> None:
        self._decoder = decoder
        self._text = ""
        self._words = self._decided = 0

    def feed(self, pieces: list[str]) -> list[str]:
        self._text = "".join([self._text, *pieces])
        words = self._text.rfind(" ") + 1
        while words > self._words and self._may_be_hyphen(self._text[words:]):
            words = self._text.rfind(" ", 0, words - 1) + 1
        if words <= self._words:
            return []
        self._words = words
        # From the beginning, because whether a quotation mark opens or closes depends on all those before.
        joined = self._decoder.decode([self._text[:words]]).rstrip()
        decided, self._decided = self._decided, len(joined)
        return [joined[decided:]]

    def _may_be_hyphen(self, text: str) -> bool:
        return text.startswith(self._HYPHEN) or self._HYPHEN.startswith(text)


class _Undecided:
    """A decoder of which it is not known what later tokens change: the end decides."""

    def feed(self, pieces: list[str]) -> list[str]:
        return []


class _StopCut:
    """The text before the first stop text. A possible beginning of one is held, and the white space before it."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""
        self._over = False

    def feed(self, pieces: list[str]) -> list[str]:
        if self._over:
            return []
        text = "".join([self._held, *pieces])
        first = min((place for place in map(text.find, self._stop) if place >= 0), default=len(text))
        # A longer stop text that began before a shorter one may still be completed; it is the first then.
        begun = len(text) - max(_begun(text, stop) for stop in self._stop)
        self._over = first < len(text) and first <= begun
        decided = text[: min(first, begun)].rstrip()
        self._held = text[len(decided) :]
        return [decided]


def _begun(text: str, wanted: str) -> int:
    """How many characters at the end of a text are a beginning of a longer one."""
    longest = min(len(text), len(wanted) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(wanted[:length])), 0)


def _steps(decoder: Step | None) -> list[Step]:
    """The decoders of a chain in their order; a tokenizer without one has none."""
    if decoder is not None and decoder["type"] == "Sequence":
        return [step for inner in decoder["decoders"] for step in _steps(inner)]
    return [{"type": "none"}] if decoder is None else [decoder]


def _stages(steps: Sequence[Step]) -> Iterator[Callable[[], Stage]]:
    """Constructors of the stages for a chain of decoders."""
    is_text = False
    for i, step in enumerate(steps):
        if step["type"] == "Fuse":
            is_text = True
            continue
        if is_text and _are_word_rules(steps[i:]):
            yield partial(_WordRules, _library_decoder(steps[i:]))
            return
        new_stage = _text_stage(step) if is_text else _token_stage(step)
        yield new_stage or _Undecided
        if new_stage is None:
            return
        is_text = is_text or step["type"] == "ByteLevel"


def _token_stage(step: Step) -> Callable[[], Stage] | None:
    """The constructor of the stage for a decoder of single tokens, None for an unknown one."""
    match step:
        case {"type": "ByteLevel"}:
            return _Bytes
        case {"type": "ByteFallback"}:
            return _ByteRuns
        case {"type": "WordPiece" | "Metaspace"} | {"type": "Replace", "pattern": {"String": str()}}:
            return partial(_EachToken, _library_decoder([step]))
    return None


def _text_stage(step: Step) -> Callable[[], Stage] | None:
    """The constructor of the stage for a decoder of text, None for an unknown one."""
    match step:
        case {"type": "Strip", "content": content, "start": start, "stop": 0}:
            return partial(_Strip, content, start)
        case {"type": "Replace", "pattern": {"String": found}, "content": content} if found:
            return partial(_Replace, found, content)
        case {"type": "Replace", "pattern": {"Regex": _CloseHyphens.PATTERN}, "content": "-"}:
            return partial(_CloseHyphens, _library_decoder([step]))
        case {"type": "Replace", "pattern": {"Regex": pattern}, "content": ""} if pattern in _DropSpaces.PATTERNS:
            return partial(_DropSpaces, _library_decoder([step]))
    return None


def _are_word_rules(steps: Sequence[Step]) -> bool:
    """Whether a chain begins as BioGPT's does, which puts one space before, between and after the words."""
    patterns = [step.get("pattern", {}).get("Regex") for step in steps[1:3]]
    return patterns == list(_WordRules.FRAME) and all(step["type"] == "Replace" for step in steps)


def _library_decoder(steps: Sequence[Step]) -> decoders.Decoder:
    """The library's own decoder for a chain."""
    tokenizer = json.loads(Tokenizer(models.BPE()).to_str())
    tokenizer["decoder"] = {"type": "Sequence", "decoders": list(steps)}
    return Tokenizer.from_str(json.dumps(tokenizer)).decoder
