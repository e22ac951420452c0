"""What single tokens add to a text, and which of them a grammar or banned phrases forbid, as a hand finds it."""

from types import SimpleNamespace

import pytest

from prelim.errors import InvalidOption
from prelim.generation.banned_phrases import Vocabulary, _apart, _cut_by_stop, _decode
from prelim.generation.constraint import Constraints
from prelim.generation.grammar import _MASKS, Grammars, _check
from prelim.generation.options import GenerationOptions
from prelim.generation.token_text import BAR, Piece, TokenTexts, UnknownDecoder, canonical
from prelim.generation.written_tokens import Added, _joined_signs, _word
from tests.model_src.generation.reference import EOS
from tests.model_src.generation.test_banned_phrases import vocabulary


def replace(found: str, content: str) -> dict[str, object]:
    """A step that replaces a text."""
    return {"type": "Replace", "pattern": {"String": found}, "content": content}


@pytest.mark.parametrize(
    ("steps", "signs"),
    [
        ([], ""),
        # A space before a sign goes, which is known once the sign is written.
        ([replace(" ,", ",")], ""),
        ([replace(" ,", "."), replace(" .", ".")], ","),
        ([replace(" .", "."), replace(" ,", ".")], ","),
        ([replace("_,", ",")], "_,"),
        ([replace(",", "x")], ","),
        ([replace(" ,x", ",")], ","),
        ([replace(" n't", "n't"), replace(" - ", "-")], "'-"),
        # Of other steps nothing is joined here.
        ([{"type": "Fuse"}, {"type": "Replace", "pattern": {"Regex": "-"}, "content": "+"}, replace("!", "")], "!"),
        # Letters and spaces, which any token may write.
        ([replace(" a", "a")], None),
        ([replace("ab", "b")], None),
        ([replace(" ", "")], None),
        ([replace("a", "b")], None),
    ],
)
def test_signs_that_a_decoder_joins(steps: list[dict[str, object]], signs: str | None) -> None:
    """All in what it replaces, but for a sign alone after a space; replaced letters make a decoder unknown."""
    if signs is not None:
        assert _joined_signs(steps) == set(signs)
        return
    for several in (steps, [*steps, replace(" ,", ",")], [replace(" ,", ","), *steps]):
        with pytest.raises(UnknownDecoder, match="its decoder replaces"):
            _joined_signs(several)


@pytest.mark.parametrize(
    ("piece", "first", "spaced"),
    [
        ("ab", (b"ab", 0), (b" ab", 0)),
        ("A1 ", (b"A1", 1), (b" A1", 1)),
        *((f"{sign} ", None, (sign.encode(), 1)) for sign in ".,:;?!%"),
        *((piece, None, None) for piece in (".", ",", "- ", "' ", "ä ", "a b ", "", " ", b"ab", None)),
    ],
)
def test_words_of_rules_for_words(piece: Piece, first: Added, spaced: Added) -> None:
    """A space goes before a word and not before a sign that closes, which is written only where a word has ended."""
    assert (_word(piece, spaced=False), _word(piece, spaced=True)) == (first, spaced)


@pytest.mark.parametrize(
    ("pending", "data", "text", "left", "wrong"),
    [
        (b"", b"a", "a", b"", False),
        (b"", b"\xe2\x89", "", b"\xe2\x89", False),
        (b"\xe2\x89", b"\xa5x", "≥x", b"", False),
        (b"\xe2", b"a", "\ufffda", b"", True),
        (b"", b"\xff\xe2", "\ufffd", b"\xe2", True),
        (b"\xe2", b"\xe2\x89", "\ufffd", b"\xe2\x89", True),
    ],
)
def test_bytes_of_characters(pending: bytes, data: bytes, text: str, left: bytes, wrong: bool) -> None:
    """Incomplete ones wait for the next bytes; others are replaced."""
    assert _decode(pending, data) == (text, left, wrong)


@pytest.mark.parametrize(
    ("phrase", "stop", "longer"),
    [
        ("lung", ("s", "b."), ("lungs", "lungb.")),
        ("lung", (".b", " b", "-", "\u00ad"), ()),
        ("lung", ("\ufb01n",), ("lungfin",)),
        ("x-", ("ray",), ()),
    ],
)
def test_words_that_a_stop_text_cuts(phrase: str, stop: tuple[str, ...], longer: tuple[str, ...]) -> None:
    """A phrase that ends with a word is also found in one that a stop text would lengthen and cut off again."""
    assert _cut_by_stop(phrase, stop) == {canonical(text).removesuffix(BAR) for text in longer}


@pytest.mark.parametrize(
    ("pattern", "apart"),
    [
        ("|isn|'|t|", ["|is|n|'|t|"]),
        ("|isn", ["|is|n|'|t"]),
        ("an|'|t", ["a|n|'|t"]),
        ("|nn", ["|n|n|'|t"]),
        ("n|'|t", []),
        ("|n|'|t|", []),
        ("|is|", []),
        ("-n|'|t|", []),
    ],
)
def test_beginnings_of_words_that_lose_their_space(pattern: str, apart: list[str]) -> None:
    """What "n't" was before a decoder moved it to the word before: a word of its own."""
    found = _apart(pattern.replace("|", BAR), canonical("n't").strip(BAR))
    assert {text.replace(BAR, "|") for text in found} == set(apart)


def test_masks_of_a_grammar() -> None:
    """What a mask allows is what it forbids not, for every token; unknown tokens are never allowed; few are kept."""
    grammar = Grammars(vocabulary(*(chr(97 + i % 26) + chr(97 + i // 26) for i in range(30))), [EOS]).of(
        GenerationOptions(grammar="(aa|ba|da|w3[0-9])[a-z0-9]*")
    )
    assert grammar is not None
    place = grammar.start()
    width = len(grammar.tokens.strings_in(grammar.tokens.start))
    assert [place.allows(token) for token in range(width + 2)] == (~place.forbidden(width + 2)).tolist()
    assert 0 < sum(place.allows(token) for token in range(width)) < width
    assert not place.allows(width)
    mask = place._strings()
    kept = set()
    for extra in range(3 * _MASKS):
        grammar.forbidden(grammar.tokens.start, mask + bytes([extra]), width)
        kept.add(len(grammar._forbidden))
    assert max(kept) == _MASKS == 64
    assert len(grammar.forbidden(grammar.tokens.start, mask, width + 5)) == width + 5
    with pytest.raises(KeyError):
        grammar._forbidden[grammar.tokens.start, b"none"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("one line", "one line"),
        ("first\nsecond", "first"),
        ("first\nerror: at 3(7): wrong\nerror: later", "wrong"),
        ("", ""),
        ("x" * 300, "x" * 200),
    ],
)
def test_what_is_wrong_with_a_grammar(error: str, reason: str) -> None:
    """The line that says so, or the first one, and nothing where all is well."""
    with pytest.raises(InvalidOption) as raised:
        _check(SimpleNamespace(is_error=lambda: True, get_error=lambda: error))  # type: ignore[arg-type]
    assert str(raised.value) == f"grammar cannot be used: {reason}"
    _check(SimpleNamespace(is_error=lambda: False, get_error=lambda: error))  # type: ignore[arg-type]


def test_schemas_that_json_cannot_say() -> None:
    """Whatever a program passes as a schema."""
    circle: dict[str, object] = {}
    circle["a"] = circle
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    for schema in ({"a": {1, 2}}, {("a",): 1}, circle, deep):
        with pytest.raises(InvalidOption, match="grammar is not a JSON schema"):
            GenerationOptions.from_mapping({"grammar": schema})


def test_grammars_of_any_script() -> None:
    """Letters of every script may be in one; half of a surrogate pair, which is not text, may not."""
    grammars = Grammars(vocabulary("\u00e9t\u00e9", "\u5fc3", "ete"), [EOS])
    found = grammars.of(GenerationOptions(grammar="\u00e9t\u00e9|\u5fc3"))
    assert found is not None
    assert found.start().allowed.nonzero()[0].tolist() == [4, 5]
    with pytest.raises(InvalidOption, match="half of a surrogate pair"):
        grammars.of(GenerationOptions(grammar="\ud83d"))


def test_what_cannot_be_kept_to_is_known_before() -> None:
    """A phrase and a grammar are both checked where a request enters."""
    tokenizer = vocabulary("a")
    constraints = Constraints(tokenizer, [EOS])
    for options, name in (({"banned_phrases": ("\u00ad",)}, "banned_phrases"), ({"grammar": "("}, "grammar")):
        with pytest.raises(InvalidOption) as raised:
            constraints.check(GenerationOptions(**options))  # type: ignore[arg-type]
        assert raised.value.field == name
    constraints.check(GenerationOptions(banned_phrases=("a",), grammar="a"))
    texts = Vocabulary(TokenTexts(tokenizer))
    for first in (True, False):
        pieces = [texts.piece(token_id, first=first) for token_id in range(tokenizer.get_vocab_size() + 2)]
        assert (pieces[4] or "").strip() == "a"
        assert pieces[-2:] == [None, None]


def test_the_first_unknown_option_is_named() -> None:
    """In alphabetical order, in the message and as the field."""
    with pytest.raises(InvalidOption, match="unknown option 'aa'; known: ") as raised:
        GenerationOptions.from_mapping({"zz": 1, "aa": 2, "num_beams": 1})
    assert raised.value.field == "aa"
