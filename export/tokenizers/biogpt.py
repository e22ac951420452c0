r"""Converts BioGPT's published tokenizer (Moses rules and byte-pair encoding) to the `tokenizers` library.

Moses (Koehn et al., ACL 2007) is a chain of regular expressions, implemented in Python by `sacremoses`, which
`transformers` uses for BioGPT (Luo et al., 2022). The library can only store replacements by fixed text: so groups that
the originals keep are excluded from the match with \K or a look-around, and state between two expressions is marked in
the text with control characters, which the first rules remove from the input.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from sacremoses import MosesDetokenizer, MosesTokenizer
from sacremoses.util import CJKChars
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from export.tokenizers.added_tokens import find_added_tokens

VOCABULARY, MERGES = "vocab.json", "merges.txt"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
WORD_END = "</w>"

Rule = tuple[str, str]
"""A regular expression and the replacement of its matches."""

SPACES = "\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""The characters that Python's \\s matches, as a character class."""

DOT, TAKEN, KEPT = "\x01", "\x02", "\x03"
"""Marks in a text to encode: a dot of an ellipsis; the end of a match; a dot that does not end a sentence."""

CLOSED, OPENED = "\x02", "\x03"
"""Marks in a text to decode for spaces to remove: before a closing quote; after an opening one."""

ESCAPES = (
    ("&", "&amp;"),
    ("\\|", "&#124;"),
    ("<", "&lt;"),
    (">", "&gt;"),
    ("'", "&apos;"),
    ('"', "&quot;"),
    ("\\[", "&#91;"),
    ("\\]", "&#93;"),
)

UNESCAPES = (
    ("&bar;", "|"),
    ("&#124;", "|"),
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&bra;", "["),
    ("&ket;", "]"),
    ("&quot;", '"'),
    ("&apos;", "'"),
    ("&#91;", "["),
    ("&#93;", "]"),
    ("&amp;", "&"),
)

QUOTES = ("'", '"', "''", "'\"")
"""Quotation marks, paired separately by kind: every second one closes. BioGPT's vocabulary cannot produce others."""


def biogpt_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a folder with vocab.json and merges.txt. It adds no special tokens.

    Pieces that only occur inside others have no id in the published vocabulary: the original encodes them as <unk>,
    this tokenizer as ids after the end of the vocabulary.
    """
    ids: dict[str, int] = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
    # They follow the published vocabulary, before the ids of pieces below.
    ids |= {token.content: i for i, token in find_added_tokens(folder).items()}
    lines = (folder / MERGES).read_text(encoding="utf-8").split("\n")[:-1]
    merges = [(first, second) for first, second, *_ in (line.split() for line in lines)]
    for piece in (piece for first, second in merges for piece in (first, second, first + second)):
        ids.setdefault(piece, len(ids))
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token=SPECIAL[3], end_of_word_suffix=WORD_END))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex(p), text) for p, text in _tokenize_rules()])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = [decoders.Replace(WORD_END, " "), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*words, *(decoders.Replace(Regex(p), text) for p, text in _join_rules())])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return tokenizer


def _tokenize_rules() -> list[Rule]:
    """MosesTokenizer("en").tokenize(text, aggressive_dash_splits=True, escape=True)."""
    alnum, alpha = _characters(MosesTokenizer.IsAlnum), _characters(MosesTokenizer.IsAlpha)
    number = _characters(MosesTokenizer.IsN)
    other = f"[^{alnum}{SPACES}.'`,\\-]"
    return [
        (f"[{SPACES}]+", " "),
        ("[\\x00-\\x1f]", ""),
        ("\\A +| +\\z", ""),
        (f"(?={other})", " "),
        (f"(?<={other})", " "),
        (f"(?<=[{alnum}])-(?=[{alnum}])", " @-@ "),
        ("(?<!\\.)(?=\\.\\.)", " "),
        ("(?<=\\.\\.)(?!\\.)(?!\\z)", " "),
        ("\\.(?=\\.)|(?<=\\.)\\.", DOT),
        (f"[^{number}]\\K,", " , "),
        (f",(?=[^{number}])", " , "),
        (f"(?<=[{number}]),\\z", " , "),
        *_apostrophes(alpha, number),
        (" +", " "),
        ("\\A | \\z", ""),
        *_full_stops(alpha),
        ("\\.' ?\\z", " . ' "),
        # The original marks dots with these words, and also replaces them where they are in the text.
        ("DOT(?=(?:DOT)*MULTI)", DOT),
        (f"(?<={DOT})MULTI", ""),
        (DOT, "."),
        *ESCAPES,
    ]


def _apostrophes(alpha: str, number: str) -> list[Rule]:
    """An apostrophe is separated, or starts a word if it follows one. A match includes the next letter."""

    def replace(before: str, after: str, text: str) -> list[Rule]:
        return [(f"{before}'{after}\\K", TAKEN), (f"'(?=[^{TAKEN}]{TAKEN})", text), (TAKEN, "")]

    return [
        *replace(f"[^{alpha}]", f"[^{alpha}]", " ' "),
        *replace(f"[^{alpha}{number}]", f"[{alpha}]", " ' "),
        *replace(f"[{alpha}]", f"[^{alpha}]", " ' "),
        *replace(f"[{alpha}]", f"[{alpha}]", " '"),
        *replace(f"[{number}]", "s", " '"),
    ]


def _full_stops(alpha: str) -> list[Rule]:
    """A dot at the end of a word is separated, unless the word is an abbreviation or the next one is in lower case."""
    moses = MosesTokenizer("en")
    numeric = set(moses.NUMERIC_ONLY_PREFIXES)
    always = sorted({word for word in moses.NONBREAKING_PREFIXES if "#" not in word} - numeric)
    return [
        (f"(?<![^ ])(?=[^ ]*[{alpha}])(?=[^ ]*\\.[^ ]*\\.(?: |\\z))[^ ]+\\K\\.(?= |\\z)", KEPT),
        (f"(?<![^ ])(?:{_any(always)})\\K\\.(?= |\\z)", KEPT),
        (f"(?<=[^ ])\\.(?= [{_characters(MosesTokenizer.IsLower)}])", KEPT),
        (f"(?<![^ ])(?:{_any(numeric)})\\K\\.(?= [0-9])", KEPT),
        ("(?<=[^ ])\\.(?= |\\z)", " ."),
        (KEPT, "."),
    ]


def _join_rules() -> list[Rule]:
    """MosesDetokenizer("en").detokenize(words), for words separated by spaces."""
    gap = f"[ {CLOSED}{OPENED}]"
    currency = _characters(MosesDetokenizer.IsSc)
    cjk = "".join(f"{chr(first)}-{chr(last)}" for first, last in CJKChars.ranges)
    rules = [(f"[{SPACES}]+", " "), ("\\A ?", " "), (" ?\\z", " "), (" @-@ ", "-"), *UNESCAPES]
    for quote in QUOTES:
        # An apostrophe after a word that ends in s is a possessive, not an opening quote.
        free = "(?<!s)" if quote == "'" else ""
        word = f"{quote}(?={gap})"
        rules += [
            (f"{free}{gap}{word}(?:(?!{gap}{word}).)*\\K{gap}(?={word})", CLOSED),
            *([(f"(?<=s) (?={word})", CLOSED)] if free else []),
            (f"[ {OPENED}]{quote}\\K (?=.)", OPENED),
        ]
    return [
        *rules,
        (f"{gap}(?=[,.?!:;\\\\%}}\\])]+{gap})", CLOSED),
        (f"{gap}(?='[{_characters(MosesDetokenizer.IsAlpha)}])", CLOSED),
        (f"(?<={gap})[{currency}(\\[{{¿¡]+\\K{gap}", OPENED),
        (f"(?<=[{cjk}]){gap}(?=[{cjk}])", CLOSED),
        (f"[{CLOSED}{OPENED}]", ""),
        (" +", " "),
        ("\\A | \\z", ""),
    ]


def _any(words: Iterable[str]) -> str:
    """A regular expression for one of the words."""
    return "|".join(re.escape(word) for word in sorted(words))


def _characters(characters: str) -> str:
    """The body of a character class with these characters, consecutive ones joined to ranges."""
    ranges: list[list[int]] = []
    for code in sorted(map(ord, set(characters))):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(re.escape(chr(a)) + (f"-{re.escape(chr(b))}" if b > a else "") for a, b in ranges)
