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
BURST = 8
"""Requests of one burst."""

ODD_SHARE = 0.1
"""Share of the clients that are slow, or hang up, in the scenarios with such clients."""

USUAL, SLOW, GONE = "usual", "slow", "gone"
"""Clients: one that sends and waits; one that trickles its body; one that hangs up before its answer."""

SLOW_S = 3.0
"""Seconds in which a slow client sends its body."""


@dataclass(frozen=True)
class PlannedRequest:
    """One request.

    number    : its index in the plan, from 0
    at        : planned arrival, seconds after the start of the run
    transport : "HTTP" or "gRPC"
    body      : encoding: "raw", "multipart" or "json" over HTTP, "inputs" over gRPC
    payload   : the picture, or what is sent instead of one
    decoding  : one of DECODINGS
    options   : generation options
    client    : USUAL, SLOW or GONE; the latter two are over HTTP, with a raw body
    seed      : of the load
    """

    number: int
    at: float
    transport: str
    body: str
    payload: Payload
    decoding: str
    options: Mapping[str, Any]
    client: str = USUAL
    seed: int = 0

    @property
    def data(self) -> bytes:
        """Its file, which is not sent twice."""
        return self.payload.marked(f"{self.seed} {self.number}")

    @property
    def due(self) -> float:
        """When the server has all of it, in seconds after the start of the run."""
        return self.at + (SLOW_S if self.client == SLOW else 0)

    @property
    def wants_report(self) -> bool:
        """Whether a report is the right answer."""
        return self.payload.refusal is None and self.client != GONE

    @property
    def name(self) -> str:
        """Its group in the summary."""
        if self.client != USUAL:
            return f"client {self.client}"
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
    burst = BURST if load.scenario == "bursts" else 1
    starts = poisson_arrivals(load.rate / burst, load.seconds, load.seed)
    arrivals = [start for start in starts for _ in range(burst)]
    drawn = draw_requests(load, images, broken)
    return [dataclasses.replace(request, at=at) for at, request in zip(arrivals, drawn, strict=False)]


def draw_requests(load: Load, images: Sequence[Payload], broken: Sequence[Payload]) -> Iterator[PlannedRequest]:
    """Yield requests endlessly, without arrival times; the same load gives the same requests."""
    generator = np.random.default_rng([load.seed, 3])
    for number in itertools.count():
        if load.tokens:
            yield _draw_work(number, load, _pick(images, generator), generator)
        else:
            drawn = _draw_mixed(number, load, images=images, broken=broken, generator=generator)
            yield _change_client(drawn, load.scenario, generator)


def _draw_work(number: int, load: Load, image: Payload, generator: np.random.Generator) -> PlannedRequest:
    """A request that differs from others only in the fixed length of its report."""
    grpc = generator.random() < load.grpc_share
    tokens = int(generator.integers(FEWEST_TOKENS, load.tokens + 1))
    return PlannedRequest(
        number=number,
        at=0.0,
        transport="gRPC" if grpc else "HTTP",
        body="inputs" if grpc else "multipart",
        payload=image,
        decoding="3 beams",
        options={**DECODINGS["3 beams"], "min_new_tokens": tokens, "max_new_tokens": tokens},
        seed=load.seed,
    )


def _draw_mixed(
    number: int,
    load: Load,
    *,
    images: Sequence[Payload],
    broken: Sequence[Payload],
    generator: np.random.Generator,
) -> PlannedRequest:
    broken_share = BROKEN_SHARE if load.scenario in ("mixed", "broken") else 0
    files = broken if generator.random() < broken_share else images
    grpc = generator.random() < load.grpc_share
    decoding = _pick(list(DECODINGS), generator)
    if load.scenario not in ("mixed", "lengths"):
        decoding = DEFAULTS
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
        seed=load.seed,
    )


def _change_client(request: PlannedRequest, scenario: str, generator: np.random.Generator) -> PlannedRequest:
    """The same request, in some scenarios by a slow client or by one that hangs up."""
    client = {"slow": SLOW, "hangups": GONE}.get(scenario)
    if client is None or request.transport == "gRPC" or generator.random() >= ODD_SHARE:
        return request
    return dataclasses.replace(request, client=client)


def _pick(choices: Sequence[Choice], generator: np.random.Generator) -> Choice:
    return choices[int(generator.integers(len(choices)))]
