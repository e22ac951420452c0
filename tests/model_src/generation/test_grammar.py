"""Grammars: a text is written if and only if the grammar describes it, in the order that the model finds likely."""

import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import regex
import torch
from tokenizers import Regex, Tokenizer, decoders, models

from prelim.errors import InvalidOption
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.grammar import Grammars
from prelim.generation.hypothesis import Hypothesis
from prelim.generation.options import GenerationOptions
from prelim.generation.written_tokens import END, NEVER, WrittenTokens
from tests.forcing import logits_after_each
from tests.model_src.generation.reference import (
    BOS,
    EOS,
    PAD,
    VOCAB_SIZE,
    Reference,
    generate_arguments,
    tiny_decoder,
    tiny_image,
)
from tests.model_src.generation.test_banned_phrases import WORDS, added_time, draw_options, engine, vocabulary
from tests.model_src.generation.tokenizer_kinds import IN_USE, SMALL

ANYTHING = "(?s).*"
GRAMMARS = (
    "[a-z]+( [a-z]+)*[.]",
    "(?i)(the )?lungs? (is|are|clear|s)*[.,]?( [a-z]+-[a-z]+)*",
    "(?s).{3,12}",
    r"(\p{L}+[ .,:-]?)+",
    "[^aeiou ]+( [^ ]*)*",
)


def decode(options: GenerationOptions, seed: int = 3, tokenizer: Tokenizer = WORDS) -> tuple[Hypothesis, ...]:
    """The sequences of one request."""
    return engine(tokenizer).decode({"a": DecodeRequest(tiny_image(seed), (BOS,), options)})["a"]


def begins(grammar: str, text: str) -> bool:
    """Whether a text that matches the grammar begins with this one, by another library."""
    return regex.fullmatch(grammar, text, partial=True) is not None


@pytest.mark.parametrize("kind", [*SMALL, *IN_USE])
def test_strings_of_tokens_are_the_text(kind: str, tmp_path: Path) -> None:
    """Joined, what the tokens add in their contexts is what the tokenizer makes of them all."""
    tokenizer = {**SMALL, **IN_USE}[kind](tmp_path)
    tokens, draw = WrittenTokens(tokenizer, []), random.Random(0)
    prose = tokenizer.encode("the lungs x - ray compared to 5 mm s s lung clear . ( no ) , 心 心").ids
    usable = [i for i, string in enumerate(tokens.strings_in(1).tolist()) if string != NEVER]
    for _ in range(300):
        ids, written, context = [], b"", tokens.start
        for _ in range(draw.randint(1, 9)):
            token = draw.choice(prose if draw.random() < 0.5 else usable)
            string = int(tokens.strings_in(context)[token])
            if string == NEVER:
                continue
            ids.append(token)
            written += tokens.strings[string]
            context = tokens.after(context, token)
        try:
            text = written.decode()
        except UnicodeDecodeError:
            continue
        assert tokenizer.decode(ids).rstrip() == text.rstrip(), ids
        assert tokenizer.decode(ids) == text or kind in {"Moses", "BioGPT"}


@pytest.mark.parametrize("kind", IN_USE)
def test_tokens_of_ordinary_reports_can_be_written(kind: str, tmp_path: Path) -> None:
    """Words, stops, commas, colons and hyphens, where the vocabulary has them."""
    tokenizer = IN_USE[kind](tmp_path)
    tokens = WrittenTokens(tokenizer, [])
    words = "findings : the heart is normal , no effusion ." + " well - aerated" * (kind != "BioGPT")
    context, unknown = tokens.start, tokenizer.token_to_id("[UNK]")
    for token in tokenizer.encode(words, add_special_tokens=False).ids:
        if token != unknown:
            assert tokens.strings_in(context)[token] not in (END, NEVER), tokenizer.id_to_token(token)
            context = tokens.after(context, token)


@pytest.mark.parametrize("kind", [*SMALL, *IN_USE])
def test_allowed_tokens_are_those_that_a_text_of_the_grammar_begins_with(kind: str, tmp_path: Path) -> None:
    """After random tokens, a token is allowed if and only if the text with it can become a match."""
    tokenizer = {**SMALL, **IN_USE}[kind](tmp_path)
    draw, size = random.Random(0), tokenizer.get_vocab_size()
    grammars, tokens = Grammars(tokenizer, []), WrittenTokens(tokenizer, [])
    allowed_ones = 0
    for grammar in GRAMMARS:
        for _ in range(6 if kind in SMALL else 2):
            compiled = grammars.of(GenerationOptions(grammar=grammar))
            assert compiled is not None
            place, ids, written, context = compiled.start(), [], b"", tokens.start
            for _ in range(draw.randint(1, 8)):
                allowed = place.allowed.nonzero()[0].tolist()
                for token in {*draw.sample(allowed, min(8, len(allowed))), *(draw.randrange(size) for _ in range(30))}:
                    string = int(tokens.strings_in(context)[token])
                    try:
                        text = (written + tokens.strings[string]).decode()
                    except UnicodeDecodeError:
                        continue
                    expected = string != NEVER and begins(grammar, text)
                    assert place.allows(token) == expected, (grammar, text)
                    allowed_ones += expected
                if not allowed:
                    break
                ids.append(draw.choice(allowed))
                written += tokens.strings[int(tokens.strings_in(context)[ids[-1]])]
                context = tokens.after(context, ids[-1])
                place = place.advance(ids[-1], last=False)
    assert allowed_ones


SHORT = "(is|as|before|un)?(changed|ch|w[0-9]+ ?)*( (is|as) .{2,4})?[.]?"


def filtered(grammar: str, ids: Sequence[int]) -> list[int]:
    """Tokens that may follow, by the text of every continuation."""
    tokens = [i for i in range(EOS + 1, VOCAB_SIZE) if begins(grammar, WORDS.decode([*ids, i]))]
    return [EOS] * (regex.fullmatch(grammar, WORDS.decode(list(ids))) is not None) + tokens


@pytest.mark.parametrize(
    "options",
    [
        GenerationOptions(),
        GenerationOptions(do_sample=True, seed=1, temperature=2.0, num_return_sequences=3),
        GenerationOptions(num_beams=3, num_return_sequences=3),
        GenerationOptions(num_beams=4, early_stopping="never", repetition_penalty=1.2, num_return_sequences=2),
        GenerationOptions(num_beams=2, do_sample=True, seed=2, top_k=5, top_p=0.9, num_return_sequences=2),
    ],
)
@pytest.mark.parametrize("grammar", [SHORT, "(w[0-9]+ )*w[0-9]+", "[a-z]+( [a-z0-9.-]+)*"])
def test_ids_are_those_of_generate_with_a_filter(options: GenerationOptions, grammar: str) -> None:
    """`generate` asks a regular expression about the text of every continuation."""
    options = dataclasses.replace(options, max_new_tokens=8, grammar=grammar)
    for seed in range(3):
        expected = generate_filtered(options, seed)
        assert [list(hypothesis.token_ids) for hypothesis in decode(options, seed)] == expected


def generate_filtered(options: GenerationOptions, seed: int) -> list[list[int]]:
    """Token ids of `generate` under `prefix_allowed_tokens_fn`."""
    reference = Reference(tiny_decoder(), tiny_image(seed))
    if options.seed is not None:
        torch.manual_seed(options.seed)
    rows = reference.generate(
        torch.tensor([[BOS]]),
        attention_mask=torch.ones(1, 1, dtype=torch.int64),
        use_cache=False,
        prefix_allowed_tokens_fn=lambda _, ids: filtered(options.grammar, ids.tolist()[1:]) or [PAD],
        **generate_arguments(options),
    )
    found = []
    for row in rows[:, 1:].tolist():
        end = row.index(EOS) + 1 if EOS in row else len(row)
        found.append(row[:end])
    return found


@pytest.mark.parametrize("beams", [2, 3, 16])
def test_beam_search_is_that_over_the_texts_of_the_grammar(beams: int) -> None:
    """The best sequences of three tokens are those of all continuations, filtered by their texts."""
    options = GenerationOptions(num_beams=beams, max_new_tokens=3, num_return_sequences=beams, grammar=SHORT)
    decoder, image = tiny_decoder(), tiny_image(3)
    open_, finished = [([], 0.0)], []
    for step in range(3):
        candidates = []
        for ids, total in open_:
            logprobs = logits_after_each(decoder, image[None], torch.tensor([[BOS, *ids]]))[0, -1].detach()
            logprobs = logprobs.log_softmax(-1)
            candidates += [([*ids, token], total + float(logprobs[token])) for token in filtered(SHORT, ids)]
        best = sorted(candidates, key=lambda pair: -pair[1])[: 2 * beams]
        finished += [(ids, total) for ids, total in best[:beams] if ids[-1] == EOS or step == 2]
        open_ = [(ids, total) for ids, total in best if ids[-1] != EOS][:beams]
    expected = sorted(finished, key=lambda pair: -pair[1] / len(pair[0]))[:beams]

    assert [list(hypothesis.token_ids) for hypothesis in decode(options)] == [ids for ids, _ in expected]


def run_random(count: int) -> None:
    """Decode random requests with random grammars and phrases, many at once, and look at all texts."""
    draw, batch = random.Random(1), engine(WORDS)
    whole = 0
    for start in range(0, count, 50):
        asked = {}
        for i in range(start, start + 50):
            asked[str(i)] = dataclasses.replace(
                draw_options(draw, i),
                banned_phrases=draw.choice(((), ("unchanged",), ("is", "w7"))),
                grammar=draw.choice((SHORT, "(w[0-9]+ )*w[0-9]+", "[a-z]+( [a-z0-9.-]+){1,4}", "", ANYTHING)),
            )
        requests = {key: DecodeRequest(tiny_image(int(key) % 7), (BOS,), options) for key, options in asked.items()}
        for key, hypotheses in batch.decode(requests).items():
            for hypothesis in hypotheses:
                text, grammar = WORDS.decode(list(hypothesis.token_ids)), asked[key].grammar or ANYTHING
                assert begins(grammar, text), (asked[key], text)
                if hypothesis.finish_reason == "eos":
                    assert regex.fullmatch(grammar, text), (asked[key], text)
                    whole += asked[key].grammar not in ("", ANYTHING)
    assert whole > count / 4


def test_reports_match_their_grammars() -> None:
    """A sample of the 10,000 random runs below."""
    run_random(200)


@pytest.mark.exhaustive
def test_ten_thousand_reports_match_their_grammars() -> None:
    """Random grammars, phrases, beams, sampling and lengths."""
    run_random(10_000)


@pytest.mark.exhaustive
@pytest.mark.parametrize("grammar", [ANYTHING, "[a-z ,:-]+([.][a-z ,:-]+)*[.]?"])
def test_a_step_of_three_beams_takes_at_most_a_tenth_longer(grammar: str) -> None:
    """With a grammar over whole reports; its beams fork at every step."""
    assert added_time(40, grammar=grammar) < 0.1


def letters_and_signs() -> Tokenizer:
    """A byte-level tokenizer that can write JSON."""
    pieces = [f"<{i}>" for i in range(4)] + list('{}[]":,.Ġabcdefghiklmnoprst0123456') + ["Ġ:", '":']
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces[:VOCAB_SIZE])}, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(pieces[:4])
    return tokenizer


@pytest.mark.parametrize("beams", [1, 3])
def test_json_schemas(beams: int) -> None:
    """The report is JSON of the schema, by another library."""
    from jsonschema import validate

    schema = {
        "type": "object",
        "properties": {
            "findings": {"type": "string", "maxLength": 5},
            "impression": {"enum": ["normal", "abnormal"]},
            "score": {"type": "integer", "minimum": 1, "maximum": 30},
        },
        "required": ["findings", "impression", "score"],
        "additionalProperties": False,
        "x-guidance": {"whitespace_flexible": False},
    }
    options = GenerationOptions(num_beams=beams, max_new_tokens=63, grammar=json.dumps(schema), min_new_tokens=0)
    tokenizer = letters_and_signs()
    for seed in range(3):
        (found,) = decode(options, seed, tokenizer)
        assert found.finish_reason == "eos"
        validate(json.loads(tokenizer.decode(list(found.token_ids))), schema)


def test_a_grammar_that_the_vocabulary_cannot_write() -> None:
    """Not even begin: refused at once. Not finish: the request ends with an error, and another beam continues."""
    with pytest.raises(InvalidOption, match="allows no first token"):
        decode(GenerationOptions(grammar="Zebra"))
    with pytest.raises(InvalidOption, match="banned_phrases or grammar"):
        decode(GenerationOptions(grammar="is as Zebra", max_new_tokens=9))
    with pytest.raises(InvalidOption, match="banned_phrases or grammar"):
        decode(GenerationOptions(grammar="is as Zebra", max_new_tokens=9, num_beams=3))
    (found,) = decode(GenerationOptions(grammar="is as Zebra|before (as )+is", max_new_tokens=9, num_beams=3))
    assert WORDS.decode(list(found.token_ids)).startswith("before as")


def test_only_the_end_is_allowed_where_the_grammar_ends() -> None:
    """And it is forbidden everywhere else."""
    (found,) = decode(GenerationOptions(grammar="is as before", max_new_tokens=30, num_beams=2))
    assert found.finish_reason == "eos"
    assert WORDS.decode(list(found.token_ids)) == "is as before"


DEEP: dict = {}
for _ in range(600):
    DEEP = {"type": "array", "items": DEEP}

HOSTILE = {
    "(": "unclosed group",
    "(?=a)b": "look-around",
    r"(a)\1": "backreferences",
    "is\\": "ends with a backslash",
    "(?x) is # a comment\n ": "with the flag x it must be one line",
    "{": "not a JSON schema",
    '{"type": "text"}': "Invalid type",
    '{"$ref": "https://example.org/x.json"}': "https",
    json.dumps(DEEP): "allowed: at most 8192 characters",
    "(" * 300 + "a" + ")" * 300: "nested parentheses",
    json.dumps({"allOf": [{"properties": {"a": {"enum": list(range(i, i + 300))}}} for i in range(3)]}): "too large",
    '{"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}': "allows no first token",
    '{"type": "string", "pattern": "("}': "unclosed group",
}


@pytest.mark.parametrize("grammar", HOSTILE)
def test_grammars_that_cannot_be_used_are_refused_with_the_reason(grammar: str) -> None:
    """Wrong ones, those that regular languages do not have, remote ones and those that cost too much."""
    with pytest.raises(InvalidOption, match=HOSTILE[grammar]) as error:
        decode(GenerationOptions(grammar=grammar, max_new_tokens=60))
    assert error.value.field == "grammar"
    assert len(str(error.value)) < 300


PATTERNS = [f".*{letter}.{{{20 + i}}}{letter}.*" for i, letter in enumerate("abcdefghijklmnop")]


def chain(keyword: str) -> dict[str, Any]:
    """A schema in which each pattern has the next one inside a combining keyword."""
    schema: dict[str, Any] = {"type": "string"}
    definitions = {}
    for i, pattern in enumerate(PATTERNS):
        definitions[f"d{i}"] = schema
        inner = f"#/$defs/d{i}" if keyword == "$ref" else [schema]
        schema = {"type": "string", "pattern": pattern, keyword: inner}
    return {"$defs": definitions if keyword == "$ref" else {}, **schema}


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf", "$ref"])
def test_schemas_that_combine_many_patterns_are_refused(keyword: str) -> None:
    """Whether any text matches all 16 takes a second and 100 MB, which no limit of llguidance counts."""
    with pytest.raises(InvalidOption, match="has 16 patterns and formats and combines schemas; at most 8"):
        Grammars(letters_and_signs(), [EOS]).of(GenerationOptions(grammar=json.dumps(chain(keyword))))


def test_schemas_of_many_patterns_that_are_not_combined_are_taken() -> None:
    """One for each field of a form; and a few that are combined."""
    schema = {
        "type": "object",
        "properties": {f"{i}": {"type": "string", "pattern": "[a-z]" * i} for i in range(1, 20)},
    }
    combined = {"type": "string", "allOf": [{"pattern": f"[a-z]{{{i}}}"} for i in range(1, 3)], "pattern": "b"}
    for one in (schema, combined):
        assert Grammars(letters_and_signs(), [EOS]).of(GenerationOptions(grammar=json.dumps(one)))


def test_a_regular_expression_cannot_leave_its_rule() -> None:
    """Slashes, line breaks and quotation marks in it are characters of the text."""
    for text in ("a/", "/\nstart: w1", "a\\/b", '"is"'):
        with pytest.raises(InvalidOption, match=r"allows no first token|cannot be used"):
            decode(GenerationOptions(grammar=text if text.startswith("a") else f"Z{text}"))


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (None, "its decoder has a step none"),
        (decoders.BPEDecoder(), "a step BPEDecoder"),
        (decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("a+"), "b")]), "that changes words"),
    ],
)
def test_tokenizers_whose_texts_are_not_known_are_refused(decoder: decoders.Decoder | None, message: str) -> None:
    """By the step that is not known."""
    tokenizer = vocabulary("a")
    tokenizer.decoder = decoder
    with pytest.raises(InvalidOption, match=f"grammar is given, but this model's tokens cannot be mapped.*{message}"):
        Grammars(tokenizer, [EOS]).of(GenerationOptions(grammar="a"))
