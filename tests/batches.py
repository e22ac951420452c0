"""Requests decoded alone and in an in-flight batch, their logits kept bit by bit."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from prelim.decoders.decoder import Decoder
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from prelim.generation.request import DecodeRequest

OPTIONS = (
    GenerationOptions(max_new_tokens=8),
    GenerationOptions(max_new_tokens=12, num_beams=3),
    GenerationOptions(max_new_tokens=10, num_beams=2, num_return_sequences=2),
    GenerationOptions(max_new_tokens=5, do_sample=True, seed=1, num_return_sequences=4),
    GenerationOptions(max_new_tokens=14, num_beams=5),
)
"""Of as many rows and lengths as requests in one batch may have."""

Texts = Mapping[str, tuple[list[tuple[int, ...]], list[bytes]]]
"""Request -> token ids of its hypotheses, and the bits of the logits of each step."""


class _Recording(Engine[DecodeRequest]):
    """An engine that keeps the bits of all logits by request."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.bits: dict[str, list[bytes]] = {}

    def _choose(self, first: int, logits: Tensor) -> None:
        for request, own in zip(self._running[first:], logits, strict=True):
            kept = self.bits.setdefault(request.request_id, [])
            kept.append(own[: request.options.rows].float().numpy().tobytes())
        super()._choose(first, logits)


def decode(decoder: Decoder[Any], requests: Mapping[str, DecodeRequest], slots: int, eos: int) -> Texts:
    """All requests in one engine of so many slots; one or two enter at a step, as slots are free."""
    engine = _Recording(decoder, slots=slots, eos_token_ids=[eos], pad_token_id=eos, detokenize=str)
    waiting, steps = list(requests.items()), 0
    done: dict[str, list[tuple[int, ...]]] = {}
    while len(done) < len(requests):
        entering = min(slots - len(engine.running), 1 + (steps % 3 == 0))
        engine.add(dict(waiting[:entering]))
        del waiting[:entering]
        for key, request in engine.step().items():
            done[key] = [hypothesis.token_ids for hypothesis in request.hypotheses]
        steps += 1
    return {key: (ids, engine.bits[key]) for key, ids in done.items()}


def alone(decoder: Decoder[Any], requests: Mapping[str, DecodeRequest], eos: int) -> Texts:
    """Each request in an engine of its own."""
    return {key: decode(decoder, {key: request}, 1, eos)[key] for key, request in requests.items()}
