"""Rounds in which all contenders take turns, and the time of one step computed from them."""

import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch

from benchmarks.decode.contender import Contender, Decoding, DecodingResult, PeerFailed
from benchmarks.decode.point import Point
from benchmarks.machine import busy_seconds
from benchmarks.models.random_checkpoint import BIOGPT_SPECIAL
from benchmarks.models.shapes import Shape

PAUSE_S = 0.05
"""Seconds between two turns, to let spinning threads go idle."""


@dataclass(frozen=True)
class CpuSeconds:
    """CPU time of one contender, of the other contenders, and of the whole machine."""

    own: float
    others: float
    machine: float

    @classmethod
    def now(cls, contender: Contender, contenders: Collection[Contender]) -> "CpuSeconds":
        """CPU time since the start of the processes and of the machine."""
        others = sum(other.cpu_seconds() for other in contenders if other is not contender)
        return cls(contender.cpu_seconds(), others, busy_seconds())

    def __add__(self, other: "CpuSeconds") -> "CpuSeconds":
        return CpuSeconds(self.own + other.own, self.others + other.others, self.machine + other.machine)

    def __sub__(self, other: "CpuSeconds") -> "CpuSeconds":
        return CpuSeconds(self.own - other.own, self.others - other.others, self.machine - other.machine)


@dataclass
class Series:
    """The turns of one contender in one precision at one point.

    first, last : seconds until the first token, and until `steps` more, one value per round
    token_ids   : of the longer decoding of the last round
    cpu         : CPU seconds during its turns, of itself, of the other contenders, and of the whole machine
    refused     : why there is no result
    """

    peer: str
    precision: str
    steps: int
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    token_ids: Sequence[Sequence[int]] = ()
    cpu: CpuSeconds = CpuSeconds(0.0, 0.0, 0.0)
    refused: str | None = None

    @property
    def best(self) -> float:
        """Seconds per step, from the fastest rounds.

        The prefix is in both decodings and cancels out. The smallest difference within a round would favor a slow
        first and a fast last decoding, so the minimum of each is taken separately.
        """
        return (min(self.last) - min(self.first)) / self.steps

    @property
    def foreign_cores(self) -> float:
        """Mean number of cores used by other processes, idle contenders included, during its turns."""
        return max(0.0, self.cpu.machine - self.cpu.own) / (sum(self.first) + sum(self.last))

    @property
    def idle_cores(self) -> float:
        """The part of `foreign_cores` used by idle contenders."""
        return self.cpu.others / (sum(self.first) + sum(self.last))

    @property
    def median(self) -> float:
        """Seconds per step, from the median rounds."""
        return (statistics.median(self.last) - statistics.median(self.first)) / self.steps


def prefixes(shape: Shape, images: int, number: int = 0) -> list[list[int]]:
    """Random token ids for the image and the prompt after it, the same for every contender, others for each number."""
    generator = torch.Generator().manual_seed(number)
    length = shape.image_tokens + shape.prompt
    words = torch.randint(len(BIOGPT_SPECIAL), shape.section["vocab_size"], (images, length), generator=generator)
    return words.tolist()


def measure(
    contenders: Sequence[tuple[Contender, str]],
    shape: Shape,
    point: Point,
    *,
    rounds: int,
    steps: int,
    progress: Callable[[str], None],
) -> list[Series]:
    """Let all contenders, each with a precision, take turns: A B C, A B C, ...

    The first round is a warm-up that is not counted; it loads weights and allocates memory. No prefix comes twice, for
    some engines keep what they have computed for one.
    """
    series = [Series(contender.name, precision, steps) for contender, precision in contenders]
    everybody = {contender for contender, _ in contenders}
    for number in range(rounds + 1):
        jobs = [
            Decoding(prefixes(shape, point.images, 2 * number + i), point.beams, new_tokens)
            for i, new_tokens in enumerate((1, 1 + steps))
        ]
        for (contender, precision), one in zip(contenders, series, strict=True):
            if one.refused is not None:
                continue
            progress(f"{shape.name} {point} round {number}/{rounds}: {one.peer} {precision}")
            before = CpuSeconds.now(contender, everybody)
            times = _turn(contender, one, jobs)
            if number > 0 and times is not None:
                one.first.append(times[0])
                one.last.append(times[1])
                one.cpu += CpuSeconds.now(contender, everybody) - before
            time.sleep(PAUSE_S)
    return series


def _turn(contender: Contender, one: Series, jobs: Sequence[Decoding]) -> list[float] | None:
    """Seconds of each job; None if it is refused, with the reason in the series."""
    seconds = []
    for job in jobs:
        try:
            answer = contender.measure(one.precision, job)
        except PeerFailed as failed:
            answer = DecodingResult(refused=str(failed))
        if answer.refused is None and [len(ids) for ids in answer.token_ids] != [job.new_tokens] * len(job.prefixes):
            lengths = [len(ids) for ids in answer.token_ids]
            answer = DecodingResult(refused=f"it gave {lengths} tokens instead of {job.new_tokens} for each image")
        if answer.refused is not None:
            one.refused = answer.refused
            return None
        seconds.append(answer.seconds)
        one.token_ids = answer.token_ids
    return seconds


def count_differing(series: Series, other: Series) -> int:
    """Number of tokens that differ between two contenders."""
    pairs = zip(series.token_ids, other.token_ids, strict=True)
    return sum(a != b for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))
