"""Requests decoded alone and in an in-flight batch, their logits kept bit by bit."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from model_src.decoders.decoder import Decoder
from model_src.generation.engine import DecodeRequest, Engine
from model_src.generation.options import GenerationOptions

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


class _Recording(Engine):
    """An engine that keeps the bits of all logits by request."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.bits: dict[str, list[bytes]] = {}

    def _choose(self, index: int, logits: Tensor) -> bool:
        kept = self.bits.setdefault(self._batch[index].request_id, [])
        kept.append(logits.float().numpy().tobytes())
        return super()._choose(index, logits)


def decode(decoder: Decoder[Any], requests: Mapping[str, DecodeRequest], slots: int, eos: int) -> Texts:
    """All requests in one engine of so many slots; one or two enter at a step, as slots are free."""
    engine = _Recording(decoder, slots=slots, eos_token_ids=[eos], pad_token_id=eos, detokenize=str)
    waiting, done, steps = list(requests.items()), {}, 0
    while len(done) < len(requests):
        entering = min(engine.free_slots, 1 + (steps % 3 == 0))
        engine.add(dict(waiting[:entering]))
        del waiting[:entering]
        done |= {key: [h.token_ids for h in hypotheses] for key, hypotheses in engine.step().items()}
        steps += 1
    return {key: (ids, engine.bits[key]) for key, ids in done.items()}


def alone(decoder: Decoder[Any], requests: Mapping[str, DecodeRequest], eos: int) -> Texts:
    """Each request in an engine of its own."""
    return {key: decode(decoder, {key: request}, 1, eos)[key] for key, request in requests.items()}
