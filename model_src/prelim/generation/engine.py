"""The in-flight batch: requests enter and leave at any step, each with its own options."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prelim.decoders.decoder import IMAGE, Decoder
from prelim.errors import InvalidOption, Overloaded
from prelim.generation.beam_search import BeamSearch
from prelim.generation.hypothesis import Hypothesis, StopRule
from prelim.generation.options import MAX_BEAMS, GenerationOptions
from prelim.generation.sampling import Sampling

_COLUMN_BLOCK = 64
"""The cache grows by half, to a multiple of this many columns: all that is in it is copied each time."""


@dataclass(frozen=True)
class DecodeRequest:
    """One report to decode.

    image_embeds : Tensor, shape (num_tokens, decoder width)
    prompt_ids   : tokens that stand before the first generated one, the decoder's start token included; IMAGE stands
                   where the image's embeddings go, in decoders that read them as a prefix
    options      : how to choose the tokens
    """

    image_embeds: Tensor
    prompt_ids: tuple[int, ...]
    options: GenerationOptions


@dataclass
class _Slot:
    """A request in the batch.

    columns  : cache columns up to the last one in use
    position : position of the tokens that the next step reads
    tokens   : Tensor of int64, shape (rows,), those tokens
    """

    request_id: str
    search: BeamSearch | Sampling
    rows: int
    columns: int
    position: int
    tokens: Tensor


class Engine:
    """Decodes up to `slots` requests together, one token for every row at each `step`.

    The rows of a request share its prefix in the KV cache. Which columns a row may look at is its ancestry, a
    row of booleans; when beams are reordered only these are. Rows of different requests never see each other.

    decoder       : the network
    eos_token_ids : tokens that end a report
    pad_token_id  : fed to rows that are complete while others of their request are not
    detokenize    : token ids -> text, for stop texts
    """

    def __init__(
        self,
        decoder: Decoder[Any],
        *,
        slots: int,
        eos_token_ids: Sequence[int],
        pad_token_id: int,
        detokenize: Callable[[Sequence[int]], str],
    ) -> None:
        self.slots = slots
        self._decoder = decoder
        self._eos_token_ids = torch.tensor(eos_token_ids, device=decoder.device)
        self._pad_token_id = pad_token_id
        self._detokenize = detokenize
        self.reset()

    @torch.inference_mode()
    def reset(self) -> None:
        """Forget all requests."""
        self._batch: list[_Slot] = []
        self._finished: dict[str, tuple[Hypothesis, ...]] = {}
        self._state = self._decoder.new_state(self.slots)
        self._ancestry = torch.zeros(self.slots, MAX_BEAMS, 0, dtype=torch.bool, device=self._decoder.device)

    @property
    def active(self) -> frozenset[str]:
        """Requests that `step` has not returned yet."""
        return frozenset(slot.request_id for slot in self._batch) | self._finished.keys()

    @property
    def free_slots(self) -> int:
        """How many more requests can enter now."""
        return self.slots - len(self._batch)

    def check(self, request: DecodeRequest) -> None:
        """Raise InvalidOption when the decoder has too few positions for the request."""
        prefix = self._decoder.prefix_length(len(request.image_embeds), request.prompt_ids)
        room = self._decoder.max_positions - prefix + 1
        if request.options.max_new_tokens > room:
            raise InvalidOption(
                f"max_new_tokens is {request.options.max_new_tokens}; this model has {self._decoder.max_positions} "
                f"positions and the prompt takes {prefix}, so at most {room} are possible"
            )

    @torch.inference_mode()
    def add(self, requests: Mapping[str, DecodeRequest]) -> None:
        """Read the prefixes of new requests; from the next `step` on they are decoded with the others.

        Raises Overloaded when there are more than `free_slots`, InvalidOption as `check` does.
        """
        if len(requests) > self.free_slots:
            raise Overloaded(f"{len(requests)} requests for {self.free_slots} free places; try again later")
        for request in requests.values():
            self.check(request)
        groups: dict[tuple[int, ...], dict[str, DecodeRequest]] = {}
        for request_id, request in requests.items():
            ids = request.prompt_ids
            shape = (len(request.image_embeds), len(ids), ids.index(IMAGE) if IMAGE in ids else -1)
            groups.setdefault(shape, {})[request_id] = request
        for group in groups.values():
            self._prefill(group)

    @torch.inference_mode()
    def step(self) -> dict[str, tuple[Hypothesis, ...]]:
        """Decode one token for every row of every request, and return the requests that are done with it."""
        if self._batch:
            logits = self._forward()
            over = [i for i, slot in enumerate(self._batch) if not self._choose(i, logits[i, : slot.rows])]
            for i in reversed(over):
                self._release(i)
        finished, self._finished = self._finished, {}
        return finished

    def leading(self, request_id: str) -> list[int]:
        """The tokens that the best row of a request in the batch has so far."""
        return next(slot.search.leading() for slot in self._batch if slot.request_id == request_id)

    @torch.inference_mode()
    def cancel(self, request_id: str) -> None:
        """Free the slot of a request; unknown ones are ignored."""
        self._finished.pop(request_id, None)
        for i, slot in enumerate(self._batch):
            if slot.request_id == request_id:
                self._release(i)
                return

    def _prefill(self, group: Mapping[str, DecodeRequest]) -> None:
        """Requests with prefixes of one shape, in one forward pass."""
        first = len(self._batch)
        slots = slice(first, first + len(group))
        image_embeds = torch.stack([request.image_embeds for request in group.values()]).to(self._decoder.device)
        prompt_ids = torch.tensor([request.prompt_ids for request in group.values()], device=self._decoder.device)
        first_prompt = next(iter(group.values())).prompt_ids
        prefix = self._decoder.prefix_length(image_embeds.shape[1], first_prompt)
        self._reserve(slots.stop, prefix)
        logits = self._decoder.prefill(self._state, slots, image_embeds, prompt_ids)
        self._ancestry[slots] = False
        self._ancestry[slots, :, :prefix] = True
        over = []
        for i, (request_id, request) in enumerate(group.items(), start=first):
            search = self._search(request)
            rows = request.options.rows
            self._batch.append(
                _Slot(request_id, search, rows, prefix, prefix - 1, torch.empty(rows, dtype=torch.int64))
            )
            if not self._choose(i, logits[i - first, None]):
                over.append(i)
        for i in reversed(over):
            self._release(i)

    def _search(self, request: DecodeRequest) -> BeamSearch | Sampling:
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
        row = torch.arange(rows, device=device)
        token_ids = torch.full((len(batch), rows), self._pad_token_id, device=device)
        for i, slot in enumerate(batch):
            token_ids[i, : slot.rows] = slot.tokens
        positions = torch.tensor([slot.position for slot in batch], device=device)[:, None].expand(-1, rows)
        columns = self._free_columns(rows)
        length = max(slot.columns for slot in batch)
        own = torch.ones_like(token_ids, dtype=torch.bool)
        if self._decoder.hidden_from_all is not None:
            own = token_ids != self._decoder.hidden_from_all
        self._ancestry[torch.arange(len(batch), device=device)[:, None], row, columns] = own
        slots = slice(0, len(batch))
        self._state.cache.open(slots, columns, length)
        mask = self._ancestry[slots, None, :rows, :length]
        return self._decoder.step(self._state, slots, token_ids, positions, mask)

    def _free_columns(self, rows: int) -> Tensor:
        """Cache columns for the next tokens, shape (slots, rows): the first ones that no row of the slot looks at.

        Those of beams that were dropped are used again, so a search takes little more room than its longest beam.
        """
        batch = self._batch
        length = max(slot.columns for slot in batch) + rows
        self._reserve(len(batch), length)
        real = torch.tensor([[row < slot.rows for row in range(rows)] for slot in batch], device=self._ancestry.device)
        seen = (self._ancestry[: len(batch), :rows, :length] & real[:, :, None]).any(dim=1)
        columns = seen.to(torch.uint8).sort(dim=1, stable=True).indices[:, :rows]
        for slot, last in zip(batch, columns[:, -1].tolist(), strict=True):
            slot.columns = max(slot.columns, last + 1)
        return columns

    def _choose(self, index: int, logits: Tensor) -> bool:
        """Choose the next tokens of one request; False when it is done, and then it stands in `_finished`."""
        slot = self._batch[index]
        chosen = slot.search.advance(logits)
        if chosen is None:
            self._finished[slot.request_id] = slot.search.hypotheses()
            return False
        parents, slot.tokens = chosen
        slot.position += 1
        if parents is not None:
            self._ancestry[index, : slot.rows] = self._ancestry[index, parents]
        return True

    def _release(self, index: int) -> None:
        """Free a slot; the last one takes its place, so that the slots in use stay next to each other."""
        last = len(self._batch) - 1
        if index != last:
            self._state.move(last, index, self._batch[last].columns)
            self._ancestry[index] = self._ancestry[last]
            self._batch[index] = self._batch[last]
        self._batch.pop()

    def _reserve(self, slots: int, columns: int) -> None:
        """Make room in the cache."""
        total = self._ancestry.shape[2]
        if columns > total:
            total = max(columns, total * 3 // 2)
            total += -total % _COLUMN_BLOCK
        self._state.cache.reserve(slots, total)
        self._ancestry = torch.nn.functional.pad(self._ancestry, (0, total - self._ancestry.shape[2]))
