"""Requests decoded alone and in an in-flight batch, their logits kept bit by bit."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from prelim.decoders.decoder import Decoder
from prelim.errors import RequestError
from prelim.generation.advance import Seen
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.hypothesis import Hypothesis
from prelim.generation.options import GenerationOptions

OPTIONS = (
    GenerationOptions(max_new_tokens=8),
    GenerationOptions(max_new_tokens=12, num_beams=3),
    GenerationOptions(max_new_tokens=10, num_beams=2, num_return_sequences=2),
    GenerationOptions(max_new_tokens=5, do_sample=True, seed=1, num_return_sequences=4),
    GenerationOptions(max_new_tokens=14, num_beams=5),
)
"""Of as many rows and lengths as requests in one batch may have."""

Found = Mapping[str, tuple[tuple[Hypothesis, ...] | str, list[bytes]]]
"""Request -> its sequences with their log-probabilities, or its error; and the bits of the logits of each step."""


class _Recording(Engine[DecodeRequest]):
    """An engine that keeps the bits of all logits by request."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.bits: dict[str, list[bytes]] = {}

    def _look(self, asked: Sequence[tuple[DecodeRequest, Tensor]]) -> list[Seen]:
        for request, logits in asked:
            own = logits[: request.options.rows].float().numpy().tobytes()
            self.bits.setdefault(request.request_id, []).append(own)
        return super()._look(asked)


def draw_options(draw: random.Random) -> GenerationOptions:
    """Options of any kind, with a seed where they draw; stop texts are of token ids as `str` writes them."""
    sample, beams = draw.random() < 0.4, draw.choice((1, 1, 2, 3, 5))
    rows = beams if beams > 1 else 4 if sample else 1
    length = draw.randint(1, 16)
    return GenerationOptions(
        num_beams=beams,
        do_sample=sample,
        num_return_sequences=draw.randint(1, rows),
        temperature=draw.choice((0.5, 1.0, 2.0)),
        top_k=draw.choice((0, 5, 50)),
        top_p=draw.choice((0.8, 1.0)),
        seed=draw.randrange(1000) if sample else None,
        repetition_penalty=draw.choice((1.0, 1.3)),
        no_repeat_ngram_size=draw.choice((0, 0, 2)),
        length_penalty=draw.choice((1.0, 0.0, 2.0)),
        early_stopping=draw.choice((False, True, "never")),
        min_new_tokens=draw.choice((0, length)),
        max_new_tokens=length,
        stop=draw.choice(((), (), ("7, 1",), ("13", "5, 4"))),
    )


def decode(
    decoder: Decoder[Any],
    requests: Mapping[str, DecodeRequest],
    slots: int,
    eos: int,
    *,
    draw: random.Random | None = None,
    leaving: Sequence[str] = (),
    **settings: Any,
) -> Found:
    """All requests in one engine of so many slots; one or two enter at a step, as slots are free.

    draw     : how many enter is drawn
    leaving  : requests that are canceled a few steps after they have entered
    settings : of the engine, in place of the usual ones
    """
    usual = {"eos_token_ids": [eos], "pad_token_id": eos, "detokenize": str}
    engine = _Recording(decoder, slots=slots, **(usual | settings))
    waiting, steps = list(requests.items()), 0
    done: dict[str, tuple[Hypothesis, ...] | str] = {}
    while waiting or engine.active:
        wanted = 1 + (steps % 3 == 0) if draw is None else draw.randrange(slots)
        entering = min(slots - len(engine.running), wanted)
        engine.add(dict(waiting[:entering]))
        del waiting[:entering]
        for key, request in engine.step().items():
            failed = isinstance(request.outcome, RequestError)
            done[key] = str(request.outcome) if failed else request.hypotheses
        for key in leaving:
            if len(engine.bits.get(key, [])) > 2:
                engine.cancel(key)
        steps += 1
    return {key: (found, engine.bits[key]) for key, found in done.items()}


def alone(decoder: Decoder[Any], requests: Mapping[str, DecodeRequest], eos: int, **settings: Any) -> Found:
    """Each request in an engine of its own."""
    return {key: decode(decoder, {key: request}, 1, eos, **settings)[key] for key, request in requests.items()}
