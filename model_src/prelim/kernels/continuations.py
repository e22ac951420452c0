"""The most likely next tokens of every row of every request, in one call.

A row is read twice, for its largest logit and for the sum of the exponentials, and searched once, by the maxima of its
lanes. All sums have one order, whatever the processor, the number of threads and the neighbors.
"""

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import carray, cfunc, from_dtype, njit, types
from torch import Tensor

from prelim.kernels import team
from prelim.kernels.kept import kernel
from prelim.kernels.product import share
from prelim.kernels.rows import FINITE_OR_NOT, address, exponential

_barrier = team.barrier
_F = np.float32

LANES = 256
"""A row's numbers are dealt to so many lanes, each with a maximum and a sum of its own."""

_FIELDS = ("logits", "allowed", "row", "beams", "count", "normalized", "banned", "bans", "history", "length", "ngram")
_REQUEST = np.dtype([(name, np.int64) for name in _FIELDS])
_ARGUMENTS = np.dtype(
    [(name, np.int64) for name in ("requests", "rows", "vocab", "most", "longest", "integers", "numbers", "results")]
)


class ScoredRows(NamedTuple):
    """What to look for in the logits of one request.

    logits  : Tensor of float32, shape (beams, vocab_size), contiguous
    allowed : the same with minus infinity for tokens that are not allowed; may be `logits`
    number  : of continuations to find
    scores  : of each row, what the log-probabilities of its tokens are added to; None: logits are compared
    history : what each row has so far, all of one length; needed for the next two
    penalty : of tokens in it, as `repetition_penalty` of `GenerationOptions`
    ngram   : size of the n-grams that must not appear twice, 0 for any
    banned  : tokens that are not allowed
    """

    logits: Tensor
    allowed: Tensor
    number: int
    scores: Sequence[float] | None
    history: Sequence[Sequence[int]] = ()
    penalty: float = 1.0
    ngram: int = 0
    banned: Sequence[int] = ()


Found = tuple[list[float], list[int], list[int], list[float], bool]
"""The fields of `prelim.generation.candidates.Candidates`, in their order."""


@njit(fastmath=FINITE_OR_NOT, error_model="numpy")
def _largest_of_lanes(x, lanes):
    """The largest number of each lane; NaN counts as none."""
    size, count = x.shape[0], lanes.shape[0]
    for j in range(count):
        lanes[j] = _F(-np.inf)
    for start in range(0, size, count):
        part = x[start : min(start + count, size)]
        for j in range(part.shape[0]):
            lanes[j] = part[j] if part[j] > lanes[j] else lanes[j]


@njit(fastmath=FINITE_OR_NOT, error_model="numpy")
def _normalizer(x, lanes):
    """Logarithm of the sum of the exponentials of x, not finite where a number is NaN or infinite or all are -inf."""
    size, count = x.shape[0], lanes.shape[0]
    _largest_of_lanes(x, lanes)
    highest = _F(-np.inf)
    for j in range(count):
        highest = lanes[j] if lanes[j] > highest else highest
    for j in range(count):
        lanes[j] = _F(0)
    for start in range(0, size, count):
        part = x[start : min(start + count, size)]
        for j in range(part.shape[0]):
            lanes[j] += exponential(part[j] - highest)
    total = 0.0
    for j in range(count):
        total += np.float64(lanes[j])
    return np.float64(highest) + np.log(total)


@njit
def _insert(found, most, value, token, values, tokens):
    """Insert a token where it belongs among the `found` best so far, at most `most`; returns how many there are."""
    place = found if found < most else most
    while place > 0 and (value > values[place - 1] or (value == values[place - 1] and token < tokens[place - 1])):
        if place < most:
            values[place], tokens[place] = values[place - 1], tokens[place - 1]
        place -= 1
    if place == most:
        return found
    values[place], tokens[place] = value, token
    return min(found + 1, most)


@njit
def _largest(x, lanes, values, tokens):
    """The largest numbers of x and their places, as many as there is room for: they lie in lanes with the largest."""
    size, count, most = x.shape[0], lanes.shape[0], values.shape[0]
    _largest_of_lanes(x, lanes)
    found, limit = 0, _F(-np.inf)
    if most < count:
        for j in range(count):
            found = _insert(found, most, lanes[j], j, values, tokens)
        limit = values[most - 1]
    found = 0
    for j in range(count):
        if lanes[j] >= limit:
            for place in range(j, size, count):
                if x[place] >= limit:
                    found = _insert(found, most, x[place], place, values, tokens)


@njit
def _forbid(x, token, at, edited, before):
    """Let a token not be found; what it had is kept. Returns how many are kept."""
    if 0 <= token < x.shape[0] and x[token] != _F(-np.inf):
        edited[at], before[at] = token, x[token]
        x[token] = _F(-np.inf)
        return at + 1
    return at


@njit
def _forbid_repeated(x, history, size, at, edited, before):
    """Forbid what would complete an n-gram of this size that the history has. Returns how many are kept."""
    length = history.shape[0]
    for start in range(length - size + 1):
        same = True
        for k in range(size - 1):
            if history[start + k] != history[length - size + 1 + k]:
                same = False
                break
        if same:
            at = _forbid(x, history[start + size - 1], at, edited, before)
    return at


@njit(fastmath=FINITE_OR_NOT, error_model="numpy")
def _find(a, request, penalty, beam, score, lanes, room, values, tokens):
    """The best continuations of one row into `values` and `tokens`; returns its normalizer.

    room : for tokens that are edited, and for what they had before
    """
    vocab = a.vocab
    x = carray(address(request.logits), (request.beams, vocab), np.float32)[beam]
    allowed = carray(address(request.allowed), (request.beams, vocab), np.float32)[beam]
    history = carray(address(a.integers + 8 * request.history), (request.beams, request.length), np.int64)[beam]
    banned = carray(address(a.integers + 8 * request.banned), (request.bans,), np.int64)
    edited, before = room
    normalizer = _normalizer(x, lanes)
    if not np.isfinite(normalizer):
        return normalizer
    kept = 0
    for i in range(request.bans):
        kept = _forbid(allowed, banned[i], kept, edited, before)
    if request.ngram > 0:
        kept = _forbid_repeated(allowed, history, request.ngram, kept, edited, before)
    seen = kept
    if penalty != _F(1):
        for i in range(request.length):
            kept = _forbid(allowed, history[i], kept, edited, before)
    _largest(allowed, lanes, values, tokens)
    for i in range(kept):
        allowed[edited[i]] = before[i]
    most = values.shape[0]
    for i in range(most):
        base = _F(np.float64(values[i]) - normalizer) if request.normalized else values[i]
        values[i] = base + score
    for i in range(seen, kept):
        base = _F(np.float64(before[i]) - normalizer) if request.normalized else before[i]
        base = base * penalty if base < _F(0) else base / penalty
        _insert(most, most, base + score, edited[i], values, tokens)
    return normalizer


@njit
def _merge(request, scores, tokens, place, results):
    """The best of the continuations of all rows of a request, which are in order in each row.

    place   : of the first of each row that is left
    results : of each continuation its score, the row before it and its token
    """
    for i in range(request.count):
        winner = -1
        for beam in range(request.beams):
            if place[beam] < scores.shape[1] and (
                winner < 0 or scores[beam, place[beam]] > scores[winner, place[winner]]
            ):
                winner = beam
        if winner < 0:  # More are wanted than all rows have.
            results[0, i], results[1, i], results[2, i] = -np.inf, 0, 0
            continue
        results[0, i], results[1, i], results[2, i] = (
            scores[winner, place[winner]],
            winner,
            tokens[winner, place[winner]],
        )
        place[winner] += 1


@kernel
def _continuations() -> Any:
    @cfunc(types.void(types.CPointer(from_dtype(_ARGUMENTS))))
    def search(pointer):
        a = carray(pointer, 1)[0]
        asked = carray(address(a.integers), (a.requests,), _REQUEST)
        owners = carray(address(a.integers + 8 * len(_FIELDS) * a.requests), (a.rows,), np.int64)
        penalties = carray(address(a.numbers), (a.requests,), np.float64)
        before = carray(address(a.numbers + 8 * a.requests), (a.rows,), np.float64)
        results = carray(address(a.results), (a.requests, 5, a.most), np.float64)
        rest = a.results + 8 * a.requests * 5 * a.most
        normalizers = carray(address(rest), (a.rows,), np.float64)
        tokens = carray(address(rest + 8 * a.rows), (a.rows, a.most), np.int64)
        found = carray(address(rest + 8 * a.rows * (1 + a.most)), (a.rows, a.most), np.float32)
        lanes = np.empty(min(LANES, a.vocab), np.float32)
        room = np.empty(a.longest, np.int64), np.empty(a.longest, np.float32)
        first, last = share(a.rows)
        for row in range(first, last):
            i = owners[row]
            own = slice(0, min(asked[i].count, a.vocab))
            beam, score = row - asked[i].row, _F(before[row])
            normalizers[row] = _find(
                a, asked[i], _F(penalties[i]), beam, score, lanes, room, found[row, own], tokens[row, own]
            )
        _barrier()
        first, last = share(a.requests)
        for i in range(first, last):
            request = asked[i]
            rows, own = slice(request.row, request.row + request.beams), slice(0, min(request.count, a.vocab))
            results[i, 4, 0] = np.all(np.isfinite(normalizers[rows]))
            if results[i, 4, 0] == 0:
                continue
            _merge(request, found[rows, own], tokens[rows, own], np.zeros(request.beams, np.int64), results[i])
            logits = carray(address(request.logits), (request.beams, a.vocab), np.float32)
            for k in range(request.count):
                beam, token = np.int64(results[i, 1, k]), np.int64(results[i, 2, k])
                results[i, 3, k] = _F(np.float64(logits[beam, token]) - normalizers[request.row + beam])

    return search


def continuations(asked: Sequence[ScoredRows]) -> list[Found]:
    """The best continuations of each request; all have logits of the same vocabulary.

    Best first, tokens of smaller numbers first among equal ones.
    """
    beams = [rows.logits.shape[0] for rows in asked]
    count, total, most = len(asked), sum(beams), max(rows.number for rows in asked)
    table: list[int] = []
    owners: list[int] = []
    lists: list[int] = []
    scores: list[float] = []
    begin, longest = len(_FIELDS) * count + total, 1
    for i, (rows, own) in enumerate(zip(asked, beams, strict=True)):
        bans, length, at = len(rows.banned), len(rows.history[0]) if rows.history else 0, begin + len(lists)
        table += rows.logits.data_ptr(), rows.allowed.data_ptr(), len(owners), own, rows.number, rows.scores is not None
        table += at, bans, at + bans, length, rows.ngram
        owners += [i] * own
        scores += [0.0] * own if rows.scores is None else rows.scores
        lists += rows.banned
        for row in rows.history:
            lists += row
        longest = max(longest, bans + 2 * length)
    integers = array("q", (*table, *owners, *lists))
    numbers = array("d", (*(rows.penalty for rows in asked), *scores))
    results = np.empty(count * 5 * most + total * (1 + 2 * most))
    addresses = integers.buffer_info()[0], numbers.buffer_info()[0], results.ctypes.data
    arguments = array("q", (count, total, asked[0].logits.shape[1], most, longest, *addresses))
    team.run(_continuations(), arguments.buffer_info()[0])
    found: list[Found] = []
    for rows, one in zip(asked, results[: count * 5 * most].reshape(count, 5, most).tolist(), strict=True):
        finite = bool(one[4][0])
        best, parents, tokens, logprobs = (row[: rows.number if finite else 0] for row in one[:4])
        found.append((best, [int(row) for row in parents], [int(token) for token in tokens], logprobs, finite))
    return found
