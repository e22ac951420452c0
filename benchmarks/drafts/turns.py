"""Decoding without drafts and with them, in turns, and the time of a step by its number of rows."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from benchmarks.models.shapes import EOS, PAD
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.drafts import MAX_DRAFTS, Drafts
from prelim.generation.engine import Engine
from prelim.generation.hypothesis import Hypothesis
from prelim.generation.threads import set_threads

TOGETHER = (1, 4)
"""Numbers of requests that are decoded together."""

COLUMNS = 76
"""Columns of the cache that a measured step looks at, besides its own."""

STEP_ROUNDS = 40


@dataclass(frozen=True)
class Decoded:
    """All requests, decoded.

    written            : the sequences of each request, with their log-probabilities
    steps              : of the engine
    seconds            : CPU seconds
    proposed, accepted : numbers of draft tokens
    """

    written: Mapping[str, tuple[Hypothesis, ...]]
    steps: int
    seconds: float
    proposed: int
    accepted: int


def decode(decoder: Any, requests: Mapping[str, DecodeRequest], together: int, drafts: Drafts | None) -> Decoded:
    """Decode requests in one thread; as soon as one of `together` ends, the next one enters."""
    engine: Engine[DecodeRequest] = Engine(
        decoder, slots=together, eos_token_ids=[EOS], pad_token_id=PAD, detokenize=str, drafts=drafts, threads=1
    )
    ended: dict[str, DecodeRequest] = {}
    steps, began = 0, time.process_time()
    engine.add(requests)
    while engine.active:
        ended |= engine.step()
        steps += 1
    seconds = time.process_time() - began
    return Decoded({name: ended[name].hypotheses for name in requests}, steps, seconds, *engine.take_draft_counts())


@dataclass(frozen=True)
class DraftRow:
    """One way of decoding, without drafts (plain) and with them.

    together               : number of requests that are decoded together
    texts, different       : number of texts, and how many of them are different
    tokens                 : of all texts
    plain_steps, steps     : of the engine
    proposed, accepted     : numbers of draft tokens
    plain_seconds, seconds : CPU seconds, the best of the rounds
    same                   : whether all rounds gave the same tokens and log-probabilities, bit for bit
    """

    decoder: str
    precision: str
    mode: str
    together: int
    texts: int
    different: int
    tokens: int
    plain_steps: int
    steps: int
    proposed: int
    accepted: int
    plain_seconds: float
    seconds: float
    same: bool

    @property
    def gain(self) -> float:
        """Time without drafts / time with them."""
        return self.plain_seconds / self.seconds


def take_turns(
    served: Any,
    requests: Mapping[str, DecodeRequest],
    drafts: Drafts,
    *,
    together: int,
    rounds: int,
    progress: Callable[[], None],
    **names: str,
) -> DraftRow:
    """Decode all requests without drafts and with them in every round, after a warm-up with a few.

    served : the decoder
    names  : decoder, precision and mode of the row
    """
    few = dict(list(requests.items())[:together])
    for table in (None, drafts):
        decode(served, few, together, table)
    plain, drafted = [], []
    for _ in range(rounds):
        progress()
        plain.append(decode(served, requests, together, None))
        drafted.append(decode(served, requests, together, drafts))
    first, last = plain[0], drafted[-1]
    texts = [written[0].token_ids for written in first.written.values()]
    return DraftRow(
        **names,
        together=together,
        texts=len(texts),
        different=len(set(texts)),
        tokens=sum(map(len, texts)),
        plain_steps=first.steps,
        steps=last.steps,
        proposed=last.proposed,
        accepted=last.accepted,
        plain_seconds=min(run.seconds for run in plain),
        seconds=min(run.seconds for run in drafted),
        same=all(run.written == first.written for run in (*plain, *drafted)),
    )


def tokens_a_step(reports: Iterable[Sequence[int]], drafts: Drafts) -> float:
    """Tokens a step of a decoder that would write these reports with drafts, one at a time.

    As everywhere here, the first token of a report takes no step.
    """
    tokens = steps = 0
    for report in reports:
        written = 1
        while written < len(report):
            proposed = drafts.propose(report[:written], MAX_DRAFTS)
            accepted = takewhile(lambda pair: pair[0] == pair[1], zip(proposed, report[written:], strict=False))
            written += len(list(accepted)) + 1
            steps += 1
        tokens += len(report)
    return tokens / steps


@dataclass(frozen=True)
class StepCost:
    """CPU seconds of a step of one thread, with so many rows for each of the requests."""

    decoder: str
    precision: str
    together: int
    rows: int
    seconds: float


@torch.inference_mode()
def step_costs(served: Any, **names: str) -> list[StepCost]:
    """The costs of steps that differ in requests and rows, the best of interleaved rounds.

    served : the decoder
    names  : decoder and precision
    """
    steps = {
        (together, rows): _step(served, together, rows) for together in TOGETHER for rows in range(1, MAX_DRAFTS + 2)
    }
    best = dict.fromkeys(steps, math.inf)
    with set_threads(1):
        for _ in range(STEP_ROUNDS):
            for kind, step in steps.items():
                began = time.process_time()
                step()
                best[kind] = min(best[kind], time.process_time() - began)
    return [StepCost(**names, together=together, rows=rows, seconds=best[together, rows]) for together, rows in steps]


def _step(decoder: Any, slots: int, rows: int) -> Callable[[], Tensor]:
    """A step with so many rows in each slot, after COLUMNS tokens."""
    state, length = decoder.new_state(slots), COLUMNS + rows
    state.cache.reserve(slots, length)
    columns = torch.arange(COLUMNS, length).repeat(slots, 1)
    places = state.cache.places(slice(0, slots), columns, length)
    mask = torch.ones(slots, 1, rows, length, dtype=torch.bool)
    return partial(decoder.step, state, places, torch.zeros_like(columns), columns, mask)
