"""The in-flight batch: requests enter and leave at any step, each with its own options."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, islice, repeat, takewhile
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from prelim.decoders.decoder import Decoder
from prelim.errors import NonFiniteOutput, RequestError
from prelim.generation.advance import Seen, advance, look
from prelim.generation.beam_search import BeamSearch
from prelim.generation.columns import DEFAULT_COLUMNS, KEPT_COLUMNS, Columns, check_columns
from prelim.generation.constraint import Constraint, Constraints
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.drafts import MAX_DRAFTS, Drafts
from prelim.generation.find_candidates import finder
from prelim.generation.hypothesis import Hypothesis, StopRule
from prelim.generation.options import GenerationOptions
from prelim.generation.outcome import Outcome, isolate
from prelim.generation.reading import BETWEEN_STEPS, TOGETHER, PrefixReading, have_one_form
from prelim.generation.sampling import Sampling
from prelim.generation.selection import NextTokens, TokenSelection
from prelim.generation.threads import set_threads

Request = TypeVar("Request", bound=DecodeRequest)

DRAFT_ROWS = 12
"""Rows up to which a step gets drafts: a row more takes 2 to 10 % of a step of one row, and often saves one."""

READ_AHEAD = 4
"""Waiting requests whose images are read while others are decoded; each holds its pixels. As many are encoded together.
"""


class Engine(Generic[Request]):
    """Decodes up to `slots` requests together, one token for every row at each `step`; the others wait.

    One record stands for a request, from `add` until `step` returns it. The rows of a request share its prefix in the
    KV cache. Rows of different requests never see each other, and a request that fails ends alone: by an error or an
    exception of its own, or by NaN or infinity in its logits.

    decoder       : the network
    eos_token_ids : tokens that end a report
    pad_token_id  : fed to rows that are complete while others of their request are not
    detokenize    : token ids -> text, for stop texts
    max_columns   : cache columns that a request may use; with `slots` it bounds the memory of the cache
    constraints   : of the tokenizer, for options with banned phrases or a grammar
    drafts        : proposes tokens of reports that are written in a single row; where there is room in a step, it reads
                    them too, and those that token selection chooses need no step of their own
    threads       : of PyTorch while the engine works; None leaves what is set
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
        constraints: Constraints | None = None,
        drafts: Drafts | None = None,
        threads: int | None = None,
    ) -> None:
        self.slots = slots
        self.max_columns = max_columns
        self._decoder = decoder
        self._eos_token_ids = torch.tensor(eos_token_ids, device=decoder.device)
        self._pad_token_id = pad_token_id
        self._detokenize = detokenize
        self._constraints = constraints
        self._drafts = drafts
        self._threads = threads
        self._find = finder(compiled=decoder.not_compiled is None)
        self.reset()

    @torch.inference_mode()
    def reset(self) -> None:
        """Forget all requests."""
        self._waiting: dict[str, Request] = {}
        self._running: list[Request] = []
        self._readings: list[PrefixReading[Request]] = []
        self._ended: dict[str, Request] = {}
        self._state = self._decoder.new_state(self.slots)
        self._columns = Columns(self.slots, self.max_columns)
        self._draft_counts = 0, 0

    @property
    def active(self) -> frozenset[str]:
        """Requests that `step` has not returned yet."""
        return frozenset((*self._waiting, *self.running, *self._ended))

    @property
    def running(self) -> frozenset[str]:
        """Requests that have a slot."""
        return frozenset(request.request_id for request in self._in_slots)

    @property
    def _in_slots(self) -> list[Request]:
        """Requests by their slots; those whose prefixes are being read are the last."""
        return [*self._running, *chain.from_iterable(reading.requests for reading in self._readings)]

    @property
    def max_cache_bytes(self) -> int:
        """Bytes that the KV cache never exceeds."""
        return self.slots * self.max_columns * self._state.cache.column_bytes

    def add(self, requests: Mapping[str, Request]) -> None:
        """Let requests wait for slots, which they get in this order.

        Raises before any has entered: TooLarge for a prompt that leaves no position for a report, InvalidOption for
        more tokens than the decoder has positions or the cache has columns for, ValueError for the id of a request that
        has not ended.
        """
        if in_use := self.active & requests.keys():
            raise ValueError(f"the request {min(in_use)!r} has not ended; give another id")
        for request in requests.values():
            self._check(request)
        for request_id, request in requests.items():
            request.request_id, request.selection, request.outcome = request_id, None, None
            self._waiting[request_id] = request

    @torch.inference_mode()
    def step(self) -> dict[str, Request]:
        """Fill free slots, decode one token for every row of every request, and return the requests that end."""
        with set_threads(self._threads):
            self._fill_slots()
            if self._running:
                self._propose()
                self._choose(0, self._forward())
        ended, self._ended = self._ended, {}
        return ended

    def decode(self, requests: Mapping[str, Request]) -> dict[str, tuple[Hypothesis, ...]]:
        """Decode all requests to their ends, in an engine that has no others.

        Raises the error of the first request that failed, once all have ended; RuntimeError while there are others.
        """
        if self.active:
            raise RuntimeError(f"{len(self.active)} other requests have not ended")
        self.add(requests)
        done: dict[str, Request] = {}
        while self.active:
            done |= self.step()
        return {request_id: done[request_id].hypotheses for request_id in requests}

    def find(self, request_id: str) -> Request:
        """A request that waits or runs. Raises KeyError for others."""
        if request_id in self._waiting:
            return self._waiting[request_id]
        for request in self._in_slots:
            if request.request_id == request_id:
                return request
        raise KeyError(request_id)

    @torch.inference_mode()
    def cancel(self, request_id: str) -> None:
        """Forget a request and free its slot; unknown ones are ignored."""
        self._waiting.pop(request_id, None)
        self._ended.pop(request_id, None)
        for reading in self._readings:
            if reading.drop(request_id) and reading.done:
                self._free(len(self._running))
        self._readings = [reading for reading in self._readings if reading.requests]
        self._release([i for i, request in enumerate(self._running) if request.request_id == request_id])

    def take_draft_counts(self) -> tuple[int, int]:
        """How many tokens were proposed and how many of them chosen since this was last asked."""
        counts, self._draft_counts = self._draft_counts, (0, 0)
        return counts

    def _check(self, request: Request) -> None:
        """Raise what keeps a request out of the engine."""
        self._constrain(request.options)
        request.check_positions(self._decoder.max_positions)
        check_columns(len(request.prefix_ids), request.options, self.max_columns)

    def _fill_slots(self) -> None:
        """Read prefixes of waiting requests: while others are decoded, only so many that these do not wait for long."""
        idle = not self._running
        while self._read_next(TOGETHER if idle else BETWEEN_STEPS):
            if not idle and self._decoder.reads_together:
                break

    def _read_next(self, most: int) -> bool:
        """Read up to so many tokens of prefixes, if the decoder can; whether there were any."""
        self._readings = self._readings or self._next_readings(most)
        if not self._readings:
            return False
        reading, *others = self._readings
        stop = min(reading.length, reading.done + most) if self._decoder.reads_in_parts else reading.length
        logits = isolate(partial(self._prefill, reading, stop))
        if isinstance(logits, RequestError):
            # One that fails must not keep those out that are read with it.
            self._readings = [*(reading.alone() if len(reading.requests) > 1 else ()), *others]
            if len(reading.requests) == 1:
                self._end(reading.requests[0], logits)
        elif stop == reading.length:
            self._readings, first = others, len(self._running)
            self._running += reading.requests
            self._choose(first, logits)
        return True

    def _next_readings(self, most: int) -> list[PrefixReading[Request]]:
        """The waiting requests whose prefixes are read next, with their images; those that have none end."""
        readings: list[PrefixReading[Request]] = []
        while not readings and (entering := self._next_entering(most)):
            following = self._following(entering)
            for i, request in enumerate(entering):
                image_embeds = isolate(partial(self._prepare, request, [*entering[i + 1 :], *following]))
                if isinstance(image_embeds, RequestError):
                    self._end(request, image_embeds)
                elif readings and readings[-1].has_form_of(request):
                    readings[-1].add(request, image_embeds)
                else:
                    readings.append(PrefixReading([request], [image_embeds]))
        return readings

    def _next_entering(self, most: int) -> list[Request]:
        """Take waiting requests: several if their prefixes can be read at once, and are so many tokens together.

        One whose images are still being read keeps itself and the next ones out while there is something to decode.
        """
        entering: list[Request] = []
        while self._waiting:
            for waiting in islice(self._waiting.values(), READ_AHEAD):
                waiting.read()
            request = next(iter(self._waiting.values()))
            taken = len(self._running) + len(entering)
            if taken == self.slots or (taken and not request.is_read):
                break
            together = self._decoder.reads_together and (len(entering) + 1) * len(request.prefix_ids) <= most
            if entering and not (together and have_one_form(entering[0], request)):
                break
            del self._waiting[request.request_id]
            entering.append(request)
        return entering

    def _following(self, entering: Sequence[Request]) -> list[Request]:
        """Requests that enter right after these: their images are read, and there are slots for them."""
        free = self.slots - len(self._running) - len(entering)
        return list(takewhile(lambda waiting: waiting.is_read, islice(self._waiting.values(), free)))

    def _prepare(self, request: Request, others: Sequence[Request]) -> Tensor:
        """Its image_embeds, and what chooses its tokens."""
        image_embeds = request.embed(others)
        if not image_embeds.isfinite().all():
            raise NonFiniteOutput("the encoder or the connector computed NaN or infinity for this image")
        request.selection, request.tokens = self.select(request), ()
        request.position = self._decoder.next_position(request.prefix_ids, request.grids) - 1
        return image_embeds

    def _prefill(self, reading: PrefixReading[Request], stop: int) -> Tensor:
        """Read prefixes further, up to a token: logits of what follows, shape (slots, 1, vocab_size)."""
        device, first = self._decoder.device, len(self._running)
        slots = slice(first, first + len(reading.requests))
        if not reading.done:
            self._columns.grow(reading.length)
            self._state.cache.reserve(slots.stop, self._columns.total)
            for slot in range(slots.start, slots.stop):
                self._columns.enter(slot, reading.length)
        places = self._state.cache.prefix_places(slots, stop, reading.done)
        prompt_ids = torch.tensor([request.prefix_ids for request in reading.requests], device=device)
        try:
            image_embeds = torch.stack(reading.image_embeds).to(device)
            logits = self._decoder.prefill(self._state, places, image_embeds, prompt_ids, reading.grids)
        except Exception:
            for slot in range(slots.start, slots.stop):
                self._free(slot)
            raise
        reading.done = stop
        return logits[:, None]

    def select(self, request: Request) -> TokenSelection:
        """What chooses the tokens of a request, by its options. A subclass may choose otherwise."""
        options, device = request.options, self._decoder.device
        history = torch.tensor(self._decoder.history(request.prefix_ids), dtype=torch.int64, device=device)
        rule = StopRule(self._eos_token_ids, options.max_new_tokens, options.stop, self._detokenize)
        generator = None
        if options.do_sample:
            generator = torch.Generator(device)
            if options.seed is None:
                generator.seed()
            else:
                generator.manual_seed(options.seed)
        constraints = self._constrain(options)
        if options.num_beams > 1:
            return BeamSearch(options, history, rule, generator, constraints=constraints)
        return Sampling(options, history, rule, self._pad_token_id, generator, constraints=constraints)

    def _constrain(self, options: GenerationOptions) -> tuple[Constraint, ...]:
        """What the options let the rows write. Raises InvalidOption as `Constraints.of` does."""
        if (options.banned_phrases or options.grammar) and self._constraints is None:
            raise ValueError("banned_phrases and grammar need an engine that knows its tokenizer")
        return () if self._constraints is None else self._constraints.of(options)

    def _propose(self) -> None:
        """Let requests of a single row read drafts too, in as many rows as the step has anyway, or few."""
        if self._drafts is None:
            return
        widest = max(request.options.rows for request in self._running)
        most = min(MAX_DRAFTS, max(widest, DRAFT_ROWS // len(self._running)) - 1)
        for request in self._running:
            if request.options.rows == 1 and request.selection is not None:
                written = request.selection.decided()
                room = request.options.max_new_tokens - len(written) - 1
                proposed = self._drafts.propose(written, min(most, room))
                request.tokens = [request.tokens[0], *proposed]

    def _forward(self) -> Tensor:
        """The tokens of every request through the decoder: logits, shape (slots, most tokens, vocab_size)."""
        running, device = self._running, self._decoder.device
        rows, drafts = [len(request.tokens) for request in running], [request.drafts for request in running]
        most = max(rows)
        tokens = [[*request.tokens, *repeat(self._pad_token_id, most - len(request.tokens))] for request in running]
        positions = [[request.position + min(row, request.drafts) for row in range(most)] for request in running]
        read = np.array([tokens, positions])
        self._columns.split(drafts)
        columns = self._columns.assign(rows)
        self._state.cache.reserve(len(running), self._columns.total)
        hidden = self._decoder.hidden_from_all
        own_tokens = np.ones(columns.shape, dtype=np.bool_) if hidden is None else read[0] != hidden
        mask = self._columns.look_at(columns, own_tokens, drafts)
        where, (token_ids, positions), seen = (torch.from_numpy(array).to(device) for array in (columns, read, mask))
        places = self._state.cache.places(slice(0, len(running)), where, mask.shape[-1])
        return self._decoder.step(self._state, places, token_ids, positions, seen)

    def _choose(self, first: int, logits: Tensor) -> None:
        """Choose the next tokens of the requests from slot `first` on, and release those that end.

        logits : Tensor, shape (slots, most tokens, vocab_size), or (slots, 1, vocab_size) for the first tokens
        """
        reading = dict.fromkeys(range(first, len(self._running)), 0)
        while reading:
            asked = [(self._running[slot], logits[slot - first, row:]) for slot, row in reading.items()]
            found = dict(zip(reading, self._look(asked), strict=True))
            reading = {slot: row + 1 for slot, row in reading.items() if self._take(slot, row, found[slot])}
        self._release([i for i, request in enumerate(self._running) if request.outcome is not None])

    def _look(self, asked: Sequence[tuple[Request, Tensor]]) -> list[Seen]:
        """What requests choose their next tokens by; see `look`."""
        return look(asked, self._find)

    def _take(self, slot: int, row: int, found: Seen) -> bool:
        """Let a request choose its next tokens; whether it chose its next draft, so that it chooses again.

        row   : the first that it chooses by
        found : as in `advance`
        """
        request = self._running[slot]
        chosen = isolate(partial(advance, request, found))
        if row < request.drafts and isinstance(chosen, NextTokens) and chosen.tokens[0] == request.tokens[row + 1]:
            return True
        proposed, accepted = self._draft_counts
        self._draft_counts = proposed + request.drafts, accepted + row
        if not isinstance(chosen, NextTokens):
            self._end(request, chosen)
            return False
        request.tokens = chosen.tokens
        parents = [row] if row else chosen.parents
        if parents is not None:
            self._columns.reorder(slot, parents)
        return False

    def _end(self, request: Request, outcome: Outcome) -> None:
        """Keep a request that has ended for `step` to return."""
        request.outcome = outcome
        self._ended[request.request_id] = request

    def _release(self, indices: Sequence[int]) -> None:
        """Free slots; the last one takes a free one's place, so that those in use are the first."""
        for index in sorted(indices, reverse=True):
            last = len(self._running) - 1
            self._free(index)
            if index != last:
                self._move(last, index)
                self._running[index] = self._running[last]
            self._running.pop()
            if self._readings and self._readings[0].done:
                self._move(last + 1, last)
        if indices and self._columns.shrink():
            self._state.cache.narrow(KEPT_COLUMNS)

    def _move(self, source: int, target: int) -> None:
        """Move what is in a slot to a free one."""
        self._state.move(source, target, self._columns.used(source))
        self._columns.move(source, target)
        self._free(source)

    def _free(self, slot: int) -> None:
        """Clear a slot."""
        self._state.clear(slot, self._columns.used(slot))
        self._columns.leave(slot)
