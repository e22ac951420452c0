"""The memory of the KV cache has a bound that is known before a request enters."""

import random
from typing import Any

import numpy as np
import pytest

from prelim.errors import InvalidOption
from prelim.generation.columns import DEFAULT_COLUMNS, KEPT_COLUMNS, Columns, check_columns, columns_needed
from prelim.generation.engine import Engine
from prelim.generation.options import MAX_BEAMS, GenerationOptions
from tests.model_src.generation.reference import EOS, PAD, engine, letters, request, run, tiny_decoder, tiny_image


def narrow_engine(max_columns: int, slots: int = 1) -> Engine:
    """An engine whose requests may use so many columns."""
    return Engine(
        tiny_decoder(),
        slots=slots,
        eos_token_ids=[EOS],
        pad_token_id=PAD,
        detokenize=letters,
        max_columns=max_columns,
    )


@pytest.mark.parametrize("seed", range(20))
def test_columns_in_use_never_exceed_the_bound(seed: int) -> None:
    """Whatever beams do, among neighbors of any width, no slot uses more columns than `columns_needed` says."""
    rng = random.Random(seed)
    slots = rng.randint(1, 4)
    rows = [rng.randint(1, MAX_BEAMS) for _ in range(slots)]
    prefixes = [rng.randint(1, 40) for _ in range(slots)]
    lengths = [rng.randint(2, 40) for _ in range(slots)]
    needed = [
        columns_needed(prefix, GenerationOptions(num_beams=own, max_new_tokens=length))
        for prefix, own, length in zip(prefixes, rows, lengths, strict=True)
    ]
    columns = Columns(slots, max(needed))
    for slot, prefix in enumerate(prefixes):
        columns.grow(prefix)
        columns.enter(slot, prefix)
    for _ in range(1, min(lengths)):
        assigned = columns.assign(rows)
        columns.look_at(assigned, np.ones_like(assigned, dtype=np.bool_))
        for slot, own in enumerate(rows):
            # Half of the searches never drop a beam, which is the worst case.
            parents = range(own) if slot % 2 else rng.choices(range(own), k=own)
            columns.reorder(slot, list(parents))
        assert columns.total <= max(needed)
        for slot in range(slots):
            assert columns.used(slot) <= needed[slot]


def test_bound_is_reached() -> None:
    """The bound is not too generous: sixteen independent draws need all of it."""
    prefix, steps = 5, 30
    options = GenerationOptions(do_sample=True, num_return_sequences=MAX_BEAMS, max_new_tokens=steps + 1)
    columns = Columns(1, columns_needed(prefix, options))
    columns.grow(prefix)
    columns.enter(0, prefix)
    for _ in range(steps):
        assigned = columns.assign([MAX_BEAMS])
        columns.look_at(assigned, np.ones_like(assigned, dtype=np.bool_))

    assert columns.used(0) == columns_needed(prefix, options) == prefix + steps * MAX_BEAMS


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 16, "max_new_tokens": 12},
        {"do_sample": True, "num_return_sequences": 9, "seed": 0, "max_new_tokens": 20},
        {"num_beams": 3, "do_sample": True, "seed": 1, "max_new_tokens": 40, "temperature": 5.0},
        {"max_new_tokens": 1, "num_beams": 16},
    ],
    ids=str,
)
def test_a_request_runs_within_its_bound(options: dict[str, Any]) -> None:
    """A request that may use just the columns it can need gets the ids that it gets with more; one fewer is refused."""
    request_ = request(tiny_image(1), GenerationOptions(**options))
    needed = columns_needed(1, request_.options)

    batch = narrow_engine(needed)

    assert run(batch, {"a": request_}) == run(engine(tiny_decoder()), {"a": request_})
    with pytest.raises(InvalidOption):
        narrow_engine(needed - 1).add({"a": request_})


def test_refusal_says_what_would_be_allowed() -> None:
    """The message has the numbers, and a request that follows either way out is taken."""
    batch, wide = narrow_engine(300), GenerationOptions(num_beams=16, max_new_tokens=60)

    with pytest.raises(InvalidOption) as raised:
        batch.add({"a": request(tiny_image(0), wide)})

    assert str(raised.value) == (
        "num_beams 16 and max_new_tokens 60 can take 945 cache columns; a request may use 300 here. "
        "Allowed: max_new_tokens up to 19 with num_beams 16, or num_beams up to 4 with max_new_tokens 60"
    )
    for beams, tokens in ((16, 19), (4, 60)):
        batch.add({f"{beams}": request(tiny_image(0), GenerationOptions(num_beams=beams, max_new_tokens=tokens))})
    for beams, tokens in ((16, 20), (5, 60)):
        with pytest.raises(InvalidOption):
            batch.add({"a": request(tiny_image(0), GenerationOptions(num_beams=beams, max_new_tokens=tokens))})


@pytest.mark.parametrize(("tokens", "needed"), [(1, 7), (2, 7 + 16), (3, 7 + 3 + 16), (12, 7 + 30 + 16)])
def test_columns_needed_by_hand(tokens: int, needed: int) -> None:
    """The prefix, three columns for each token that is looked at, and 16 for the step that writes."""
    assert columns_needed(7, GenerationOptions(num_beams=3, max_new_tokens=tokens)) == needed


@pytest.mark.parametrize(
    ("limit", "options", "message"),
    [
        # No room for a second column, then for one, then for one of each beam.
        (25, {"num_beams": 2, "max_new_tokens": 5}, "image and prompt take 10 of the 25 cache columns"),
        (26, {"num_beams": 2, "max_new_tokens": 5}, "Allowed: max_new_tokens up to 2 with num_beams 2"),
        (28, {"num_beams": 2, "max_new_tokens": 5}, "Allowed: max_new_tokens up to 3 with num_beams 2"),
        (
            29,
            {"num_beams": 2, "max_new_tokens": 5},
            "Allowed: max_new_tokens up to 3 with num_beams 2, or num_beams up to 1 with max_new_tokens 5",
        ),
        (
            29,
            {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": 5},
            "Allowed: max_new_tokens up to 3 with num_return_sequences 2, or num_return_sequences up to 1 with "
            "max_new_tokens 5",
        ),
        (26, {"max_new_tokens": 3}, "Allowed: max_new_tokens up to 2 with num_return_sequences 1"),
    ],
)
def test_only_what_is_possible_is_offered(limit: int, options: dict[str, Any], message: str) -> None:
    """A way out that would need no beam or no column is not named."""
    with pytest.raises(InvalidOption) as raised:
        check_columns(10, GenerationOptions(**options), limit)

    assert str(raised.value).endswith(message) or str(raised.value).startswith(message)


def test_allocation_grows_by_half_in_blocks() -> None:
    """To a multiple of 64 columns, never beyond the limit except for a longer prefix, and never smaller."""
    assert (DEFAULT_COLUMNS, KEPT_COLUMNS) == (2560, 512)
    columns, totals = Columns(1, 400), []
    for wanted in (1, 64, 65, 128, 129, 20, 193, 321, 401):
        columns.grow(wanted)
        totals.append(columns.total)

    assert totals == [64, 64, 128, 128, 192, 192, 320, 400, 401]


@pytest.mark.parametrize(
    ("total", "used", "shrinks"), [(512, 512, False), (513, 512, True), (600, 513, False), (600, 3, True)]
)
def test_allocation_shrinks_when_no_slot_uses_it(total: int, used: int, shrinks: bool) -> None:
    """To 512 columns; every row still looks at what it looked at."""
    columns = Columns(2, total)
    columns.grow(total)
    columns.enter(1, used)

    assert columns.total == total
    assert columns.shrink() is shrinks
    assert columns.total == (512 if shrinks else total)
    assert columns._ancestry[1, :, :used].all()
    assert columns._ancestry.sum() == MAX_BEAMS * used


def test_first_columns_that_no_row_looks_at_are_assigned() -> None:
    """In each slot by itself; a row that a slot does not have looks at nothing there, and a column may be left out."""
    columns = Columns(3, 100)
    columns.grow(10)
    for slot, prefix in enumerate((3, 1)):
        columns.enter(slot, prefix)

    assert columns.assign([2, 1]).tolist() == [[3, 4], [1, 2]]
    assert (columns.used(0), columns.used(1), columns.used(2)) == (5, 3, 0)
    mask = columns.look_at(np.array([[3, 4], [1, 2]]), np.array([[True, True], [True, False]]))
    assert mask.astype(int).tolist() == [[[[1, 1, 1, 1, 0], [1, 1, 1, 0, 1]]], [[[1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]]]
    columns.reorder(0, [1, 1])
    # Column 3 is free again; the second row of the second slot does not count.
    assert columns.assign([2, 1]).tolist() == [[3, 5], [2, 3]]
    columns.move(0, 1)
    assert columns.used(1) == columns.used(0) == 6
    assert columns.assign([1, 1]).tolist() == [[3], [3]]
    columns.leave(0)
    columns.enter(1, 2)
    assert (columns.used(0), columns.used(1)) == (0, 2)
    assert columns.assign([1, 1])[1].tolist() == [2]


def test_cache_shrinks_when_a_wide_request_leaves() -> None:
    """A request of many columns leaves no wide cache to its neighbors, and changes nothing in their ids."""
    draws = {"do_sample": True, "seed": 0, "num_return_sequences": 16, "max_new_tokens": 50, "min_new_tokens": 50}
    wide = request(tiny_image(0), GenerationOptions(**draws))
    slow = request(tiny_image(1), GenerationOptions(max_new_tokens=60, min_new_tokens=60, num_beams=2))
    batch = narrow_engine(2560, slots=2)
    batch.add({"wide": wide, "slow": slow})
    widest, done = 0, {}
    while batch.active:
        widest = max(widest, batch._state.cache.columns)
        done |= {key: [list(h.token_ids) for h in ended.hypotheses] for key, ended in batch.step().items()}
        if "wide" in done:
            assert batch._state.cache.columns <= KEPT_COLUMNS

    assert widest > KEPT_COLUMNS
    assert done["slow"] == run(engine(tiny_decoder()), {"a": slow})["a"]


def test_memory_never_exceeds_what_is_stated() -> None:
    """`max_cache_bytes` bounds what the cache has allocated, in a batch of requests that need all of it."""
    options = {"do_sample": True, "num_return_sequences": 16, "max_new_tokens": 30, "min_new_tokens": 30}
    batch = narrow_engine(columns_needed(1, GenerationOptions(**options)), slots=3)
    batch.add({f"{i}": request(tiny_image(i), GenerationOptions(**options, seed=i)) for i in range(3)})
    largest = 0
    while batch.active:
        batch.step()
        largest = max(largest, sum(layer.nbytes for layer in batch._state.cache.layers))

    assert 0.9 * batch.max_cache_bytes < largest <= batch.max_cache_bytes
