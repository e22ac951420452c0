"""The stages of a text stream: each does one step of a tokenizer's decoder, and holds what later tokens can change."""

import codecs
import re
from collections.abc import Sequence
from typing import ClassVar, Protocol

from tokenizers import decoders


class Stage(Protocol):
    """One step from tokens to text. It has a state and serves one text."""

    def feed(self, pieces: list[str]) -> list[str]:
        """Take the next pieces, tokens or text, and return what is newly decided."""


class EachToken:
    """A decoder that rewrites each token alone, the first perhaps in another way than the others."""

    def __init__(self, decoder: decoders.Decoder) -> None:
        self._decoder = decoder
        self._before: list[str] = []

    def feed(self, pieces: list[str]) -> list[str]:
        """See `Stage.feed`."""
        rewritten = []
        for piece in pieces:
            rewritten.append(self._decoder.decode([*self._before, piece]))
            self._before = [""]
        return rewritten


class ByteRuns:
    """ByteFallback. A run of bytes is held to its end: if it is not UTF-8, none of its characters is kept."""

    BYTE = re.compile("<0x[+0-9A-Fa-f][0-9A-Fa-f]>")

    def __init__(self) -> None:
        self._decoder = decoders.ByteFallback()
        self._run: list[str] = []

    def feed(self, pieces: list[str]) -> list[str]:
        """See `Stage.feed`."""
        decided = []
        for piece in pieces:
            if self.BYTE.fullmatch(piece):
                self._run.append(piece)
            else:
                decided += [self._decoder.decode(self._run), piece]
                self._run = []
        return decided


class Bytes:
    """ByteLevel: every character of a token is a byte. An incomplete character is held.

    Source: `bytes_to_unicode` of GPT-2 (Radford et al., 2019).
    """

    _SHOWN = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
    _HIDDEN = tuple(sorted(set(range(0x100)) - set(_SHOWN)))
    _BYTE: ClassVar = {chr(byte): byte for byte in _SHOWN} | {chr(0x100 + i): byte for i, byte in enumerate(_HIDDEN)}

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, pieces: list[str]) -> list[str]:
        """See `Stage.feed`."""
        return [self._decoder.decode(b"".join(map(self.encode, pieces)))]

    def encode(self, token: str) -> bytes:
        """The bytes that a token stands for."""
        try:
            return bytes(self._BYTE[character] for character in token)
        except KeyError:
            return token.encode()  # an added token is text


class Strip:
    """Strip at the beginning of the text."""

    def __init__(self, content: str, start: int) -> None:
        self._content, self._left = content, start

    def feed(self, pieces: list[str]) -> list[str]:
        """See `Stage.feed`."""
        text = "".join(pieces)
        cut = min(len(text) - len(text.lstrip(self._content)), self._left)
        self._left = 0 if cut < len(text) else self._left - cut
        return [text[cut:]]


class Replace:
    """Replace of a fixed text. A possible beginning of it is held."""

    def __init__(self, found: str, content: str) -> None:
        self._found, self._content = found, content
        self._held = ""

    def feed(self, pieces: list[str]) -> list[str]:
        """See `Stage.feed`."""
        *before, last = "".join([self._held, *pieces]).split(self._found)
        decided = len(last) - begun(last, self._found)
        self._held = last[decided:]
        return [self._content.join([*before, last[:decided]])]


class CloseHyphens:
    r"""Replace of \s*-\s* by a hyphen, in our own tokenizers. White space at the end is held."""

    PATTERN = r"\s*-\s*"
    # What \s is in the library; in Python it is more.
    _SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"

    def __init__(self, decoder: decoders.Decoder) -> None:
        self._decoder = decoder
        self._held = ""
        self._after_hyphen = False

    def feed(self, pieces: list[str]) -> list[str]:
        """See `Stage.feed`."""
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


class DropSpaces:
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


class WordRules:
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
        """See `Stage.feed`."""
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


class Undecided:
    """A decoder of which it is not known what later tokens change: the end decides."""

    def feed(self, pieces: list[str]) -> list[str]:
        """See `Stage.feed`."""
        return []


class StopCut:
    """The text before the first stop text. A possible beginning of one is held, and the white space before it."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""
        self._over = False

    def feed(self, pieces: list[str]) -> list[str]:
        """See `Stage.feed`."""
        if self._over:
            return []
        text = "".join([self._held, *pieces])
        first = min((place for place in map(text.find, self._stop) if place >= 0), default=len(text))
        # A longer stop text that began before a shorter one may still be completed; it is the first then.
        safe = len(text) - max(begun(text, stop) for stop in self._stop)
        self._over = first < len(text) and first <= safe
        decided = text[: min(first, safe)].rstrip()
        self._held = text[len(decided) :]
        return [decided]


def cut_at_stop(text: str, stop: tuple[str, ...]) -> str:
    """The text before the first stop text in it."""
    places = [place for place in (text.find(s) for s in stop) if place >= 0]
    return text[: min(places)].rstrip() if places else text


def begun(text: str, wanted: str) -> int:
    """How many characters at the end of a text are a beginning of a longer one."""
    longest = min(len(text), len(wanted) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(wanted[:length])), 0)
