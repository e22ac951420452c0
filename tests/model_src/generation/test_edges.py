"""Values at the edges of generation: what a score is made of, who may enter, and what is left when one leaves."""

import json
import random
from pathlib import Path

import pytest
import torch

from prelim.errors import ArchiveError, InvalidOption, TooLarge
from prelim.generation import grammar as grammar_module
from prelim.generation.advance import advance
from prelim.generation.columns import KEPT_COLUMNS
from prelim.generation.confidence import INPUTS, Confidence, read_confidence, read_sentences
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.hypothesis import Hypothesis
from prelim.generation.options import GenerationOptions
from prelim.generation.phrase_automaton import Characters, Strings
from prelim.generation.prompt import Prompter
from prelim.generation.prompt_config import PromptConfig
from prelim.generation.text_stages import begun
from prelim.generation.token_text import BAR, UnknownDecoder, canonical, split_steps
from tests.model_src.generation.reference import BOS, EOS, engine, request, tiny_decoder, tiny_image
from tests.model_src.generation.test_banned_phrases import WORDS
from tests.model_src.generation.test_columns import narrow_engine
from tests.model_src.generation.test_prompt import characters, show

CALIBRATION = Confidence("0" * 64, ("surprisal", "tokens"), (1.0, 4.0), (2.0, 8.0), (-3.0, 0.5), (-1.0, 0.0, 3.0))


def test_a_score_by_hand() -> None:
    """Each input less its center, by its scale, times its weight; a sentence at the level need not be confirmed."""
    inputs = {"surprisal": 5.0, "tokens": 8.0, "largest": 99.0}
    assert CALIBRATION.score(inputs) == -3 * (5 - 1) / 2 + 0.5 * (8 - 4) / 8
    zero = {"surprisal": 1.0, "tokens": 4.0}
    assert CALIBRATION.of(zero) == 0.5
    for level, confirm in ((0.5, False), (0.51, True)):
        (sentence,) = CALIBRATION.sentences([("a", zero)], level)
        assert (sentence.text, sentence.confidence, sentence.confirm) == ("a", 0.5, confirm)


@pytest.mark.parametrize("change", [{"wrong": None}, {"scales": "ab"}, {"inputs": "surprisal"}, {"scales": [-1, 1]}])
def test_calibrations_of_other_types(change: dict[str, object], tmp_path: Path) -> None:
    """A missing file, one that is not JSON, and values that are not lists are named; equal scores are allowed."""
    path = tmp_path / "confidence.json"
    with pytest.raises(ArchiveError, match=r"confidence\.json cannot be read"):
        read_confidence(path)
    CALIBRATION.write(path)
    contents = json.loads(path.read_text())
    for text, message in (
        ("{", "cannot be read"),
        ("[]", "must have"),
        (json.dumps(contents | change), "confidence.json"),
    ):
        path.write_text(text)
        with pytest.raises(ArchiveError, match=message):
            read_confidence(path)
    path.write_text(json.dumps(contents | {"wrong": [1, 1, 2.5]}))
    assert read_confidence(path).wrong == (1, 1, 2.5)
    four = {name: [0.5] * 4 for name in ("centers", "scales", "weights")}
    path.write_text(json.dumps(contents | four | {"inputs": [*INPUTS]}))
    assert read_confidence(path).inputs == INPUTS
    path.write_text(json.dumps(contents | {"scales": [0, 1]}))
    with pytest.raises(ArchiveError, match="scales must be above 0"):
        read_confidence(path)
    CALIBRATION.write(path)
    assert path.read_text().startswith('{\n "model": "000')


@pytest.mark.parametrize(
    ("pieces", "report", "counts"),
    [
        (["A.", " B.", " C."], "A. B. C.", [1, 1, 1]),
        (["A", ".", " B", "."], "A. B.", [2, 2]),
        (["x ", "A.", " B."], "A. B.", [1, 1]),
        (["x A.", " B."], "A. B.", [1, 1]),
        (["A. B.", " C"], "A. B. C", [1, 1, 1]),
        (["A.", " B.", " C."], "written by hand. Twice.", [3, 1]),
        (["ab", ".", " cd", "."], "xy. zw", [2, 2]),
    ],
)
def test_where_the_tokens_of_a_sentence_end(pieces: list[str], report: str, counts: list[int]) -> None:
    """To the token that reaches its last character; a report that is not in the text begins with it."""
    hypothesis = Hypothesis(tuple(range(len(pieces))), (0.0,) * len(pieces), "eos")
    found = read_sentences(report, hypothesis, lambda ids: "".join(pieces[i] for i in ids), None)
    assert [inputs["tokens"] for _, inputs in found] == counts
    # Of tokens that are certain, and of those that rounding has made more than certain.
    for logprob in (0.0, 1e-5):
        hypothesis = Hypothesis(hypothesis.token_ids, (logprob,) * len(pieces), "eos")
        for _, inputs in read_sentences(report, hypothesis, lambda ids: "".join(pieces[i] for i in ids), None):
            assert (inputs["surprisal"], inputs["largest"]) == pytest.approx((-13.815510558, -13.815510558))


def test_requests_are_told_apart_by_themselves() -> None:
    """Equal images and options make no equal requests."""
    first, second = (request(tiny_image(0), GenerationOptions()) for _ in range(2))
    assert first != second
    assert len({first, second}) == 2
    assert (first.position, first.is_read, first.request_id, len(first.tokens)) == (0, True, "", 0)
    assert (first.image_tokens, DecodeRequest(None, (BOS,), GenerationOptions()).image_tokens) == ((6,), (0,))
    with pytest.raises(ValueError, match="has not ended"):
        _ = first.hypotheses
    with pytest.raises(ValueError, match="has no image_embeds"):
        DecodeRequest(None, (BOS,), GenerationOptions()).embed()


@pytest.mark.parametrize("order", [("wide", "slow"), ("slow", "wide")])
def test_a_wide_request_leaves_nothing_behind(order: tuple[str, str]) -> None:
    """Neither in its own slot nor where the last one stood: the cache has its usual size, zeros beyond the others."""
    draws = {"do_sample": True, "seed": 0, "num_return_sequences": 16, "max_new_tokens": 50, "min_new_tokens": 50}
    options = {
        "wide": GenerationOptions(**draws),
        "slow": GenerationOptions(max_new_tokens=60, min_new_tokens=60, num_beams=2),
    }
    batch = narrow_engine(2560, slots=2)
    batch.add({name: request(tiny_image(1), options[name]) for name in order})
    while "wide" in batch.active:
        batch.step()
    assert batch.running == {"slow"}
    assert batch._state.cache.columns <= KEPT_COLUMNS
    assert all(not layer[:, 1].any() for layer in batch._state.cache.layers)
    while batch.active:
        batch.step()
    assert not any(layer.any() for layer in batch._state.cache.layers)


@pytest.mark.parametrize(
    ("prefix", "tokens", "message"),
    [(64, 1, None), (63, 2, None), (64, 2, "at most 1 are possible"), (65, 1, "take 65 positions; this model has 64")],
)
def test_positions_that_a_prefix_leaves(
    monkeypatch: pytest.MonkeyPatch, prefix: int, tokens: int, message: str | None
) -> None:
    """The first token is chosen at the last position of the prefix."""
    batch = engine(tiny_decoder())
    one = {"a": request(tiny_image(0), GenerationOptions(max_new_tokens=tokens))}
    monkeypatch.setattr(one["a"], "prompt_ids", (BOS,) * prefix)
    if message is None:
        batch.add(one)
        assert batch.active == {"a"}
    else:
        with pytest.raises(InvalidOption if tokens > 1 else TooLarge, match=message):
            batch.add(one)


def test_what_an_engine_refuses() -> None:
    """An id that is in use, a whole batch next to others, and banned phrases without a tokenizer."""
    batch, options = engine(tiny_decoder()), GenerationOptions(max_new_tokens=3, min_new_tokens=3)
    batch.add({"a": request(tiny_image(0), options)})
    for _ in range(2):  # waiting, then running
        with pytest.raises(ValueError, match="the request 'a' has not ended"):
            batch.add({"a": request(tiny_image(1), options)})
        with pytest.raises(RuntimeError, match="1 other requests have not ended"):
            batch.decode({"b": request(tiny_image(1), options)})
        batch.step()
    batch.cancel("a")
    assert not batch.active
    with pytest.raises(ValueError, match="an engine that knows its tokenizer"):
        batch.add({"a": request(tiny_image(0), GenerationOptions(banned_phrases=("x",)))})
    column = 2 * 2 * 32 * 4  # keys and values, layers, width, bytes
    assert batch.max_cache_bytes == 8 * batch.max_columns * column
    with pytest.raises(ValueError, match="has not been prefilled"):
        advance(request(tiny_image(0), options), torch.zeros(1, 4))


def test_a_cache_has_as_many_slots_as_requests() -> None:
    """None that no request has ever been in."""
    batch = engine(tiny_decoder(), slots=2)
    batch.add({name: request(tiny_image(0), GenerationOptions(max_new_tokens=9, min_new_tokens=9)) for name in "abc"})
    batch.step()
    assert {layer.shape[1] for layer in batch._state.cache.layers} == {2}


def test_draws_without_a_seed_differ() -> None:
    """Each request without one draws as nobody did before."""
    batch = engine(tiny_decoder())
    drawing, seeded = (request(tiny_image(0), GenerationOptions(do_sample=True, seed=seed)) for seed in (None, 5))
    seeds = [batch.select(drawing)._generator.initial_seed() for _ in range(4)]  # type: ignore[attr-defined]
    assert len(set(seeds)) == 4
    assert batch.select(seeded)._generator.initial_seed() == 5  # type: ignore[attr-defined]
    assert batch.select(request(tiny_image(0), GenerationOptions()))._generator is None  # type: ignore[attr-defined]


def test_words_of_a_request_are_words_wherever_they_stand() -> None:
    """A template may have them twice; its own special tokens are these around both."""
    template = PromptConfig(after="<s>{prompt}<s>>{prompt}<s>")
    assert show(Prompter(template, characters()).ids("<s>a", None)) == "[IMAGE][1]<s>a[2]<s>a[1]"


@pytest.mark.parametrize(
    ("text", "wanted", "longest"),
    [("xab", "abc", 2), ("xabc", "abc", 0), ("xa", "abc", 1), ("a", "abc", 1), ("", "abc", 0), ("aa", "aab", 2)],
)
def test_beginnings_at_the_end_of_a_text(text: str, wanted: str, longest: int) -> None:
    """The longest, and never all of what is wanted."""
    assert begun(text, wanted) == longest


def test_phrases_are_found_as_in_the_whole_text() -> None:
    """By the automaton, in texts that are read in two parts, one by one or all second parts at once."""
    draw = random.Random(0)

    def text(longest: int) -> str:
        return "".join(draw.choices("abA- .\u00e4c", k=draw.randint(0, longest)))

    found = 0
    for _ in range(60):
        phrases = [phrase for phrase in (text(4) for _ in range(3)) if phrase.strip()] or ["ab"]
        patterns = {canonical(phrase) for phrase in phrases} | {canonical(phrases[0]).removesuffix(BAR)}
        automaton = Characters(patterns)

        def has(whole: str, patterns: set[str] = patterns) -> bool:
            return any(pattern in canonical(whole) for pattern in patterns)

        for first in (text(6) for _ in range(8)):
            state, hit = automaton.read(automaton.start, first)
            assert hit == has(first), (patterns, first)
            if hit:
                continue
            seconds = [text(5) for _ in range(10)]
            expected = [has(first + second) for second in seconds]
            found += sum(expected)
            assert [automaton.read(state, second)[1] for second in seconds] == expected, (patterns, first, seconds)
            strings = Strings.of(seconds, range(10))
            hits = automaton.hits(state, strings)
            assert {int(i) for i in strings.order[hits]} == {i for i, one in enumerate(expected) if one}
    assert found > 300


def test_eight_grammars_are_kept() -> None:
    """Of nine the one that was not used for longest is compiled again."""
    grammars = grammar_module.Grammars(WORDS, [EOS])
    options = [GenerationOptions(grammar=f"(?s).{{{shortest},}}") for shortest in range(9)]
    kept = [grammars.of(one) for one in options[:8]]
    assert [grammars.of(one) for one in options[:8]] == kept
    grammars.of(options[0])
    grammars.of(options[8])
    assert grammars.of(options[0]) is kept[0]
    assert grammars.of(options[1]) is not kept[1]


def test_limits_of_grammars() -> None:
    """Those under which one compiles, and a step over it takes, at most some 10 ms; forms for people are left out."""
    assert grammar_module._LIMITS == {
        "max_items_in_row": 500, "initial_lexer_fuel": 200_000, "step_lexer_fuel": 100_000, "step_max_items": 10_000,
        "max_lexer_states": 10_000, "max_grammar_size": 20_000, "precompute_large_lexemes": False,
        "verbose_errors": False,
    }  # fmt: skip


BYTE_LEVEL, FUSE, STRIP, WORDPIECE, FALLBACK = (
    {"type": name} for name in ("ByteLevel", "Fuse", "Strip", "WordPiece", "ByteFallback")
)
SPACES = {"type": "Replace", "pattern": {"String": "_"}, "content": " "}


@pytest.mark.parametrize(
    ("of_tokens", "joining", "of_text"),
    [
        ([], [], []),
        ([WORDPIECE], [], []),
        ([BYTE_LEVEL], [], []),
        ([BYTE_LEVEL], [], [STRIP]),
        ([SPACES, BYTE_LEVEL], [], [SPACES, STRIP]),
        ([], [FUSE], [STRIP]),
        ([SPACES, FALLBACK], [FUSE], [STRIP, SPACES]),
        ([WORDPIECE], [FUSE], []),
    ],
)
def test_steps_of_a_decoder_are_split(
    of_tokens: list[dict[str, object]], joining: list[dict[str, object]], of_text: list[dict[str, object]]
) -> None:
    """At the one that joins tokens to a text, which for bytes belongs to the first part."""
    assert split_steps([*of_tokens, *joining, *of_text]) == (of_tokens, of_text)
    for unknown in ({"type": "CTC"}, {"type": "Replace", "pattern": {"Regex": "_"}, "content": " "}):
        with pytest.raises(UnknownDecoder, match=f"its decoder has a step {unknown['type']}"):
            split_steps([WORDPIECE, unknown, FUSE])
