"""The in-flight batch: requests enter and leave at any step, each with its own options."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from prelim.decoders.decoder import Decoder
from prelim.errors import InvalidOption, NonFiniteOutput, Overloaded, RequestError, TooLarge
from prelim.generation.beam_search import BeamSearch
from prelim.generation.columns import DEFAULT_COLUMNS, KEPT_COLUMNS, Columns, check_columns
from prelim.generation.hypothesis import Hypothesis, StopRule
from prelim.generation.options import GenerationOptions
from prelim.generation.outcome import Outcome, isolate
from prelim.generation.sampling import Sampling
from prelim.generation.selection import NextTokens, TokenSelection


@dataclass(frozen=True)
class DecodeRequest:
    """One report to decode.

    image_embeds : Tensor, shape (num_tokens, decoder width)
    prompt_ids   : tokens before the first generated one, the decoder's start token included; IMAGE is where the
                   image's embeddings go, in decoders that read them as a prefix
    options      : how to choose the tokens
    """

    image_embeds: Tensor
    prompt_ids: tuple[int, ...]
    options: GenerationOptions


@dataclass
class _Slot:
    """A request in the batch.

    selection : chooses its tokens
    position  : position of the tokens that the next step reads
    tokens    : Tensor of int64, shape (rows,), those tokens
    """

    request_id: str
    selection: TokenSelection
    rows: int
    position: int
    tokens: Tensor


class Engine:
    """Decodes up to `slots` requests together, one token for every row at each `step`.

    The rows of a request share its prefix in the KV cache. Rows of different requests never see each other, and a
    request that fails ends alone: NaN or infinity in its logits, or an exception while its tokens are chosen.

    decoder       : the network
    eos_token_ids : tokens that end a report
    pad_token_id  : fed to rows that are complete while others of their request are not
    detokenize    : token ids -> text, for stop texts
    max_columns   : cache columns that a request may use; with `slots` it bounds the memory of the cache
    """

    def __init__(
        self,
        decoder: Decoder[Any],
        *,
        slots: int,
        eos_token_ids: Sequence[int],
        pad_token_id: int,
        detokenize: Callable[[Sequence[int]], str],
        max_columns: int = DEFAULT_COLUMNS,
    ) -> None:
        self.slots = slots
        self.max_columns = max_columns
        self._decoder = decoder
        self._eos_token_ids = torch.tensor(eos_token_ids, device=decoder.device)
        self._pad_token_id = pad_token_id
        self._detokenize = detokenize
        self.reset()

    @torch.inference_mode()
    def reset(self) -> None:
        """Forget all requests."""
        self._batch: list[_Slot] = []
        self._finished: dict[str, Outcome] = {}
        self._state = self._decoder.new_state(self.slots)
        self._columns = Columns(self.slots, self.max_columns, self._decoder.device)

    @property
    def active(self) -> frozenset[str]:
        """Requests that `step` has not returned yet."""
        return frozenset(slot.request_id for slot in self._batch) | self._finished.keys()

    @property
    def free_slots(self) -> int:
        """How many more requests can enter now."""
        return self.slots - len(self._batch)

    @property
    def max_cache_bytes(self) -> int:
        """Bytes that the KV cache never exceeds."""
        return self.slots * self.max_columns * self._state.cache.column_bytes

    def check(self, request: DecodeRequest) -> None:
        """Raise what keeps a request out of the batch.

        Raises NonFiniteOutput for image_embeds with NaN or infinity, TooLarge for a prompt that leaves no position for
        a report, InvalidOption for more tokens than the decoder has positions or the cache has columns for.
        """
        if not request.image_embeds.isfinite().all():
            raise NonFiniteOutput("the encoder or the connector computed NaN or infinity for this image")
        prefix = self._decoder.prefix_length(len(request.image_embeds), request.prompt_ids)
        positions = self._decoder.max_positions
        room = positions - prefix + 1
        if room < 1:
            raise TooLarge(
                f"image and prompt take {prefix} positions; this model has {positions}, so none is left for a report; "
                "shorten the prompt"
            )
        if request.options.max_new_tokens > room:
            raise InvalidOption(
                f"max_new_tokens is {request.options.max_new_tokens}; this model has {positions} "
                f"positions and the prompt takes {prefix}, so at most {room} are possible"
            )
        check_columns(prefix, request.options, self.max_columns)

    @torch.inference_mode()
    def add(self, requests: Mapping[str, DecodeRequest]) -> None:
        """Read the prefixes of new requests; from the next `step` on they are decoded with the others.

        Raises Overloaded when there are more than `free_slots`, and what `check` raises, before any has entered.
        """
        if len(requests) > self.free_slots:
            raise Overloaded(f"{len(requests)} requests for {self.free_slots} free places; try again later")
        for request in requests.values():
            self.check(request)
        # One by one: matrix kernels choose the order of their sums by the number of rows.
        for request_id, request in requests.items():
            self._prefill({request_id: request})

    @torch.inference_mode()
    def step(self) -> dict[str, Outcome]:
        """Decode one token for every row of every request, and return the requests that end with it."""
        if self._batch:
            self._choose(0, self._forward())
        finished, self._finished = self._finished, {}
        return finished

    def decode(self, requests: Mapping[str, DecodeRequest]) -> dict[str, tuple[Hypothesis, ...]]:
        """Decode all requests to their ends, more than `slots` one after the other.

        Raises the error of the first request that fails.
        """
        waiting, done = dict(requests), dict[str, tuple[Hypothesis, ...]]()
        while waiting or self.active:
            entering = dict(list(waiting.items())[: self.free_slots])
            self.add(entering)
            waiting = {key: request for key, request in waiting.items() if key not in entering}
            for request_id, outcome in self.step().items():
                if isinstance(outcome, RequestError):
                    raise outcome
                done[request_id] = outcome
        return done

    def leading(self, request_id: str) -> list[int]:
        """The tokens that the best row of a request in the batch has so far."""
        return next(slot.selection.leading() for slot in self._batch if slot.request_id == request_id)

    @torch.inference_mode()
    def cancel(self, request_id: str) -> None:
        """Free the slot of a request; unknown ones are ignored."""
        self._finished.pop(request_id, None)
        self._release([i for i, slot in enumerate(self._batch) if slot.request_id == request_id])

    def _prefill(self, group: Mapping[str, DecodeRequest]) -> None:
        """Requests with prefixes of one shape, in one forward pass."""
        first = len(self._batch)
        slots = slice(first, first + len(group))
        image_embeds = torch.stack([request.image_embeds for request in group.values()]).to(self._decoder.device)
        prompt_ids = torch.tensor([request.prompt_ids for request in group.values()], device=self._decoder.device)
        first_prompt = next(iter(group.values())).prompt_ids
        prefix = self._decoder.prefix_length(image_embeds.shape[1], first_prompt)
        entering = []
        for request_id, request in group.items():
            rows = request.options.rows
            tokens = torch.empty(rows, dtype=torch.int64)
            entering.append(_Slot(request_id, self._selection(request), rows, prefix - 1, tokens))
        self._columns.grow(prefix)
        self._state.cache.reserve(slots.stop, self._columns.total)
        try:
            places = self._state.cache.prefix_places(slots, prefix)
            logits = self._decoder.prefill(self._state, places, image_embeds, prompt_ids)
        except Exception:
            for slot in range(slots.start, slots.stop):
                self._state.clear(slot, prefix)
            raise
        self._columns.enter(slots, prefix)
        self._batch += entering
        self._choose(first, logits[:, None])

    def _selection(self, request: DecodeRequest) -> TokenSelection:
        options, device = request.options, self._decoder.device
        history = torch.tensor(self._decoder.history(request.prompt_ids), dtype=torch.int64, device=device)
        rule = StopRule(self._eos_token_ids, options.max_new_tokens, options.stop, self._detokenize)
        generator = None
        if options.do_sample:
            generator = torch.Generator(device)
            if options.seed is None:
                generator.seed()
            else:
                generator.manual_seed(options.seed)
        if options.num_beams > 1:
            return BeamSearch(options, history, rule, generator)
        return Sampling(options, history, rule, self._pad_token_id, generator)

    def _forward(self) -> Tensor:
        """One token of every row through the decoder: logits, shape (slots, rows, vocab_size)."""
        batch, device = self._batch, self._decoder.device
        rows = max(slot.rows for slot in batch)
        token_ids = torch.full((len(batch), rows), self._pad_token_id, device=device)
        for i, slot in enumerate(batch):
            token_ids[i, : slot.rows] = slot.tokens
        positions = torch.tensor([slot.position for slot in batch], device=device)[:, None].expand(-1, rows)
        columns = self._columns.assign([slot.rows for slot in batch])
        self._state.cache.reserve(len(batch), self._columns.total)
        own = torch.ones_like(token_ids, dtype=torch.bool)
        if self._decoder.hidden_from_all is not None:
            own = token_ids != self._decoder.hidden_from_all
        mask = self._columns.look_at(columns, own)
        places = self._state.cache.places(slice(0, len(batch)), columns, mask.shape[-1])
        return self._decoder.step(self._state, places, token_ids, positions, mask)

    def _choose(self, first: int, logits: Tensor) -> None:
        """Choose the next tokens of the requests from slot `first` on, and release those that end.

        logits : Tensor, shape (slots, rows, vocab_size), or (slots, 1, vocab_size) for the first tokens
        """
        # The largest logit of a row is finite unless one is NaN or plus infinity, or all are minus infinity.
        healthy = logits.amax(dim=-1).isfinite().tolist()
        over = []
        for i, slot in enumerate(self._batch[first:]):
            chosen = isolate(partial(_advance, slot, logits[i, : slot.rows], all(healthy[i][: slot.rows])))
            if isinstance(chosen, RequestError | tuple):
                self._finished[slot.request_id] = chosen
                over.append(first + i)
                continue
            slot.tokens = chosen.tokens
            slot.position += 1
            if chosen.parents is not None:
                self._columns.reorder(first + i, chosen.parents)
        self._release(over)

    def _release(self, indices: Sequence[int]) -> None:
        """Free slots and clear them; the last one takes a free one's place, so that those in use are the first."""
        for index in sorted(indices, reverse=True):
            last = len(self._batch) - 1
            self._state.clear(index, self._columns.used(index))
            if index != last:
                self._state.move(last, index, self._columns.used(last))
                self._state.clear(last, self._columns.used(last))
                self._columns.move(last, index)
                self._batch[index] = self._batch[last]
            self._columns.leave(last)
            self._batch.pop()
        if indices and self._columns.shrink():
            self._state.cache.narrow(KEPT_COLUMNS)


def _advance(slot: _Slot, logits: Tensor, healthy: bool) -> NextTokens | tuple[Hypothesis, ...]:
    """The next tokens of a request, or its sequences when it is over. Raises NonFiniteOutput where there is none."""
    if not healthy:
        raise NonFiniteOutput("the decoder computed NaN or infinity for this request")
    chosen = slot.selection.advance(logits)
    if chosen is not None:
        return chosen
    hypotheses = slot.selection.hypotheses()
    if not all(math.isfinite(hypothesis.sum_logprob) for hypothesis in hypotheses):
        raise NonFiniteOutput("the log-probability of this report is not finite")
    return hypotheses
