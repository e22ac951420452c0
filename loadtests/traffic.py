"""What is sent when: a plan made before the run, of which the server sees one request after another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from loadtests.load import Load
from loadtests.payloads import Payload

DEFAULTS = "model's defaults"
"""A request that names no option: over HTTP the bare image as body."""

DECODINGS: Mapping[str, Mapping[str, Any]] = {
    DEFAULTS: {},
    "greedy": {"num_beams": 1},
    "3 beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "top_p": 0.9, "seed": 1},
}

Choice = TypeVar("Choice")

NEW_TOKENS = (16, 32, 48)
"""Values of max_new_tokens; the last is as long as the shortest model here can write."""

# So few tokens are no report, but without them a sampled report may be empty, which counts as a failure.
MIN_NEW_TOKENS = 4

BODIES = ("multipart", "json")
BROKEN_SHARE = 0.05


@dataclass(frozen=True)
class PlannedRequest:
    """One request.

    number    : its place in the plan, from 0
    at        : planned arrival, seconds after the start of the run
    transport : "HTTP" or "gRPC"
    body      : how it is written: "raw", "multipart" or "json" over HTTP, "inputs" over gRPC
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
        """The group that it is counted in."""
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
    """The requests of a run in the order of their arrival; the same load gives the same plan."""
    generator = np.random.default_rng([load.seed, 3])
    return [
        _draw(number, at, grpc_share=load.grpc_share, images=images, broken=broken, generator=generator)
        for number, at in enumerate(poisson_arrivals(load.rate, load.seconds, load.seed))
    ]


def _draw(
    number: int,
    at: float,
    *,
    grpc_share: float,
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
        at=at,
        transport="gRPC" if grpc else "HTTP",
        body="inputs" if grpc else "raw" if decoding == DEFAULTS else body,
        payload=_pick(files, generator),
        decoding=decoding,
        options={} if decoding == DEFAULTS else {**DECODINGS[decoding], **lengths},
    )


def _pick(choices: Sequence[Choice], generator: np.random.Generator) -> Choice:
    return choices[int(generator.integers(len(choices)))]
