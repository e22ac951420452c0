"""Rounds in which every contender takes its turn, and what they say about the time of one step."""

import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch

from benchmarks.decode.contender import Answer, Contender, Job, PeerFailed
from benchmarks.machine import busy_seconds
from benchmarks.models.random_checkpoint import BIOGPT_SPECIAL
from benchmarks.models.shapes import Shape

PAUSE_S = 0.05
"""Between two turns, for threads that are still on their way to sleep."""

_SEED = 1


@dataclass(frozen=True)
class Point:
    """How many images are decoded together, with how many beams each."""

    images: int
    beams: int

    @classmethod
    def parse(cls, text: str) -> "Point":
        """From "4x3". Raises ValueError."""
        images, _, beams = text.partition("x")
        if not (images.isdecimal() and beams.isdecimal() and int(images) and int(beams)):
            raise ValueError(f"point is {text!r}; it must be images x beams, such as 4x3")
        return cls(int(images), int(beams))

    def __str__(self) -> str:
        return f"{self.images}x{self.beams}"


@dataclass(frozen=True)
class CpuSeconds:
    """CPU time since some moment: of one contender, of the others, of the whole machine."""

    own: float
    others: float
    machine: float

    @classmethod
    def now(cls, contender: Contender, contenders: Collection[Contender]) -> "CpuSeconds":
        """Since the processes, and the machine, started."""
        others = sum(other.cpu_seconds() for other in contenders if other is not contender)
        return cls(contender.cpu_seconds(), others, busy_seconds())

    def __add__(self, other: "CpuSeconds") -> "CpuSeconds":
        return CpuSeconds(self.own + other.own, self.others + other.others, self.machine + other.machine)

    def __sub__(self, other: "CpuSeconds") -> "CpuSeconds":
        return CpuSeconds(self.own - other.own, self.others - other.others, self.machine - other.machine)


@dataclass
class Series:
    """The turns of one contender in one precision at one point.

    first, last : seconds until one token, and until `steps` more, was decided, a value a round
    token_ids   : of the longer decoding
    cpu         : CPU seconds during its turns that went to itself, to the other contenders, and to anything at all
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
        """Seconds a step, of the fastest rounds.

        The prefix is in both decodings and falls out. The smallest difference of one round would be that of a slow
        first and a fast last decoding, so each of the two has its own fastest round.
        """
        return (min(self.last) - min(self.first)) / self.steps

    @property
    def foreign_cores(self) -> float:
        """How many cores other processes, idle contenders included, kept busy during its turns on average."""
        return max(0.0, self.cpu.machine - self.cpu.own) / (sum(self.first) + sum(self.last))

    @property
    def idle_cores(self) -> float:
        """The part of these cores that contenders took whose turn it was not."""
        return self.cpu.others / (sum(self.first) + sum(self.last))

    @property
    def median(self) -> float:
        """Seconds a step, of the median rounds."""
        return (statistics.median(self.last) - statistics.median(self.first)) / self.steps


def prefixes(shape: Shape, images: int) -> list[list[int]]:
    """Random words, the same for every contender: for the image and for the prompt after it."""
    generator = torch.Generator().manual_seed(_SEED)
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

    A round that is not counted comes first; in it weights are loaded and memory is allocated.
    """
    words = prefixes(shape, point.images)
    jobs = [Job(words, point.beams, new_tokens) for new_tokens in (1, 1 + steps)]
    series = [Series(contender.name, precision, steps) for contender, precision in contenders]
    everybody = {contender for contender, _ in contenders}
    for number in range(rounds + 1):
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


def _turn(contender: Contender, one: Series, jobs: Sequence[Job]) -> list[float] | None:
    """Seconds of each job; None when it is refused, and then the series says why."""
    seconds = []
    for job in jobs:
        try:
            answer = contender.measure(one.precision, job)
        except PeerFailed as failed:
            answer = Answer(refused=str(failed))
        if answer.refused is None and [len(ids) for ids in answer.token_ids] != [job.new_tokens] * len(job.prefixes):
            lengths = [len(ids) for ids in answer.token_ids]
            answer = Answer(refused=f"it gave {lengths} tokens instead of {job.new_tokens} for each image")
        if answer.refused is not None:
            one.refused = answer.refused
            return None
        seconds.append(answer.seconds)
        one.token_ids = answer.token_ids
    return seconds


def differing(series: Series, other: Series) -> int:
    """How many of the tokens of two contenders are not the same."""
    pairs = zip(series.token_ids, other.token_ids, strict=True)
    return sum(a != b for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))
