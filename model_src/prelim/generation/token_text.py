"""What each token adds to the text of a report, for tokenizers whose decoder joins tokens in a way that is known.

Text is compared in a canonical form, in which the steps that a decoder takes on the whole text change nothing: lower
case, without accents written in other ways, and with a BAR before and after every run of letters and digits. What is
between two words is a BAR if it is white space, and otherwise the signs that are not white space: "x - ray" and "x-ray"
are both "|x|-|ray|".
"""

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from tokenizers import Tokenizer

from prelim.generation.text_stages import ByteRuns, Bytes, CloseHyphens, DropSpaces
from prelim.generation.text_stream import DecoderStep, are_word_rules, decoder_steps, library_decoder

BAR = "\0"
"""In canonical text the limit of a word."""

BROKEN = "\ufffd"
"""What bytes that are not UTF-8 become."""

Piece = str | bytes | None
"""What a token adds: text, a part of UTF-8, or nothing."""

_NO_LIMITS = ("CJK", "IDEOGRAPHIC", "KANGXI", "HIRAGANA", "KATAKANA", "HANGZHOU")
"""How the names of characters begin that are written without spaces between words."""


class UnknownDecoder(ValueError):
    """It is not known what the tokens of a tokenizer add to a text; the message says why."""


@lru_cache(maxsize=1 << 16)
def is_word(character: str) -> bool:
    """Whether a character is part of a word that has limits."""
    if not (character.isalnum() or unicodedata.category(character).startswith("M")):
        return False
    return not unicodedata.name(character, "").startswith(_NO_LIMITS)


@lru_cache(maxsize=1 << 16)
def fold(character: str) -> str:
    """The character in lower case, decomposed; nothing for those that cannot be seen, such as a soft hyphen."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    return "".join(c for c in folded if unicodedata.category(c) not in ("Cf", "Cc") or c.isspace())


def canonical(text: str) -> str:
    """The canonical form of a text that begins and ends with the limit of a word."""
    written: list[str] = []
    in_word = False
    for character in "".join(map(fold, text)):
        word = is_word(character)
        if word != in_word and (word or in_word) and written[-1:] != [BAR]:
            written.append(BAR)
        if not character.isspace():
            written.append(character)
        in_word = word
    return "".join(written) + (BAR if in_word else "")


class TokenTexts:
    """What the tokens of one tokenizer add to a text.

    later, first : by token id, what a token adds after others, and at the beginning of a text
    byte_runs    : a run of tokens that are bytes is BROKEN as a whole if it is not UTF-8
    closed       : beginnings of words that lose the space before them, such as "n't"
    vocab_size   : of the decoder, which writes no token from there on; None: that of the tokenizer
    words_only   : signs may come out as others, so that only letters, digits and spaces are as they are here
    marks        : token -> what it adds instead of its text

    Raises UnknownDecoder.
    """

    def __init__(
        self, tokenizer: Tokenizer, vocab_size: int | None = None, marks: Mapping[str, Piece] | None = None
    ) -> None:
        steps = decoder_steps(json.loads(tokenizer.to_str())["decoder"])
        of_tokens, of_text = split_steps(steps)
        self.byte_runs = any(step["type"] == "ByteFallback" for step in of_tokens)
        self.closed: tuple[str, ...] = ()
        self.words_only = are_word_rules(of_text)
        if not self.words_only:
            self.closed = tuple(closed for step in of_text if (closed := _closed_up(step)))
        special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        count = 1 + max(tokenizer.get_vocab().values(), default=-1)
        tokens = [tokenizer.id_to_token(i) for i in range(min(count, vocab_size or count))]
        shown = [None if token is None or token in special else token for token in tokens]
        marks = {} if marks is None else marks
        given = {i: marks[token] for i, token in enumerate(tokens) if token is not None and token in marks}
        self.first, self.later = (
            tuple(given.get(i, piece) for i, piece in enumerate(_pieces(shown, of_tokens, before)))
            for before in ((), ("",))
        )


def split_steps(steps: Sequence[DecoderStep]) -> tuple[list[DecoderStep], list[DecoderStep]]:
    """The steps that look at single tokens, and those that look at the whole text. Raises UnknownDecoder."""
    for i, step in enumerate(steps):
        match step:
            case {"type": "Fuse"}:
                return list(steps[:i]), list(steps[i + 1 :])
            case {"type": "ByteLevel"}:
                return list(steps[: i + 1]), list(steps[i + 1 :])
            case {"type": "WordPiece" | "Metaspace" | "ByteFallback"}:
                continue
            case {"type": "Replace", "pattern": {"String": str()}}:
                continue
        raise UnknownDecoder(f"its decoder has a step {step['type']}")
    return list(steps), []


def _closed_up(step: DecoderStep) -> str:
    """The beginning of a word that a step on the text moves to the word before; empty for steps that move none.

    Raises UnknownDecoder for a step that changes the canonical text otherwise.
    """
    match step:
        case {"type": "Fuse"} | {"type": "Strip", "content": " ", "stop": 0}:
            return ""
        case {"type": "Replace", "pattern": {"Regex": pattern}, "content": content} if (pattern, content) in (
            (CloseHyphens.PATTERN, "-"),
            *((pattern, "") for pattern in DropSpaces.PATTERNS),
        ):
            return ""
        case {"type": "Replace", "pattern": {"String": str(found)}, "content": str(content)}:
            if all(canonical(a + found + b) == canonical(a + content + b) for a in "x." for b in "x."):
                return ""
            if found == f" {content}" and is_word(fold(content[0])[:1]):
                return content
    raise UnknownDecoder(f"its decoder has a step {step['type']} that changes words")


def _pieces(tokens: Sequence[str | None], steps: Sequence[DecoderStep], before: tuple[str, ...]) -> Iterator[Piece]:
    """What each token becomes by the steps that look at single tokens."""
    of_bytes = Bytes() if any(step["type"] == "ByteLevel" for step in steps) else None
    byte_runs = any(step["type"] == "ByteFallback" for step in steps)
    decoders = [library_decoder([step]) for step in steps if step["type"] not in ("ByteLevel", "ByteFallback")]
    for token in tokens:
        if token is None:
            yield None
            continue
        piece = token
        if byte_runs and ByteRuns.BYTE.fullmatch(token):
            yield bytes([int(token[3:5], 16)])
            continue
        for decoder in decoders:
            piece = decoder.decode([*before, piece])
        yield piece if of_bytes is None else _whole(of_bytes.encode(piece))


def _whole(data: bytes) -> Piece:
    """The text of bytes that are UTF-8 by themselves."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
