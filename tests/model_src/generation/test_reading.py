"""How prefixes are read: several at once, and in parts while others are decoded, which changes no bit of any report."""

import random
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from prelim.decoders.captured import CapturedDecoder
from prelim.decoders.decoder import IMAGE, Grids
from prelim.generation import engine as engine_module
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from prelim.generation.reading import TOGETHER
from prelim.kernels import unavailable
from tests.batches import alone, decode, draw_options
from tests.model_src.generation import test_batch_invariance
from tests.model_src.generation.test_batch_invariance import EOS, KINDS, WIDTH, random_decoder

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"nothing can be compiled here: {unavailable()}")

PART = 48
"""Tokens that are read between two steps here: decoders of tests have few positions."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read so many."""
    monkeypatch.setattr(engine_module, "BETWEEN_STEPS", PART)


class Watched:
    """A decoder that notes which slots and columns each prefill reads."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self.seen: list[tuple[slice, int, int]] = []
        self.fails_for: float | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def prefill(self, state: Any, places: Any, image_embeds: Tensor, prompt_ids: Tensor, grids: Grids) -> Tensor:
        """That of the decoder; it fails for an image of one number."""
        logits: Tensor = self._decoder.prefill(state, places, image_embeds, prompt_ids, grids)
        if self.fails_for is not None and (image_embeds == self.fails_for).all(dim=(1, 2)).any():
            raise ZeroDivisionError
        self.seen.append((places.slots, int(places.columns[0, 0]), places.length))
        return logits


def image_request(tokens: int, number: float | None = None, new_tokens: int = 6) -> DecodeRequest:
    """With a random image, or one of a single number."""
    embeds = torch.randn(tokens, WIDTH) if number is None else torch.full((tokens, WIDTH), number)
    return DecodeRequest(embeds, (1, IMAGE, 5), exactly(new_tokens))


def exactly(new_tokens: int) -> GenerationOptions:
    """Of a report of so many tokens."""
    return GenerationOptions(max_new_tokens=new_tokens, min_new_tokens=new_tokens)


def make_engine(decoder: Any, slots: int = 4) -> Engine[DecodeRequest]:
    """An engine of some slots."""
    return Engine(decoder, slots=slots, eos_token_ids=[EOS], pad_token_id=EOS, detokenize=str)


def drain(batch: Engine[DecodeRequest]) -> dict[str, tuple[int, ...]]:
    """The token ids of all requests that end without an error."""
    ended: dict[str, DecodeRequest] = {}
    while batch.active:
        ended |= batch.step()
    return {key: one.outcome[0].token_ids for key, one in ended.items() if isinstance(one.outcome, tuple)}


class Sized(DecodeRequest):
    """A request whose image is a grid, of which only the number of tokens is known before it is encoded."""

    grid = (0, 0)

    @property
    def image_tokens(self) -> tuple[int, ...]:
        """Number of tokens of its image."""
        return (self.grid[0] * self.grid[1],)

    def embed(self, others: Iterable[DecodeRequest] = ()) -> Tensor:
        """Encode it."""
        self.grids = (self.grid,)
        return super().embed(others)


def sized_request(grid: tuple[int, int], new_tokens: int) -> Sized:
    """With a random image of some rows and columns."""
    request = Sized(torch.randn(grid[0] * grid[1], WIDTH), (1, IMAGE, 5), exactly(new_tokens))
    request.grid = grid
    return request


MADE_HERE = {
    "window": {**KINDS["gemma3"], "mutual_images": False},
    "grids": {**KINDS["llama"], "rotary_sections": (8, 4, 4)},
}


@pytest.mark.parametrize("kind", ["biogpt", "llama", *MADE_HERE])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8_dynamic", "int4_dynamic"])
def test_parts_and_neighbors_change_no_bit(kind: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefixes of several forms enter at random among others that leave or are canceled, and are read in parts."""
    monkeypatch.setattr(engine_module, "BETWEEN_STEPS", 7)
    monkeypatch.setattr(engine_module, "TOGETHER", 30)
    monkeypatch.setattr(test_batch_invariance, "KINDS", KINDS | MADE_HERE)
    decoder, draw = random_decoder(kind, precision, shared=False), random.Random(precision)
    torch.manual_seed(3)
    requests = {}
    for i in range(16):
        grid, ids = draw.choice(((2, 3), (3, 2), (4, 5), (2, 10))), draw.choice([(1, IMAGE, 5), (3, IMAGE)])
        embeds = torch.randn(grid[0] * grid[1], WIDTH)
        requests[f"{i}"] = DecodeRequest(embeds, ids, draw_options(draw), grids=(grid,))

    by_themselves = alone(decoder, requests, EOS)

    leaving = {
        f"leaves {key}": DecodeRequest(r.image_embeds, r.prompt_ids, r.options, grids=r.grids)
        for key, r in requests.items()
    }
    kept = draw.sample(list(leaving), 4)
    mixed = list((requests | {key: leaving[key] for key in kept}).items())
    draw.shuffle(mixed)
    together = decode(decoder, dict(mixed), 5, EOS, draw=draw, leaving=kept)
    assert {key: together[key] for key in requests} == by_themselves


def test_images_that_enter_at_once_are_read_in_one_product() -> None:
    """As long as their prefixes have the same form, and not more positions than pay."""
    watched = Watched(random_decoder("biogpt", "int8_dynamic", shared=False))
    batch = make_engine(watched, slots=8)
    several = {f"{i}": image_request(7) for i in range(3)} | {"other form": image_request(6), "last": image_request(6)}

    batch.add(several)
    batch.step()

    assert watched.seen == [(slice(0, 3), 0, 9), (slice(3, 5), 0, 8)]
    ours = drain(batch)
    assert ours == {key: drain(started(watched, key, one))[key] for key, one in several.items()}
    watched.seen.clear()
    batch.add({f"{i}": image_request(48) for i in range(6)})
    batch.step()
    assert watched.seen == [(slice(0, TOGETHER // 50), 0, 50), (slice(TOGETHER // 50, 6), 0, 50)]


def test_grids_that_differ_are_not_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they are known only when images are encoded; those that are not read yet keep their turn."""
    monkeypatch.setattr(test_batch_invariance, "KINDS", MADE_HERE)
    watched = Watched(random_decoder("grids", "int8_dynamic", shared=False))
    torch.manual_seed(6)
    grids = {"a": (2, 3), "b": (2, 3), "canceled": (3, 2), "c": (3, 2), "d": (6, 1)}
    requests = {key: sized_request(grid, 6) for key, grid in grids.items()}
    batch = started(watched, "early", sized_request((1, 1), 20), slots=6)
    batch.step()
    watched.seen.clear()

    batch.add(requests)
    batch.step()
    assert batch.running == {"early", *grids}
    batch.cancel("canceled")
    batch.step()
    batch.step()

    assert [slots for slots, _, _ in watched.seen] == [slice(1, 3), slice(3, 4), slice(4, 5)]
    ended = drain(batch)
    assert {key: ended[key] for key in "abcd"} == {
        key: drain(started(watched, key, requests[key]))[key] for key in "abcd"
    }


def test_prefixes_are_read_whole_where_steps_are_captured() -> None:
    """As these write to slots without a request, among which is that of the next one."""
    decoder = Watched(random_decoder("llama", "int8_dynamic", shared=False))
    torch.manual_seed(7)
    requests = {f"{i}": image_request(3, new_tokens=20) for i in range(3)} | {"long": image_request(PART + 4)}
    batch = make_engine(CapturedDecoder(decoder))
    batch.add({key: requests[key] for key in "012"})
    batch.step()
    batch.add({"long": requests["long"]})

    ended = drain(batch)

    assert decoder.seen[-1] == (slice(3, 4), 0, PART + 6)
    assert ended == {key: drain(started(decoder, key, one))[key] for key, one in requests.items()}


def started(decoder: Any, key: str, request: DecodeRequest, slots: int = 4) -> Engine[DecodeRequest]:
    """An engine of its own for a request."""
    batch = make_engine(decoder, slots)
    batch.add({key: request})
    return batch


def test_neighbors_wait_for_a_part_at_most() -> None:
    """While others are decoded, a long prefix is read in parts between their steps, and the next ones wait."""
    watched = Watched(random_decoder("llama", "int8_dynamic", shared=False))
    batch = started(watched, "early", image_request(3, new_tokens=20))
    batch.step()
    watched.seen.clear()
    length = PART + 5

    batch.add({"long": image_request(length - 2), "short": image_request(4)})
    batch.step()
    assert watched.seen == [(slice(1, 2), 0, PART)]
    assert batch.running == {"early", "long"}
    assert batch.find("long").request_id == "long"
    batch.step()
    batch.step()

    assert watched.seen[1:] == [(slice(1, 2), PART, length), (slice(2, 3), 0, 6)]
    assert batch.running == {"early", "long", "short"}


@pytest.mark.parametrize("leaves", ["early", "long"])
def test_who_leaves_while_a_prefix_is_read(leaves: str) -> None:
    """What has been read moves with its slot, and is cleared when its request is canceled."""
    decoder = random_decoder("llama", "int8_dynamic", shared=False)
    torch.manual_seed(4)
    long, early = image_request(PART + 4), image_request(3, new_tokens=20)
    batch = started(decoder, "early", early)
    batch.step()
    batch.add({"long": long})
    batch.step()

    batch.cancel(leaves)

    assert batch.running == {"early", "long"} - {leaves}
    if leaves == "long":
        assert not any(layer[:, 1].any() for layer in batch._state.cache.layers)
    ended = drain(batch)
    left = {"early": early, "long": long}
    assert ended == {key: drain(started(decoder, key, left[key]))[key] for key in left if key != leaves}
    assert not any(layer.any() for layer in batch._state.cache.layers)


def test_one_that_cannot_be_read_fails_alone() -> None:
    """Those that were to be read with it are read by themselves."""
    watched = Watched(random_decoder("biogpt", "int8_dynamic", shared=False))
    torch.manual_seed(5)
    requests = {"a": image_request(7), "bad": image_request(7, 1.5), "c": image_request(7)}
    watched.fails_for = 1.5
    batch = make_engine(watched)

    batch.add(requests)
    ended = drain(batch)

    assert ended.keys() == {"a", "c"}
    assert ended == {key: drain(started(watched, key, requests[key]))[key] for key in ended}
    assert not any(layer.any() for layer in batch._state.cache.layers)
