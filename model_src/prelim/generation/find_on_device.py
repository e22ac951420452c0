"""Candidates of all requests by PyTorch's operations, on the device of their logits.

A GPU is waited for once a step, however many requests there are: what the host knows, such as scores and what may not
be written, goes there in one copy, and only the candidates come back. See docs/decisions/0068-selection-on-a-gpu.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from prelim.errors import RequestError
from prelim.generation.candidates import Asked, Candidates, Wanted
from prelim.generation.logits import largest
from prelim.generation.outcome import isolate


def find_on_device(asked: Sequence[Asked]) -> list[Candidates | RequestError]:
    """Candidates of requests to one decoder, or the errors of their options.

    Neighbors change no bit where PyTorch sums each row in the same order, whatever the number of rows.
    """
    edits = [isolate(partial(_edit, logits.shape[1], wanted)) for logits, wanted in asked]
    good = [(logits, edit) for (logits, _), edit in zip(asked, edits, strict=True) if isinstance(edit, _Edit)]
    found = iter(_find([logits for logits, _ in good], [edit for _, edit in good]) if good else ())
    return [edit if isinstance(edit, RequestError) else next(found) for edit in edits]


@dataclass(frozen=True)
class _Edit:
    """What is done to the rows of a request before they compete, and how many candidates it wants.

    count      : see `Wanted`
    scores     : float32, shape (rows,), what is added
    normalized : whether log-probabilities compete, or logits
    seen       : int64, places in the flattened rows of tokens that are there already, where that counts against them
    penalty    : by how much
    forbidden  : int64, places in the flattened rows of what may not follow
    mask       : bool, shape (rows, vocab_size), what constraints forbid; None where they forbid nothing
    """

    count: int
    scores: np.ndarray
    normalized: bool
    seen: np.ndarray
    penalty: float
    forbidden: np.ndarray
    mask: np.ndarray | None


def _edit(vocab_size: int, wanted: Wanted) -> _Edit:
    processed = wanted.processed
    scores = np.array([0.0] if wanted.scores is None else wanted.scores, np.float32)
    each = np.arange(len(scores))[:, None]
    seen, forbidden = each[:0, 0], [_places(each, np.array(processed.banned(wanted.generated), np.int64), vocab_size)]
    if processed.reads_history:
        history = np.array(wanted.history(), np.int64)
        if processed.penalty != 1.0:
            seen = _places(each, history, vocab_size)
        forbidden.append(_places(*_repeating(history, processed.ngram), vocab_size))
    # A single number, of which only a constraint that forbids makes rows.
    nothing = torch.zeros(()).expand(len(scores), vocab_size)
    limited = processed.forbid(nothing)
    return _Edit(
        wanted.number,
        scores,
        wanted.scores is not None,
        seen,
        processed.penalty,
        np.concatenate(forbidden),
        None if limited is nothing else limited.isneginf().numpy(),
    )


def _places(rows: np.ndarray, tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Places of tokens in the flattened rows, without those that no row has: they would be a neighbor's."""
    return (rows * vocab_size + tokens)[np.broadcast_to((tokens >= 0) & (tokens < vocab_size), (rows * tokens).shape)]


def _repeating(history: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and the tokens that would complete an n-gram of theirs again; see `no_repeat_ngram`."""
    length = history.shape[1]
    if not 0 < size <= length:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    ngrams = np.lib.stride_tricks.sliding_window_view(history, size, axis=1)
    row, place = (ngrams[:, :, :-1] == history[:, None, length - size + 1 :]).all(axis=-1).nonzero()
    return row, ngrams[row, place, -1]


def _find(logits: Sequence[Tensor], edits: Sequence[_Edit]) -> list[Candidates]:
    rows = [len(edit.scores) for edit in edits]
    x = torch.cat([one.expand(size, -1) for one, size in zip(logits, rows, strict=True)]).float()
    finite = x.amax(dim=1).isfinite()  # see have_largest
    raw = x.log_softmax(dim=1)
    own, scores, *changes = to_device((_own(rows), *_changes(edits, x.shape[1])), x.device)
    count = max(edit.count for edit in edits)
    values, tokens = largest(_competing(x, raw, changes) + scores[:, None], min(count, x.shape[1]))

    # Now a row for each request, with minus infinity where it has fewer rows than the widest, or fewer than it wants.
    width = values.shape[1]
    room = (0, max(0, count - width * own.shape[1]))
    values = pad(torch.cat([values, values.new_full((1, width), -torch.inf)])[own].flatten(1), room, value=-torch.inf)
    tokens = pad(torch.cat([tokens, tokens.new_zeros(1, width)])[own].flatten(1), room)
    best, order = largest(values, count)
    parents, chosen = (order // width).clamp(max=own.shape[1] - 1), tokens.gather(1, order)
    logprobs = raw[own.gather(1, parents).clamp(max=len(raw) - 1), chosen]
    numbers = torch.stack([numbers.double() for numbers in (best, parents, chosen, logprobs)], dim=1)

    # The only time that a GPU is waited for.
    received = torch.cat([numbers.flatten(), finite.double()]).cpu().numpy()
    table, finite_rows = received[: numbers.numel()].reshape(numbers.shape), received[numbers.numel() :] > 0
    whole = np.logical_and.reduceat(finite_rows, np.cumsum([0, *rows[:-1]]))
    return [
        _candidates(part[:, : edit.count], size) if good else Candidates((), (), (), (), finite=False)
        for part, edit, size, good in zip(table, edits, rows, whole, strict=True)
    ]


def _own(rows: Sequence[int]) -> np.ndarray:
    """The rows of each request, shape (requests, most); the row after the last where it has fewer."""
    first, number = np.cumsum([0, *rows]), np.arange(max(rows))
    return np.where(number < np.array(rows)[:, None], first[:-1, None] + number, first[-1])


def _changes(edits: Sequence[_Edit], vocab_size: int) -> tuple[np.ndarray, ...]:
    """The edits of all requests, with places in the rows of all: scores, and what `_competing` takes."""
    first = np.cumsum([0, *(len(edit.scores) for edit in edits)])[:-1].tolist()
    each = list(zip(edits, first, strict=True))
    limited = [(edit.mask, at) for edit, at in each if edit.mask is not None]
    return (
        np.concatenate([edit.scores for edit in edits]),
        np.concatenate([np.full(len(edit.scores), edit.normalized) for edit in edits]),
        np.concatenate([edit.seen + at * vocab_size for edit, at in each]),
        np.concatenate([np.full(len(edit.seen), edit.penalty, np.float32) for edit in edits]),
        np.concatenate([edit.forbidden + at * vocab_size for edit, at in each]),
        np.concatenate([np.empty(0, np.int64), *(at + np.arange(len(mask)) for mask, at in limited)]),
        np.concatenate([np.empty((0, vocab_size), np.bool_), *(mask for mask, _ in limited)]),
    )


def _competing(x: Tensor, raw: Tensor, changes: Sequence[Tensor]) -> Tensor:
    """Scores of all rows, as LogitsFilter changes them; shape (rows, vocab_size)."""
    normalized, seen, penalty, forbidden, limited, mask = changes
    flat = torch.where(normalized[:, None], raw, x).flatten()
    if len(seen):
        before = flat[seen]
        flat[seen] = torch.where(before < 0, before * penalty, before / penalty)
    if len(forbidden):
        flat.index_fill_(0, forbidden, -torch.inf)
    scores = flat.view_as(raw)
    if len(limited):
        scores[limited] = scores[limited].masked_fill(mask, -torch.inf)
    return scores


def _candidates(numbers: np.ndarray, rows: int) -> Candidates:
    best, parents, tokens, logprobs = numbers
    # Those of a row that is not there are minus infinity, whichever row they are said to continue.
    parents = np.minimum(parents, rows - 1).astype(np.int64)
    return Candidates(best.tolist(), parents.tolist(), tokens.astype(np.int64).tolist(), logprobs.tolist())


def to_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """The arrays on a device, by one copy, which nobody waits for."""
    places = np.cumsum([0, *(-(-array.nbytes // 8) * 8 for array in arrays)]).tolist()
    packed = torch.empty(places[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    buffer = packed.numpy()
    for array, place in zip(arrays, places, strict=False):
        buffer[place : place + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    there = packed.to(device, non_blocking=True)
    return [
        there[place : place + array.nbytes].view(torch.from_numpy(array[:0]).dtype).view(array.shape)
        for array, place in zip(arrays, places, strict=False)
    ]
