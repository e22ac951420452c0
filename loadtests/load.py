"""Options of a load test: amount and kind of load, and the limits the server must meet."""

import argparse
import dataclasses
import math
from dataclasses import dataclass

MAX_REQUESTS = 20_000
"""Approximate maximum number of requests in one run, whatever its rate and duration."""

SCENARIOS = ("mixed", "steady", "bursts", "lengths", "broken", "slow", "hangups")
"""Kinds of load; `loadtests.traffic` has what is in each."""

FEWEST_TOKENS = 16
"""Minimum length of a report when only the length of reports varies."""

WARM_UP = 0.25
"""Warm-up share of a closed loop, whose answers are not counted."""


@dataclass(frozen=True)
class Load:
    """One run.

    rate             : arrivals per second, on average
    seconds          : duration of the arrivals, without the wait for the last answers
    grpc_share       : share of requests sent over gRPC, 0 to 1
    seed             : of arrival times, images and options; the same seed sends the same requests at the same times
    max_failure_rate : allowed share of failed requests, 0 to 1; shed requests are failures
    max_p95          : allowed 95th percentile of the seconds from planned arrival to report
    closed_loop      : 0: an open loop with arrivals at `rate`. Otherwise the number of users, each sending the next
                       request when the last one is answered; `rate` is then ignored
    tokens           : 0: mixed requests. Otherwise the maximum length: only reports of exactly 16 to `tokens` tokens
                       with 3 beams, of small images that all differ, so that compared servers get the same work
    scenario         : one of SCENARIOS, for mixed requests

    Raises ValueError when a value is not allowed.
    """

    rate: float = 1.5
    seconds: float = 60.0
    grpc_share: float = 0.4
    seed: int = 0
    max_failure_rate: float = 0.01
    max_p95: float = 10.0
    closed_loop: int = 0
    tokens: int = 0
    scenario: str = "mixed"

    def __post_init__(self) -> None:
        _require("rate", self.rate, 0 < self.rate < math.inf, "above 0 requests per second")
        _require("seconds", self.seconds, 0 < self.seconds <= 3600, "above 0, at most 3600")
        _require("grpc_share", self.grpc_share, 0 <= self.grpc_share <= 1, "0 to 1")
        _require("seed", self.seed, self.seed >= 0, "0 or more")
        _require("max_failure_rate", self.max_failure_rate, 0 <= self.max_failure_rate <= 1, "0 to 1")
        _require("max_p95", self.max_p95, self.max_p95 > 0, "above 0 seconds")
        _require("closed_loop", self.closed_loop, 0 <= self.closed_loop <= 1000, "0 to 1000")
        allowed = self.tokens == 0 or self.tokens >= FEWEST_TOKENS
        _require("tokens", self.tokens, allowed, f"0, or {FEWEST_TOKENS} and more")
        if self.scenario not in SCENARIOS:
            raise ValueError(f"--scenario is {self.scenario}; allowed: {', '.join(SCENARIOS)}")
        if not self.closed_loop and self.rate * self.seconds > MAX_REQUESTS:
            raise ValueError(
                f"rate {self.rate:g} for {self.seconds:g} s makes {self.rate * self.seconds:.0f} requests; "
                f"a run sends at most {MAX_REQUESTS}: lower --rate or --seconds"
            )

    @property
    def window(self) -> tuple[float, float]:
        """Start and end of the time in which answers count, in seconds of the run; an open loop counts all of them."""
        return (WARM_UP * self.seconds, self.seconds) if self.closed_loop else (0.0, math.inf)

    def arguments(self) -> list[str]:
        """The values as command-line options."""
        return [f"{_flag(field.name)}={getattr(self, field.name)}" for field in dataclasses.fields(self)]

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> "Load":
        """The load of a parsed command line. Raises ValueError when a value is not allowed."""
        return cls(**{field.name: getattr(options, field.name) for field in dataclasses.fields(cls)})


def add_load_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of Load to a parser."""
    texts = {
        "rate": "arrivals per second, on average",
        "seconds": "duration of the arrivals, in seconds",
        "grpc_share": "share of requests sent over gRPC",
        "seed": "seed of arrival times, images and options",
        "max_failure_rate": "allowed share of failed requests; above it the exit code is 1",
        "max_p95": "allowed 95th percentile of latency in seconds; above it the exit code is 1",
        "closed_loop": "number of users, each waiting for its answer; 0: open loop at --rate",
        "scenario": f"kind of load: {', '.join(SCENARIOS)}",
        "tokens": "only reports of 16 to TOKENS tokens with 3 beams; 0: mixed requests",
    }
    for field in dataclasses.fields(Load):
        kind = type(field.default)
        text = f"{texts[field.name]} (%(default)s)"
        parser.add_argument(_flag(field.name), type=kind, default=field.default, help=text)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _require(name: str, value: float, allowed: bool, values: str) -> None:
    if not allowed:
        raise ValueError(f"{_flag(name)} is {value}; allowed: {values}")
