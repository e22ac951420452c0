"""Steps of a decoder on a GPU: captured once for each size of batch, replayed by one call from then on.

A step of a decoder is some hundred kernels of a few microseconds each, and Python takes longer to launch one than it
runs. A CUDA graph launches them all at once, on the memory on which they were captured. So what a step reads is copied
there, where batches of several sizes share a graph: docs/decisions/0062-captured-steps.md.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, cast

import torch
from torch import Tensor

from prelim.decoders.decoder import Decoder, DecoderState, State
from prelim.decoders.kv_cache import Places

_COLUMNS = tuple(size << power for power in range(6, 24) for size in (2, 3))
"""Columns that attention looks at, of which a batch takes the next larger number: 128, 192, 256, 384, 512, ...

Multiples of 64, as kernels want them; at most half of what is looked at is not in use.
"""

Computation = Callable[[], Tensor]
"""What is captured: it reads and writes tensors whose places in memory do not change."""


class Captures(Protocol):
    """Captures work several times, of which the results remain."""

    def __call__(self, work: Computation) -> tuple[Callable[[], object], Tensor]:
        """Give what repeats the work, and the tensor in which its result is then found."""


class Graphs:
    """CUDA graphs, which share the memory of what they compute on the way."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Computation) -> tuple[Callable[[], object], Tensor]:
        """Capture; see `Captures`. The work runs before: libraries allocate memory when they are first used."""
        with torch.cuda.device(self._device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):
                    work()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                result = work()
        return graph.replay, result


class Repetition:
    """The same where there are no graphs: the work is done again."""

    def __call__(self, work: Computation) -> tuple[Callable[[], object], Tensor]:
        """Capture; see `Captures`."""
        result = work()
        return lambda: result.copy_(work()), result


def captures_of(device: torch.device) -> Captures:
    """What captures on a device."""
    return Graphs(device) if device.type == "cuda" else Repetition()


def captured(decoder: Decoder[State]) -> Decoder[State]:
    """The decoder, on a GPU with steps that are captured."""
    return cast("Decoder[State]", CapturedDecoder(decoder)) if decoder.device.type == "cuda" else decoder


@dataclass(frozen=True)
class _Size:
    """Of the batches that share a captured step."""

    slots: int
    rows: int
    columns: int


class _Step(Generic[State]):
    """A captured step: the tensors that it reads, and its logits.

    A slot without a request reads some token in each row, and writes it to its first columns. Nobody looks at it there,
    and the prefix of the next request replaces it.
    """

    def __init__(self, decoder: Decoder[State], state: State, size: _Size, captures: Captures) -> None:
        device, shape = decoder.device, (size.slots, size.rows)
        self._captures = captures
        self._first = torch.arange(size.rows, device=device).expand(shape)
        self._token_ids, self._positions, self._columns = (self._first.clone() for _ in range(3))
        self._mask = torch.ones(size.slots, 1, size.rows, size.columns, dtype=torch.bool, device=device)
        self._replay: Callable[[], object] | None = None
        self._logits = torch.empty(0)

        def work() -> Tensor:
            # Places keep the indices that follow from their columns, which are others in each run.
            places = state.cache.places(slice(0, size.slots), self._columns, size.columns)
            return decoder.step(state, places, self._token_ids, self._positions, self._mask)

        self._work = work

    def __call__(self, columns: Tensor, token_ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Logits of a batch of this size or a smaller one."""
        slots, length = len(token_ids), mask.shape[-1]
        self._token_ids[:slots] = token_ids
        self._positions[:slots] = positions
        self._columns[:slots] = columns
        self._columns[slots:] = self._first[slots:]
        self._mask[:slots, ..., :length] = mask
        self._mask[:slots, ..., length:] = False
        if self._replay is None:
            self._replay, self._logits = self._captures(self._work)
        self._replay()
        return self._logits[:slots]


class CapturedDecoder(Generic[State]):
    """A decoder whose steps are captured; for the rest it is the one that it is made of.

    There is a captured step for each number of rows, power of two of slots, and number of _COLUMNS. All are forgotten
    when a tensor of the state is in another place, as after its cache has grown.

    captures : makes what captures on a device
    """

    def __init__(self, decoder: Decoder[State], captures: Callable[[torch.device], Captures] = captures_of) -> None:
        self._decoder = decoder
        self._new_captures = captures
        self._slots = 0
        self._steps: dict[_Size, _Step[State]] = {}
        self._addresses: list[tuple[int, torch.Size]] = []
        self._captures = captures(decoder.device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    @property
    def reads_in_parts(self) -> bool:
        """No: steps between them would write to the slot, see `_Step`."""
        return False

    def new_state(self, slots: int) -> State:
        """An empty cache with room for `slots` requests; it replaces the one before."""
        self._forget(slots)
        return self._decoder.new_state(slots)

    def step(self, state: State, places: Places, token_ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Logits of the next token, shape (slots, rows, vocab_size); see `Decoder.step`. The next step overwrites them.

        The slots are the first ones, and those after them have no request.
        """
        slots, rows = token_ids.shape
        slots = min(1 << (slots - 1).bit_length(), self._slots)
        # All at once: each time that the cache grows, steps are captured again.
        state.cache.reserve(self._slots, state.cache.columns)
        columns = min(_COLUMNS[bisect_left(_COLUMNS, mask.shape[-1])], state.cache.columns)
        size = _Size(slots, rows, columns)
        if _addresses(state) != self._addresses:
            self._forget(self._slots)
        if size not in self._steps:
            self._steps[size] = _Step(self._decoder, state, size, self._captures)
        logits = self._steps[size](places.columns, token_ids, positions, mask)
        if not self._addresses:
            self._addresses = _addresses(state)
        return logits

    def _forget(self, slots: int) -> None:
        """Forget all captured steps, and the memory that they shared."""
        self._slots, self._steps, self._addresses = slots, {}, []
        self._captures = self._new_captures(self._decoder.device)


def _addresses(state: DecoderState) -> list[tuple[int, torch.Size]]:
    """Where the tensors of a state are, and of what shape."""
    return [(tensor.data_ptr(), tensor.shape) for tensor in state.tensors]
