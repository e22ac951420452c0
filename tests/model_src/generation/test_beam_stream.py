"""With beams too, a stream is a beginning of the report at any time: nothing that it has sent is taken back."""

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from prelim.errors import RequestError
from prelim.generation.constraint import Constraints
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from prelim.generation.text_stages import cut_at_stop
from prelim.generation.text_stream import TextStreams
from tests.model_src.generation.reference import tiny_decoder, tiny_image
from tests.model_src.generation.tokenizer_kinds import SMALL

SLOTS = 6


def draw_options(draw: random.Random, text: str) -> GenerationOptions:
    """Options of any kind with several sequences; stop texts and banned phrases are parts of a text."""

    def parts(chances: tuple[int, ...]) -> tuple[str, ...]:
        places = [draw.randrange(len(text)) for _ in range(draw.choice(chances))]
        return tuple(part for place in places if (part := text[place : place + draw.randint(1, 5)]).strip())

    sample = draw.random() < 0.4
    beams = draw.choice((1, 2, 3, 5)) if sample else draw.choice((2, 2, 3, 4, 6))
    length = draw.randint(1, 40)
    return GenerationOptions(
        num_beams=beams,
        do_sample=sample,
        num_return_sequences=draw.randint(1, beams) if beams > 1 else draw.randint(1, 3),
        temperature=draw.choice((0.2, 1.0, 2.0)),
        top_k=draw.choice((0, 3, 50)),
        seed=draw.randrange(1000) if sample else None,
        repetition_penalty=draw.choice((1.0, 1.0, 1.5)),
        no_repeat_ngram_size=draw.choice((0, 0, 2)),
        length_penalty=draw.choice((1.0, 0.0, -1.0, 2.0)),
        early_stopping=draw.choice((False, True, "never")),
        min_new_tokens=draw.choice((0, length // 2, length)),
        max_new_tokens=length,
        stop=parts((0, 0, 1, 3)),
        banned_phrases=tuple(part for part in parts((0, 0, 0, 1)) if part.isalnum()),
    )


def run_random(kind: str, folder: Path, count: int) -> float:
    """Stream random requests to a tokenizer's end; returns the share of tokens that were known before the end."""
    draw = random.Random(kind)
    tokenizer: Tokenizer = SMALL[kind](folder)
    end = next(i for word in ("</s>", "[SEP]") if (i := tokenizer.token_to_id(word)) is not None)
    size = tokenizer.get_vocab_size()
    engine: Engine[DecodeRequest] = Engine(
        tiny_decoder(vocab_size=size, eos=end),
        slots=SLOTS,
        eos_token_ids=[end],
        pad_token_id=0,
        detokenize=lambda ids: tokenizer.decode(list(ids)),
        constraints=Constraints(tokenizer, [end]),
    )
    streams, text = TextStreams(tokenizer), tokenizer.decode(list(range(size)) * 2)
    asked = {}
    while len(asked) < count:
        options = draw_options(draw, text)
        asked[str(len(asked))] = DecodeRequest(tiny_image(len(asked)), (1 if end == 2 else 2,), options)
    engine.add(asked)
    opened = {key: streams.open(request.options.stop) for key, request in asked.items()}
    sent, decided = dict.fromkeys(asked, ""), dict.fromkeys(asked, 0)
    known = written = reports = 0
    while engine.active:
        for key, ended in engine.step().items():
            if isinstance(ended.outcome, RequestError):
                assert ended.outcome.code == 400, "every token is forbidden"
                continue
            first = ended.hypotheses[0].token_ids
            whole = cut_at_stop(tokenizer.decode(list(first)), ended.options.stop)
            assert whole.startswith(sent[key]), (ended.options, whole, sent[key])
            known, written, reports = known + decided[key], written + len(first), reports + 1
        for key in engine.running:
            if draw.random() < 0.7:
                tokens = engine.find(key).selection.decided()  # type: ignore[union-attr]
                sent[key] += opened[key].feed(tokens)
                decided[key] = len(tokens)
    assert reports > count / 2
    return known / written


@pytest.mark.parametrize("kind", SMALL)
def test_nothing_is_taken_back(kind: str, tmp_path: Path) -> None:
    """A sample of the thousand requests below; much of a text is known before its end."""
    assert run_random(kind, tmp_path, 15) > 0.2


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", SMALL)
def test_nothing_of_a_thousand_is_taken_back(kind: str, tmp_path: Path) -> None:
    """Random beams, sampling, penalties, lengths, stop texts and banned phrases; bytes and parts of characters."""
    assert run_random(kind, tmp_path, 1000) > 0.2
