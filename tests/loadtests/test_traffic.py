"""The plan of a load test: Poisson arrivals and mixed requests, all seeded."""

import argparse
import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from loadtests.load import MAX_REQUESTS, Load, add_load_arguments
from loadtests.payloads import Payload, Refusal
from loadtests.traffic import (
    BURST,
    DECODINGS,
    DEFAULTS,
    GONE,
    SLOW,
    SLOW_S,
    USUAL,
    PlannedRequest,
    draw_requests,
    plan_requests,
    poisson_arrivals,
)

IMAGES = [Payload(f"PNG {number}", b"image") for number in range(6)]
BROKEN = [Payload("text", b"text", Refusal(415, "NotAnImage"))]


@pytest.fixture(scope="module")
def plan() -> Sequence[PlannedRequest]:
    """A plan with many requests."""
    return plan_requests(Load(rate=50, seconds=100, grpc_share=0.3), IMAGES, BROKEN)


def test_gaps_are_exponential() -> None:
    """The gaps pass a Kolmogorov-Smirnov test against the exponential distribution at 0.1 %."""
    rate = 20.0
    gaps = np.sort(np.diff(poisson_arrivals(rate, 500, seed=0), prepend=0))
    exponential = 1 - np.exp(-rate * gaps)
    steps = np.arange(len(gaps) + 1) / len(gaps)
    distance = max(np.abs(steps[1:] - exponential).max(), np.abs(steps[:-1] - exponential).max())

    assert distance < 1.95 / np.sqrt(len(gaps))


def test_counts_have_poisson_variance() -> None:
    """The number of arrivals per second has a variance near its mean; evenly paced arrivals would have none."""
    counts = np.bincount(np.floor(poisson_arrivals(10, 1000, seed=3)).astype(int), minlength=1000)

    assert counts.mean() == pytest.approx(10, rel=0.05)
    assert counts.var() == pytest.approx(10, rel=0.2)


def test_arrivals_are_within_the_run_and_in_order() -> None:
    """Arrivals ascend and lie in [0, seconds)."""
    arrivals = poisson_arrivals(30, 10, seed=1)

    assert arrivals == sorted(arrivals)
    assert arrivals[0] >= 0
    assert arrivals[-1] < 10


def test_plan_is_seeded() -> None:
    """The same seed gives the same plan, another seed a different one."""
    first, again, other = (plan_requests(Load(seed=seed), IMAGES, BROKEN) for seed in (0, 0, 1))

    assert first == again
    assert first != other


def test_everything_is_mixed(plan: Sequence[PlannedRequest]) -> None:
    """Both transports and all bodies, decodings, lengths and files appear, in the requested shares."""
    reports = [request for request in plan if request.payload.refusal is None]

    assert {request.body for request in plan} == {"raw", "multipart", "json", "inputs"}
    assert {request.decoding for request in reports} == set(DECODINGS)
    assert {request.payload.label for request in reports} == {image.label for image in IMAGES}
    assert len({request.options.get("max_new_tokens") for request in reports}) == 4
    assert np.mean([request.transport == "gRPC" for request in plan]) == pytest.approx(0.3, abs=0.03)
    assert 1 - len(reports) / len(plan) == pytest.approx(0.05, abs=0.015)


def test_raw_body_has_no_options(plan: Sequence[PlannedRequest]) -> None:
    """A request with a raw HTTP body has no options, and a request with options is not named as one without."""
    for request in plan:
        assert (request.options == {}) == (request.decoding == DEFAULTS)
        assert request.body != "raw" or request.options == {}


def test_work_is_the_same_for_every_server() -> None:
    """For compared servers reports differ only in their fixed length, and no file is sent twice."""
    load = Load(tokens=40, grpc_share=0, closed_loop=3)
    drawn = list(itertools.islice(draw_requests(load, IMAGES[:1], []), 300))
    lengths = [request.options["max_new_tokens"] for request in drawn]

    assert {(request.transport, request.body, request.decoding) for request in drawn} == {
        ("HTTP", "multipart", "3 beams")
    }
    assert all(request.options["min_new_tokens"] == length for request, length in zip(drawn, lengths, strict=True))
    assert (min(lengths), max(lengths)) == (16, 40)
    assert len({request.data for request in drawn}) == 300
    assert all(request.data.startswith(IMAGES[0].data) for request in drawn)


def test_plan_and_closed_loop_draw_the_same_requests(plan: Sequence[PlannedRequest]) -> None:
    """The requests do not depend on when they are sent."""
    drawn = draw_requests(Load(rate=50, seconds=100, grpc_share=0.3), IMAGES, BROKEN)

    assert all(
        (a.payload, a.options, a.body) == (b.payload, b.options, b.body) for a, b in zip(plan, drawn, strict=False)
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 0},
        {"rate": float("nan")},
        {"seconds": 4000},
        {"grpc_share": 1.1},
        {"seed": -1},
        {"max_failure_rate": -0.1},
        {"max_p95": 0},
        {"closed_loop": -1},
        {"tokens": 15},
        {"rate": MAX_REQUESTS, "seconds": 2},
    ],
)
def test_impossible_loads_are_refused(wrong: dict[str, float]) -> None:
    """A load outside its bounds is refused; the message names the option."""
    with pytest.raises(ValueError, match="--" + next(iter(wrong)).replace("_", "-")):
        Load(**wrong)


def test_load_survives_a_command_line() -> None:
    """A load is unchanged after conversion to command-line options and back."""
    load = Load(
        rate=3.25, seconds=7, grpc_share=0.125, seed=9, max_failure_rate=0, max_p95=0.001, closed_loop=4, tokens=99
    )
    parser = argparse.ArgumentParser()
    add_load_arguments(parser)

    assert Load.from_options(parser.parse_args(load.arguments())) == load
    assert Load.from_options(parser.parse_args([])) == Load()


def scenario(name: str) -> Sequence[PlannedRequest]:
    """Many requests of one scenario."""
    return plan_requests(Load(rate=50, seconds=100, grpc_share=0.3, scenario=name), IMAGES, BROKEN)


def test_scenarios_differ_in_one_thing() -> None:
    """Steady requests are alike; each other scenario adds what it is named after, and nothing else."""
    kinds = {
        name: (
            len({request.decoding for request in scenario(name)}) > 1,
            any(request.payload.refusal for request in scenario(name)),
            {request.client for request in scenario(name)},
        )
        for name in ("steady", "bursts", "lengths", "broken", "slow", "hangups")
    }
    assert kinds == {
        "steady": (False, False, {USUAL}),
        "bursts": (False, False, {USUAL}),
        "lengths": (True, False, {USUAL}),
        "broken": (False, True, {USUAL}),
        "slow": (False, False, {USUAL, SLOW}),
        "hangups": (False, False, {USUAL, GONE}),
    }
    assert all(r.transport == "HTTP" for name in ("slow", "hangups") for r in scenario(name) if r.client != USUAL)


def test_bursts_have_the_same_rate() -> None:
    """Arrivals come in groups; on average as many come."""
    arrivals = [request.at for request in scenario("bursts")]
    assert len(arrivals) == pytest.approx(5000, rel=0.15)
    assert all(len(set(arrivals[i : i + BURST])) == 1 for i in range(0, len(arrivals), BURST))


def test_slow_client_is_measured_from_the_end_of_its_upload() -> None:
    """And one that hangs up wants no report."""
    slow = next(request for request in scenario("slow") if request.client == SLOW)
    gone = next(request for request in scenario("hangups") if request.client == GONE)
    assert slow.due == slow.at + SLOW_S
    assert (slow.wants_report, gone.wants_report, gone.due) == (True, False, gone.at)


def test_unknown_scenario_is_refused_by_name() -> None:
    """The known ones are listed."""
    with pytest.raises(ValueError, match="--scenario is calm; allowed: mixed, steady"):
        Load(scenario="calm")
