"""Properties of the in-flight batch."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from prelim.decoders.cross_attention import CrossAttentionState
from prelim.decoders.kv_cache import KVCache
from prelim.errors import InvalidOption
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import READ_AHEAD
from prelim.generation.options import GenerationOptions
from tests.model_src.generation.reference import (
    BOS,
    EOS,
    PAD,
    engine,
    request,
    run,
    tiny_decoder,
    tiny_image,
)

MIXED = [
    GenerationOptions(max_new_tokens=20),
    GenerationOptions(max_new_tokens=25, num_beams=3, num_return_sequences=2),
    GenerationOptions(max_new_tokens=7, do_sample=True, seed=1, num_return_sequences=4),
    GenerationOptions(max_new_tokens=1),
    GenerationOptions(max_new_tokens=30, num_beams=5, no_repeat_ngram_size=2, min_new_tokens=20),
    GenerationOptions(max_new_tokens=18, do_sample=True, num_beams=2, seed=5),
    GenerationOptions(max_new_tokens=24, repetition_penalty=1.4, stop=("K",)),
    GenerationOptions(max_new_tokens=12, num_beams=4, length_penalty=2.0, early_stopping=True),
]


TOO_LONG = GenerationOptions(max_new_tokens=65)


def test_batch_equals_alone() -> None:
    """Eight different requests in one batch get the token ids that each gets alone."""
    decoder = tiny_decoder()
    requests = {f"{i}": request(tiny_image(i), options) for i, options in enumerate(MIXED)}

    together = run(engine(decoder), requests)

    alone = {key: run(engine(decoder), {key: value})[key] for key, value in requests.items()}
    assert alone == together


def test_entering_at_any_step_changes_nothing() -> None:
    """A request that enters while others are half-way, and leaves before them, gets what it gets alone."""
    decoder = tiny_decoder()
    requests = {f"{i}": request(tiny_image(10 + i), options) for i, options in enumerate(MIXED * 2)}
    batch = engine(decoder, slots=5)
    waiting, done, steps = dict(requests), {}, 0
    while len(done) < len(requests):
        if waiting and len(batch.running) < 5 and steps % 3 != 1:
            key = next(iter(waiting))
            batch.add({key: waiting.pop(key)})
        done.update({key: [list(h.token_ids) for h in ended.hypotheses] for key, ended in batch.step().items()})
        steps += 1

    alone = {key: run(engine(decoder), {key: value})[key] for key, value in requests.items()}
    assert alone == done


class Reading(DecodeRequest):
    """A request whose image is read once `arrive` is called, or `embed` waits for it."""

    begun, arrived = False, False

    def read(self) -> None:
        """Note that it has begun."""
        self.begun = True

    @property
    def is_read(self) -> bool:
        """Whether it has arrived."""
        return self.arrived

    def embed(self, others: Iterable[DecodeRequest] = ()) -> Tensor:
        """Return image_embeds, and note whose images could have been encoded with it."""
        assert self.begun
        self.others = [*others]
        return super().embed()


def test_images_are_read_while_others_are_decoded() -> None:
    """Those of the next requests; they enter in their order, once read, and nothing but they is waited for.

    One whose image is read knows which enter with it, so that their images can be encoded together.
    """
    options = GenerationOptions(max_new_tokens=9, min_new_tokens=9)
    batch = engine(tiny_decoder(), slots=4)
    batch.add({"running": request(tiny_image(0), options)})
    batch.step()
    names = "abcdef"[: READ_AHEAD + 1]
    reading = {name: Reading(tiny_image(i), (BOS,), options) for i, name in enumerate(names)}
    batch.add(reading)
    batch.step()
    assert [one.begun for one in reading.values()] == [True] * READ_AHEAD + [False]
    reading["b"].arrived = True
    batch.step()
    assert batch.running == {"running"}
    reading["a"].arrived = True
    batch.step()
    assert batch.running == {"running", "a", "b"}
    assert (reading["a"].others, reading["b"].others) == ([reading["b"]], [])

    ended = []
    while batch.active:
        ended += [(key, len(batch.running)) for key in sorted(batch.step())]

    assert ended == [("running", 2), *((name, 0) for name in names)]
    alone = {key: run(engine(tiny_decoder()), {"": request(tiny_image(i), options)})[""] for i, key in enumerate(names)}
    assert {key: [list(h.token_ids) for h in one.hypotheses] for key, one in reading.items()} == alone


def test_images_of_requests_that_wait_for_a_slot_are_read() -> None:
    """So that they can enter at once."""
    options = GenerationOptions(max_new_tokens=9, min_new_tokens=9)
    batch = engine(tiny_decoder(), slots=1)
    batch.add({"running": request(tiny_image(0), options)})
    waiting = Reading(tiny_image(1), (BOS,), options)
    batch.add({"waiting": waiting})
    batch.step()
    assert (batch.running, waiting.begun) == ({"running"}, True)


@pytest.mark.parametrize("threads", [1, None])
def test_threads_of_an_engine_are_its_own(threads: int | None) -> None:
    """While it works, whatever happens."""
    decoder, seen = tiny_decoder(), []
    before, step = torch.get_num_threads(), decoder.step
    torch.set_num_threads(2)
    try:

        def note(*arguments: object) -> Tensor:
            seen.append(torch.get_num_threads())
            return step(*arguments)  # type: ignore[arg-type]

        decoder.step = note  # type: ignore[method-assign]
        run(engine(decoder, threads=threads), {"": request(tiny_image(0), GenerationOptions(max_new_tokens=4))})
        assert set(seen) == {threads or 2}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_room_of_dropped_beams_is_used_again() -> None:
    """A search takes little more room in the cache than its longest beam, not a column for each beam and step."""
    decoder, steps, beams = tiny_decoder(), 60, 5
    states: list[CrossAttentionState] = []
    make = decoder.new_state
    decoder.new_state = lambda slots: states.append(make(slots)) or states[-1]  # type: ignore[method-assign]

    options = GenerationOptions(num_beams=beams, min_new_tokens=steps, max_new_tokens=steps)
    run(engine(decoder, slots=1), {"": request(tiny_image(3), options)})

    assert steps < states[-1].cache.columns < steps * beams / 2


def test_canceled_request_frees_its_slot_and_disturbs_nobody() -> None:
    """After a cancellation the others' token ids are as before and the slot takes another request."""
    decoder = tiny_decoder()
    options = GenerationOptions(max_new_tokens=20, num_beams=3, min_new_tokens=10)
    requests = {key: request(tiny_image(i), options) for i, key in enumerate("abc")}
    batch = engine(decoder, slots=3)
    batch.add(requests)
    for _ in range(4):
        batch.step()

    batch.cancel("a")
    batch.add({"d": request(tiny_image(3), options)})
    done = {}
    while batch.active:
        done.update({key: [list(h.token_ids) for h in ended.hypotheses] for key, ended in batch.step().items()})

    expected = run(engine(decoder), {**requests, "d": request(tiny_image(3), options)})
    assert {key: expected[key] for key in "bcd"} == done


def test_one_beam_is_greedy() -> None:
    """Beam search whose beams cannot differ (top-k of one token) writes what greedy search writes."""
    decoder = tiny_decoder()
    for seed in range(4):
        greedy = run(engine(decoder), {"a": request(tiny_image(seed), GenerationOptions(max_new_tokens=15))})["a"]
        narrow = GenerationOptions(max_new_tokens=15, do_sample=True, top_k=1, seed=0)

        assert greedy == run(engine(decoder), {"a": request(tiny_image(seed), narrow)})["a"]


def test_cached_equals_uncached() -> None:
    """The sum of log-probabilities that the engine reports is the one that teacher forcing gives for its tokens."""
    decoder = tiny_decoder()
    for i, options in enumerate(MIXED):
        image = tiny_image(i)
        for hypothesis in engine(decoder).decode({"a": request(image, options)})["a"]:
            tokens = torch.tensor([[BOS, *hypothesis.token_ids]])
            with torch.inference_mode():
                logprobs = decoder.teacher_forcing(image[None], tokens[:, :1], tokens[:, 1:]).log_softmax(-1)
            expected = logprobs.gather(2, tokens[:, 1:, None]).sum().item()

            assert hypothesis.sum_logprob == pytest.approx(expected, abs=1e-3)


def test_padding_that_the_model_writes_is_hidden() -> None:
    """No later token looks at it, as in teacher forcing; the tokens are those of teacher forcing too."""
    decoder = tiny_decoder()
    with torch.no_grad():
        decoder.lm_head.bias[PAD], decoder.lm_head.bias[EOS] = 3.0, -1e4
    padded = 0
    for seed in range(4):
        image = tiny_image(seed)
        (found,) = engine(decoder).decode({"a": request(image, GenerationOptions(max_new_tokens=12))})["a"]
        tokens = torch.tensor([[BOS, *found.token_ids]])
        with torch.inference_mode():
            logprobs = decoder.teacher_forcing(image[None], tokens[:, :1], tokens[:, 1:]).log_softmax(-1)

        assert logprobs.argmax(-1)[0].tolist() == list(found.token_ids)
        assert found.sum_logprob == pytest.approx(logprobs.amax(-1).sum().item(), abs=1e-3)
        padded += PAD in found.token_ids[:-1]
    assert padded


def test_finish_reason_says_what_ended_the_report() -> None:
    """A report ends by its end-of-text token, its length or a stop text, and says which."""
    decoder = tiny_decoder()
    reasons = set()
    for seed in range(12):
        for options in (GenerationOptions(max_new_tokens=8), GenerationOptions(max_new_tokens=30, stop=("K", "Y"))):
            (hypothesis,) = engine(decoder).decode({"a": request(tiny_image(seed), options)})["a"]
            reasons.add(hypothesis.finish_reason)
            assert (hypothesis.token_ids[-1] == EOS) == (hypothesis.finish_reason == "eos")
            if hypothesis.finish_reason == "length":
                assert len(hypothesis.token_ids) == options.max_new_tokens

    assert reasons == {"eos", "length", "stop"}


def test_seed_makes_sampling_repeatable_in_any_batch() -> None:
    """Two requests with one seed draw the same tokens, with another seed others, also next to each other."""
    decoder = tiny_decoder()
    options = [GenerationOptions(max_new_tokens=15, do_sample=True, temperature=1.5, seed=seed) for seed in (1, 1, 2)]

    done = run(engine(decoder), {f"{i}": request(tiny_image(0), o) for i, o in enumerate(options)})

    assert done["0"] == done["1"] != done["2"]


def test_requests_without_a_slot_wait_in_order() -> None:
    """A request is found and can be canceled while it waits, and gets a slot when one before it has ended."""
    batch = engine(tiny_decoder(), slots=1)
    options = GenerationOptions(max_new_tokens=5, min_new_tokens=5)
    batch.add({key: request(tiny_image(0), options) for key in "abc"})

    batch.step()
    assert batch.running == {"a"}
    assert batch.active == {"a", "b", "c"}
    assert batch.find("c").selection is None
    batch.cancel("b")
    ended = []
    while batch.active:
        ended += batch.step()

    assert ended == ["a", "c"]
    with pytest.raises(KeyError):
        batch.find("a")


def test_nothing_enters_when_one_request_is_refused() -> None:
    """`add` takes all of its requests or none."""
    batch = engine(tiny_decoder())
    requests = {"a": request(tiny_image(0), GenerationOptions()), "b": request(tiny_image(0), TOO_LONG)}

    with pytest.raises(InvalidOption):
        batch.add(requests)

    assert not batch.active


def test_more_tokens_than_positions_are_refused() -> None:
    """A request that the decoder has no positions for is refused with the number that is possible."""
    batch = engine(tiny_decoder())

    with pytest.raises(InvalidOption, match="at most 64 are possible"):
        batch.add({"a": request(tiny_image(0), TOO_LONG)})


def test_last_position_is_usable() -> None:
    """A request may use every position that the decoder has."""
    options = GenerationOptions(max_new_tokens=64, min_new_tokens=64)

    tokens = run(engine(tiny_decoder()), {"a": request(tiny_image(0), options)})["a"][0]

    assert len(tokens) == 64


def test_cache_is_append_only() -> None:
    """Writing new columns leaves all earlier ones, and the other slots, as they were."""
    cache = KVCache(layers=1, heads=2, head_width=4, dtype=torch.float32, device=torch.device("cpu"))
    cache.reserve(2, 4)
    first = torch.randn(2, 2, 3, 4)
    cache.prefix_places(slice(0, 2), 3).store(torch.stack([first, -first]), 0)
    second = torch.randn(1, 2, 2, 4)
    cache.reserve(3, 8)

    keys, values = cache.places(slice(1, 2), torch.tensor([[3, 4]]), 5).store(torch.stack([second, -second]), 0)

    assert torch.equal(keys[0], torch.cat([first[1], second[0]], dim=1))
    assert torch.equal(values, -keys)
    keys, _ = cache.places(slice(0, 3), torch.full((3, 1), 7), 5).store(torch.ones(2, 3, 2, 1, 4), 0)
    assert torch.equal(keys[0, :, :3], first[0])
    assert torch.equal(keys[1, :, 3:], second[0])
    assert not keys[2].any()
