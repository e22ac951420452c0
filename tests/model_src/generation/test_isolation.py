"""One request cannot change, stop or outlive another, whatever the network computes for it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from prelim.decoders.cross_attention import CrossAttentionConfig, CrossAttentionDecoder
from prelim.decoders.decoder import IMAGE
from prelim.decoders.kv_cache import Places
from prelim.errors import InternalError, InvalidOption, NonFiniteOutput, RequestError
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from prelim.networks.trained_decoder import serving_decoder
from prelim.networks.transformers_lm import TransformersLM
from tests.model_src.generation.reference import EOS, engine, letters, request, run, tiny_decoder, tiny_image

NAN, INF = float("nan"), float("inf")
PRECISIONS = ("fp32", "bf16", "int8_dynamic", "nf4")
OPTIONS = [
    GenerationOptions(max_new_tokens=14),
    GenerationOptions(max_new_tokens=12, num_beams=3),
    GenerationOptions(max_new_tokens=16, do_sample=True, seed=3, num_return_sequences=2),
    GenerationOptions(max_new_tokens=10, min_new_tokens=10, num_beams=2),
]


@cache
def served(kind: str, precision: str) -> Any:
    """A random decoder of one kind and precision, its attention by both of PyTorch's paths or compiled."""
    torch.manual_seed(0)
    network: CrossAttentionDecoder | TransformersLM
    if kind == "cross_attention":
        config = CrossAttentionConfig(vocab_size=512, width=64, layers=2, heads=4, feedforward=128, max_positions=80)
        network = CrossAttentionDecoder(config)
    else:
        section = {"model_type": "llama", "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2}
        section |= {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}
        network = TransformersLM({**section, "max_position_embeddings": 80, "tie_word_embeddings": False})
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 / parameter.shape[-1] ** 0.5)
    return serving_decoder(network.eval(), precision)


class Poisoned:
    """A decoder that computes `value` for its last slot at one step: keys, values and logits; its image as well."""

    def __init__(self, decoder: Any, value: float, at_step: int) -> None:
        self._decoder, self._value, self._left = decoder, value, at_step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def step(self, state: Any, places: Places, *inputs: Tensor) -> Tensor:
        """The step of the decoder, poisoned when its turn has come."""
        logits = self._decoder.step(state, places, *inputs)
        self._left -= 1
        if self._left == 0:
            # Nothing moves into the last slot, so only clearing it removes what is written here.
            last = places.slots.stop - 1
            logits[-1] = self._value
            for layer in state.cache.layers:
                layer[:, last, :, places.columns[-1]] = self._value
            for key, value in getattr(state, "_image", ()):
                key[last], value[last] = self._value, self._value
        return logits


def requests_of(kind: str, options: Sequence[GenerationOptions], first_seed: int = 0) -> dict[str, DecodeRequest]:
    """Requests with images of their own; their prompts have different lengths where the decoder takes one."""
    found = {}
    for i, each in enumerate(options, start=first_seed):
        image = torch.randn(6, 64, generator=torch.Generator().manual_seed(i))
        prompt = (2,) if kind == "cross_attention" else (5, IMAGE, *range(6, 8 + i % 3))
        found[f"{i}"] = DecodeRequest(image, prompt, each)
    return found


def make_engine(decoder: Any) -> Engine:
    """An engine with four slots."""
    return Engine(decoder, slots=4, eos_token_ids=[3], pad_token_id=0, detokenize=str)


def drain(batch: Engine) -> dict[str, Any]:
    """How every request in the batch ends: the token ids of its sequences, or its error."""
    ended: dict[str, Any] = {}
    while batch.active:
        ended |= {key: end_of(request) for key, request in batch.step().items()}
    return ended


def end_of(request: DecodeRequest) -> RequestError | list[tuple[int, ...]]:
    """The token ids of its sequences, or its error."""
    outcome = request.outcome
    assert outcome is not None
    return outcome if isinstance(outcome, RequestError) else [h.token_ids for h in outcome]


@pytest.mark.parametrize("kind", ["cross_attention", "llama"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_poisoned_request_fails_alone(kind: str, precision: str, value: float) -> None:
    """NaN or infinity in one slot ends its request; to neighbors and later users of the slot it is as if canceled."""
    decoder = served(kind, precision)
    requests = requests_of(kind, OPTIONS), requests_of(kind, OPTIONS, first_seed=4)

    ended = follow(make_engine(Poisoned(decoder, value, at_step=4)), *requests)

    (poisoned,) = [key for key, end in ended.items() if isinstance(end, RequestError)]
    error = ended.pop(poisoned)
    assert isinstance(error, NonFiniteOutput)
    assert error.status == 500
    assert ended == follow(make_engine(decoder), *requests, cancel=(poisoned, 4))
    if precision == "fp32":
        others = {key: each for key, each in (requests[0] | requests[1]).items() if key != poisoned}
        assert ended == {key: drain_one(decoder, key, each) for key, each in others.items()}


def follow(
    batch: Engine, first: dict[str, DecodeRequest], later: dict[str, DecodeRequest], cancel: tuple[str, int] = ("", 0)
) -> dict[str, Any]:
    """How all requests end, the later ones entering as slots become free; one can be canceled after a step."""
    batch.add(first)
    waiting, ended, steps = dict(later), dict[str, Any](), 0
    while batch.active:
        steps += 1
        ended |= {key: end_of(request) for key, request in batch.step().items()}
        if steps == cancel[1]:
            batch.cancel(cancel[0])
        batch.add({key: waiting.pop(key) for key in list(waiting)[: 4 - len(batch.running)]})
    return ended


def drain_one(decoder: Any, key: str, single: DecodeRequest) -> Any:
    """How one request ends in an engine of its own."""
    batch = make_engine(decoder)
    batch.add({key: single})
    return drain(batch)[key]


@pytest.mark.parametrize("kind", ["cross_attention", "llama"])
@pytest.mark.parametrize("leave", ["finish", "cancel", "fail"])
def test_cache_is_zero_where_no_request_is(kind: str, leave: str) -> None:
    """However requests leave, nothing of them stays in the cache, in the slots that others have moved from included."""
    states: list[Any] = []
    decoder = served(kind, "fp32")
    batch = make_engine(Recorded(decoder, states))
    batch.add(requests_of(kind, OPTIONS))
    for _ in range(3):
        batch.step()

    if leave == "cancel":
        for key in ("1", "3", "0", "2"):
            batch.cancel(key)
    elif leave == "fail":
        failed = Recorded.fail(batch, requests_of(kind, OPTIONS[:1], first_seed=9))
        assert isinstance(failed["9"], InternalError)
        assert isinstance(failed["9"].__cause__, ZeroDivisionError)
    drain(batch)

    assert not any(layer.any() for layer in states[-1].cache.layers)
    assert not any(part.any() for pair in getattr(states[-1], "_image", ()) for part in pair)


class Recorded:
    """A decoder whose states are kept, and whose prefill can fail after it has written."""

    def __init__(self, decoder: Any, states: list[Any]) -> None:
        self._decoder, self._states, self._fails = decoder, states, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def new_state(self, slots: int) -> Any:
        """A state that the test can look at."""
        self._states.append(self._decoder.new_state(slots))
        return self._states[-1]

    def prefill(self, *inputs: Any) -> Tensor:
        """The prefill of the decoder, and then perhaps an exception."""
        logits = self._decoder.prefill(*inputs)
        if self._fails:
            raise ZeroDivisionError
        return logits

    @staticmethod
    def fail(batch: Engine, requests: dict[str, DecodeRequest]) -> dict[str, Any]:
        """How requests end that enter while prefill fails; a slot is free because another request leaves first."""
        decoder = batch._decoder
        batch.cancel("2")
        decoder._fails = True
        batch.add(requests)
        ended = {key: end_of(request) for key, request in batch.step().items() if key in requests}
        decoder._fails = False
        return ended


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_image_embeds_must_be_finite(precision: str, value: float) -> None:
    """Embeddings with NaN or infinity are refused at the door: 8-bit products would make ordinary numbers of them."""
    batch = make_engine(served("llama", precision))
    (bad,) = requests_of("llama", OPTIONS[:1]).values()
    bad.image_embeds[3, 5] = value

    batch.add({"bad": bad})

    (error,) = drain(batch).values()
    assert isinstance(error, NonFiniteOutput)
    assert "NaN or infinity" in str(error)


def test_one_nan_logit_is_enough() -> None:
    """A NaN in a single logit of a single beam ends the request, also where another token is the best."""
    decoder = tiny_decoder()
    step = decoder.step

    def with_nan(*inputs: Any) -> Tensor:
        logits = step(*inputs)
        if logits.shape[1] == 3:  # later only the greedy request is left
            logits[0, 2, 7] = NAN
        return logits

    decoder.step = with_nan  # type: ignore[method-assign]
    batch = engine(decoder)
    batch.add(
        {
            "beams": request(tiny_image(0), GenerationOptions(num_beams=3, max_new_tokens=9)),
            "greedy": request(*greedy(1)),
        }
    )

    ended = drain(batch)

    assert isinstance(ended["beams"], NonFiniteOutput)
    assert [list(row) for row in ended["greedy"]] == run(engine(tiny_decoder()), {"a": request(*greedy(1))})["a"]


def greedy(seed: int) -> tuple[Tensor, GenerationOptions]:
    """A short greedy request."""
    return tiny_image(seed), GenerationOptions(max_new_tokens=12)


def test_exception_in_token_selection_ends_its_request_alone() -> None:
    """A detokenizer that raises for one request's stop text gives that request an error with the exception as cause."""

    def detokenize(token_ids: Sequence[int]) -> str:
        raise LookupError("report text")

    batch = Engine(tiny_decoder(), slots=4, eos_token_ids=[3], pad_token_id=0, detokenize=detokenize)
    options = GenerationOptions(max_new_tokens=12, stop=("K",))
    batch.add({"stops": request(tiny_image(0), options), "greedy": request(*greedy(1))})

    ended = drain(batch)

    assert isinstance(ended["stops"], InternalError)
    assert isinstance(ended["stops"].__cause__, LookupError)
    assert "report text" not in str(ended["stops"])
    assert [list(row) for row in ended["greedy"]] == run(engine(tiny_decoder()), {"a": request(*greedy(1))})["a"]


def test_failed_device_is_not_one_requests_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the accelerator leaves `step`, so that all requests fail and a lost device ends the worker."""
    batch = engine(tiny_decoder())
    batch.add({"a": request(*greedy(0))})

    def lost(*_: Any) -> None:
        raise torch.AcceleratorError("device lost")

    monkeypatch.setattr("prelim.generation.sampling.Sampling.advance", lost)
    with pytest.raises(torch.AcceleratorError):
        batch.step()


LOWEST = {"temperature": 1e-6, "top_p": 1e-6, "repetition_penalty": 1e-6, "length_penalty": -5.0}
HIGHEST = {"temperature": 100.0, "top_k": 1_000_000, "repetition_penalty": 100.0, "length_penalty": 5.0}


@pytest.mark.parametrize("extreme", [LOWEST, HIGHEST, {**LOWEST, "repetition_penalty": 100.0}], ids=str)
@pytest.mark.parametrize("beams", [1, 3, 16])
@pytest.mark.parametrize("do_sample", [False, True])
def test_options_at_their_bounds_give_a_report(extreme: dict[str, Any], beams: int, do_sample: bool) -> None:
    """At the bounds of its options a request gets as many tokens as it asks for, with finite scores."""
    for early_stopping in (False, True, "never"):
        options = GenerationOptions(
            **extreme,
            num_beams=beams,
            do_sample=do_sample,
            seed=1 if do_sample else None,
            early_stopping=early_stopping,
            min_new_tokens=60,
            max_new_tokens=60,
        )

        (hypotheses,) = engine(tiny_decoder()).decode({"a": request(tiny_image(2), options)}).values()

        assert [len(hypothesis.token_ids) for hypothesis in hypotheses] == [60]
        assert all(-1e6 < hypothesis.avg_logprob < 0 for hypothesis in hypotheses)


@pytest.mark.parametrize(
    "more", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 1}, {"do_sample": True, "num_beams": 3, "seed": 1}]
)
def test_options_that_forbid_every_token_are_explained(more: dict[str, Any]) -> None:
    """No end of text and no repeated word: after all 40 words the request fails, with the names of the two options."""
    options = GenerationOptions(min_new_tokens=50, max_new_tokens=50, no_repeat_ngram_size=1, top_k=0, **more)

    with pytest.raises(InvalidOption, match="min_new_tokens forbids the end of text"):
        engine(tiny_decoder()).decode({"a": request(tiny_image(0), options)})


def test_position_message_says_that_the_prompt_is_too_long() -> None:
    """A prompt that takes all positions is the fault, not max_new_tokens."""
    batch = make_engine(served("llama", "fp32"))
    prompt = (IMAGE, *[7] * 100)

    with pytest.raises(RequestError, match="image and prompt take 106 positions; this model has 80") as raised:
        batch.add({"a": DecodeRequest(torch.zeros(6, 64), prompt, GenerationOptions(max_new_tokens=1))})

    assert raised.value.status == 413
    assert "-" not in str(raised.value)


def test_decode_takes_more_requests_than_slots() -> None:
    """`decode` gives every request the ids that it gets alone, even more of them than `slots`."""
    requests = {f"{i}": request(*greedy(i)) for i in range(5)}

    together = engine(tiny_decoder(), slots=2).decode(requests)

    for key, each in requests.items():
        (alone,) = engine(tiny_decoder()).decode({key: each})[key]
        assert together[key][0].token_ids == alone.token_ids


ENDS = [
    GenerationOptions(
        max_new_tokens=6, num_beams=8, num_return_sequences=8, do_sample=True, top_k=4, top_p=0.5, seed=seed
    )
    for seed in range(3)
] + [
    GenerationOptions(max_new_tokens=5, num_beams=3, num_return_sequences=3, length_penalty=-5.0),
    GenerationOptions(max_new_tokens=12, num_beams=5, num_return_sequences=5, do_sample=True, temperature=1e-6, seed=4),
    GenerationOptions(max_new_tokens=20, num_beams=5, early_stopping=True, num_return_sequences=5),
    GenerationOptions(max_new_tokens=20, do_sample=True, num_return_sequences=6, temperature=2.0, seed=5),
]


@pytest.mark.parametrize("stop", [(), ("K", "OO"), tuple("ABCDEFGHIJKLMN")], ids=["none", "some", "many"])
@pytest.mark.parametrize("options", ENDS, ids=range(len(ENDS)))
def test_finish_reason_is_true_of_every_sequence(options: GenerationOptions, stop: tuple[str, ...]) -> None:
    """Only a sequence of max_new_tokens tokens ends by its length, and none is empty, however few the search finds."""
    for seed in range(6):
        image = tiny_image(seed)
        batch = engine(tiny_decoder(seed=1))
        for hypothesis in batch.decode({"a": request(image, replace(options, stop=stop))})["a"]:
            ended = hypothesis.token_ids[-1] == EOS
            stopped = any(text in letters(hypothesis.token_ids) for text in stop)
            expected = "eos" if ended else "stop" if stopped else "length"
            assert hypothesis.finish_reason == expected
            assert expected != "length" or len(hypothesis.token_ids) == options.max_new_tokens
