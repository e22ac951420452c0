"""The plan of a load test: requests and their arrival times, drawn before the run."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from loadtests.load import FEWEST_TOKENS, Load
from loadtests.payloads import Payload

DEFAULTS = "model's defaults"
"""Name of requests without options; over HTTP the body is the bare image."""

DECODINGS: Mapping[str, Mapping[str, Any]] = {
    DEFAULTS: {},
    "greedy": {"num_beams": 1},
    "3 beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "top_p": 0.9, "seed": 1},
}

Choice = TypeVar("Choice")

NEW_TOKENS = (16, 32, 48)
"""Values of max_new_tokens; the last is the limit of the model with the shortest reports."""

# Without a minimum a sampled report may be empty, which counts as a failure.
MIN_NEW_TOKENS = 4

BODIES = ("multipart", "json")
BROKEN_SHARE = 0.05


@dataclass(frozen=True)
class PlannedRequest:
    """One request.

    number    : its index in the plan, from 0
    at        : planned arrival, seconds after the start of the run
    transport : "HTTP" or "gRPC"
    body      : encoding: "raw", "multipart" or "json" over HTTP, "inputs" over gRPC
    payload   : the file
    decoding  : one of DECODINGS
    options   : generation options
    """

    number: int
    at: float
    transport: str
    body: str
    payload: Payload
    decoding: str
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its group in the summary."""
        return f"report, {self.decoding}" if self.payload.refusal is None else f"refusal, {self.payload.label}"


def poisson_arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrival times in [0, seconds) of a Poisson process: independent, exponentially distributed gaps.

    rate : arrivals per second, on average
    """
    generator = np.random.default_rng([seed, 0])
    arrivals: list[float] = []
    now = generator.exponential(1 / rate)
    while now < seconds:
        arrivals.append(float(now))
        now += generator.exponential(1 / rate)
    return arrivals


def plan_requests(load: Load, images: Sequence[Payload], broken: Sequence[Payload]) -> list[PlannedRequest]:
    """Plan the requests of a run, in order of arrival; the same load gives the same plan."""
    arrivals = poisson_arrivals(load.rate, load.seconds, load.seed)
    drawn = draw_requests(load, images, broken)
    return [dataclasses.replace(request, at=at) for at, request in zip(arrivals, drawn, strict=False)]


def draw_requests(load: Load, images: Sequence[Payload], broken: Sequence[Payload]) -> Iterator[PlannedRequest]:
    """Yield requests endlessly, without arrival times; the same load gives the same requests."""
    generator = np.random.default_rng([load.seed, 3])
    for number in itertools.count():
        if load.tokens:
            yield _draw_work(number, load, _pick(images, generator), generator)
        else:
            yield _draw_mixed(number, load.grpc_share, images=images, broken=broken, generator=generator)


def _draw_work(number: int, load: Load, image: Payload, generator: np.random.Generator) -> PlannedRequest:
    """A request that differs from others only in the fixed length of its report."""
    grpc = generator.random() < load.grpc_share
    tokens = int(generator.integers(FEWEST_TOKENS, load.tokens + 1))
    return PlannedRequest(
        number=number,
        at=0.0,
        transport="gRPC" if grpc else "HTTP",
        body="inputs" if grpc else "multipart",
        # Bytes after the end of a PNG leave the picture unchanged but make a different file, so that a server's
        # cache of image features is not used.
        payload=Payload(f"{image.label} {number}", image.data + f"{load.seed} {number}".encode()),
        decoding="3 beams",
        options={**DECODINGS["3 beams"], "min_new_tokens": tokens, "max_new_tokens": tokens},
    )


def _draw_mixed(
    number: int,
    grpc_share: float,
    *,
    images: Sequence[Payload],
    broken: Sequence[Payload],
    generator: np.random.Generator,
) -> PlannedRequest:
    files = broken if generator.random() < BROKEN_SHARE else images
    grpc = generator.random() < grpc_share
    decoding = _pick(list(DECODINGS), generator)
    lengths = {"min_new_tokens": MIN_NEW_TOKENS, "max_new_tokens": _pick(NEW_TOKENS, generator)}
    body = _pick(BODIES, generator)
    return PlannedRequest(
        number=number,
        at=0.0,
        transport="gRPC" if grpc else "HTTP",
        body="inputs" if grpc else "raw" if decoding == DEFAULTS else body,
        payload=_pick(files, generator),
        decoding=decoding,
        options={} if decoding == DEFAULTS else {**DECODINGS[decoding], **lengths},
    )


def _pick(choices: Sequence[Choice], generator: np.random.Generator) -> Choice:
    return choices[int(generator.integers(len(choices)))]
