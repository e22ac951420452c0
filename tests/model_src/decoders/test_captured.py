"""Captured steps: what is replayed on the same memory gives the ids of steps that are computed again.

A CUDA graph runs no Python when it is replayed. Without a GPU its place is taken by a list of PyTorch's operations,
which are run again on the tensors that they had.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prelim.decoders.captured import CapturedDecoder, Computation, captured
from prelim.decoders.causal_lm import CausalLMDecoder
from prelim.decoders.decoder import IMAGE
from prelim.errors import NonFiniteOutput
from prelim.generation.columns import KEPT_COLUMNS
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from prelim.networks.trained_decoder import for_serving, materialized
from tests.model_src.generation import test_causal_lm_parity as causal
from tests.model_src.generation.reference import engine, generate, request, run, tiny_decoder, tiny_image
from tests.model_src.generation.test_engine import MIXED

HOST = ("_local_scalar_dense", "nonzero", "masked_select", "repeat_interleave.Tensor", "unique")
"""Operations whose result, or its shape, the host has to wait for: a capture fails at them."""


class Tape(TorchDispatchMode):
    """Captures as CUDA graphs do: the operations, their tensors, and nothing of what Python does between them."""

    captures = 0
    replays = 0

    def __call__(self, work: Computation) -> tuple[Callable[[], object], Tensor]:
        """Capture; see `Captures`."""
        Tape.captures += 1
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        with self:
            result = work()
        return partial(self._replay, self._calls), result

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note an operation."""
        assert not any(name in str(function) for name in HOST), f"{function} makes the host wait"
        found = function(*args, **(kwargs or {}))
        self._calls.append((function, args, kwargs or {}, found))
        return found

    @staticmethod
    def _replay(calls: list[tuple[Any, Any, Any, Any]]) -> None:
        Tape.replays += 1
        for function, args, kwargs, found in calls:
            again = function(*args, **kwargs)
            read = {_memory(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
            for old, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                # Views, and what is changed in place, are where they were.
                if isinstance(old, Tensor) and _memory(old) not in read:
                    old.copy_(new)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@pytest.fixture(params=["tape", "repetition"])
def capturing(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Make a decoder with captured steps."""
    return taped if request.param == "tape" else CapturedDecoder


def taped(decoder: Any) -> Any:
    """The decoder, its steps on a tape."""
    Tape.captures = Tape.replays = 0
    return CapturedDecoder(decoder, lambda _: Tape())


def layered(model_type: str) -> tuple[Any, CausalLMDecoder]:
    """A random causal decoder, and the same as it is served on a GPU: by PyTorch's operations."""
    decoder = causal.tiny_decoder(model_type)
    _, served, weights = for_serving(decoder, "fp32")
    served.load_state_dict(materialized(weights), assign=True)
    assert isinstance(served, CausalLMDecoder)
    return decoder, served.eval().requires_grad_(False)


def test_ids_equal_generate(capturing: Callable[[Any], Any]) -> None:
    """Requests with all kinds of options, which enter and leave at any step."""
    decoder = tiny_decoder()
    requests = {f"{i}": request(tiny_image(10 + i), options) for i, options in enumerate(MIXED * 2)}
    batch = engine(capturing(decoder), slots=5)
    waiting, done, steps = dict(requests), {}, 0
    while len(done) < len(requests):
        if waiting and len(batch.running) < 5 and steps % 3 != 1:
            key = next(iter(waiting))
            batch.add({key: waiting.pop(key)})
        done.update({key: [list(h.token_ids) for h in ended.hypotheses] for key, ended in batch.step().items()})
        steps += 1

    assert done == {key: generate(decoder, one.image_embeds, one.options) for key, one in requests.items()}


@pytest.mark.parametrize("model_type", ["biogpt", "llama", "mistral, short window", "gemma3"])
def test_ids_of_causal_decoders_equal_generate(model_type: str, capturing: Callable[[Any], Any]) -> None:
    """Also where layers see a window, whose positions are remembered next to the cache."""
    network, served = layered(model_type)
    lengths, prompt = (12, 20, 5, 9, 20), (IMAGE, 7, 8, 9)
    images = [torch.randn(5, 32, generator=torch.Generator().manual_seed(i)) for i in range(len(lengths))]
    requests = {
        f"{i}": DecodeRequest(images[i], prompt, GenerationOptions(max_new_tokens=length, num_beams=1 + i % 3))
        for i, length in enumerate(lengths)
    }
    batch: Engine[DecodeRequest] = Engine(
        capturing(served), slots=3, eos_token_ids=[causal.EOS], pad_token_id=causal.PAD, detokenize=str
    )

    found = run(batch, requests)

    for i, (key, one) in enumerate(requests.items()):
        with torch.inference_mode():
            embeds = network.embed(images[i][None], torch.tensor([prompt]))
        assert found[key] == causal.generate(network, embeds.clone(), one.options)


def test_batches_share_captured_steps() -> None:
    """One for each number of rows and power of two of slots, while the cache stays where it is."""
    options = GenerationOptions(max_new_tokens=12, min_new_tokens=12)
    beams = GenerationOptions(max_new_tokens=12, min_new_tokens=12, num_beams=2)
    batch = engine(taped(tiny_decoder()), slots=6)
    # The cache has all its slots, and the columns of all that follows.
    run(batch, {f"{i}": request(tiny_image(i), beams) for i in range(6)})
    Tape.captures = Tape.replays = 0

    for count in (1, 2, 3, 4, 5, 6, 4, 3, 2, 1):
        run(batch, {f"{i}": request(tiny_image(i), options) for i in range(count)})

    assert (Tape.captures, Tape.replays) == (4, 10 * 11)


def test_columns_that_moved_are_captured_again() -> None:
    """After a cache that has grown, has given memory back and has grown again, and after a reset; ids stay the same."""
    decoder = tiny_decoder()
    wide = GenerationOptions(do_sample=True, seed=0, num_return_sequences=16, max_new_tokens=50, min_new_tokens=50)
    slow = GenerationOptions(num_beams=2, max_new_tokens=60, min_new_tokens=60)
    requests = {"wide": request(tiny_image(0), wide), "slow": request(tiny_image(1), slow)}
    expected = run(engine(decoder), requests)
    batch = engine(taped(decoder), slots=2)

    for turn in range(3):
        assert run(batch, requests) == expected
        assert batch._state.cache.columns <= KEPT_COLUMNS
        if turn:
            batch.reset()


def test_what_is_not_finite_stays_in_its_request(capturing: Callable[[Any], Any]) -> None:
    """A request that becomes NaN ends by an error; its neighbors, and the next in its slot, are as they are alone."""
    decoder = tiny_decoder()
    options = GenerationOptions(max_new_tokens=12, min_new_tokens=9, num_beams=2)
    good = {f"{i}": request(tiny_image(i), options) for i in range(4)}
    expected = {key: run(engine(decoder), {key: one})[key] for key, one in good.items()}
    batch = engine(capturing(decoder), slots=3)
    batch.add({"bad": request(tiny_image(9), options), "0": good["0"], "1": good["1"]})
    batch.step()
    with torch.inference_mode():
        # Keys of the image of the first slot.
        batch._state.images[0][0][0] = torch.nan
    batch.add({"2": good["2"], "3": good["3"]})
    ended = {}
    while batch.active:
        ended |= batch.step()

    assert isinstance(ended["bad"].outcome, NonFiniteOutput)
    assert {key: [list(h.token_ids) for h in ended[key].hypotheses] for key in good} == expected


def test_decoders_on_a_cpu_are_not_captured() -> None:
    """There a step is one compiled call already."""
    decoder = tiny_decoder()
    assert captured(decoder) is decoder
