"""The capacity plan: its queue against a simulation, its arithmetic, its page."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from deploy.capacity import FIGURES, MAX_UTILIZATION, CapacityError, Demand, Host, hosts_needed, main, read_figures
from deploy.queueing import Pool, Service
from tests.deploy.simulation import simulate

PAGE = Path(__file__).resolve().parents[2] / "docs" / "capacity.md"

UNIFORM = np.linspace(0.3, 1.7, 32)
EQUAL = np.ones(1)
SKEWED = np.array([0.5] * 9 + [5.5])
CPU = ([1, 2, 4, 8], [1.0, 1.5, 2.0, 2.4])
GPU = ([1, 8, 16], [1.0, 7.0, 11.0])


@pytest.mark.parametrize("work", [UNIFORM, EQUAL, SKEWED], ids=["uniform", "equal", "skewed"])
@pytest.mark.parametrize(
    ("curve", "hosts", "load"), [(CPU, 1, 0.3), (CPU, 1, 0.85), (CPU, 4, 0.6), (CPU, 4, 0.85), (GPU, 4, 0.85)]
)
def test_queue_is_that_of_a_simulation(
    work: np.ndarray, curve: tuple[list[int], list[float]], hosts: int, load: float
) -> None:
    """Within 10 %: mean, p50 and p95, with a queue for each host, a balancer, and speeds that change all the time."""
    service = Service(*curve, work)
    arrivals = load * hosts * service.reports_per_s[-1]
    pool = Pool(service, hosts, arrivals)
    seconds = simulate(service, hosts, arrivals, requests=15_000 if hosts > 1 else 40_000)

    assert [pool.mean(), pool.percentile(0.5), pool.percentile(0.95)] == pytest.approx(
        [seconds.mean(), *np.quantile(seconds, (0.5, 0.95))], rel=0.1
    )


@pytest.mark.parametrize(("arrivals", "p95"), [(3.36, 1.79), (3.55, 1.93)])
def test_queue_is_that_of_the_server(arrivals: float, p95: float) -> None:
    """Within 15 % of two open loops of docs/benchmarks.md (Serving, in-flight, int8), from its parts alone."""
    hosts, _ = read_figures(FIGURES)
    service = next(host.service for host in hosts if host.name.startswith("a fifth of system 0"))

    assert Pool(service, 1, arrivals).percentile(0.95) == pytest.approx(p95, rel=0.15)


def test_slots_that_are_alone_are_the_textbook_queue() -> None:
    """With slots that do not slow each other down, the mean wait is that of Erlang's formula for M/M/c."""
    service = Service([1, 2], [1.0, 2.0], np.array([0.0, 2.0]))  # the variance of exponential lengths
    pool = Pool(service, 1, 1.5)
    load = 1.5
    delayed = load**2 / 2 / (1 - load / 2)
    erlang_c = delayed / (1 + load + delayed)

    assert pool.waits == pytest.approx(erlang_c)
    assert pool.mean() == pytest.approx(1 + erlang_c / (2 - 1.5))


def test_percentile_and_share_agree() -> None:
    """Half of the reports are there at the median."""
    pool = Pool(Service(*CPU, UNIFORM), 3, 5.0)

    for share in (0.5, 0.95, 0.99):
        assert pool.share_within(pool.percentile(share)) == pytest.approx(share, abs=0.02)


def test_too_much_load_has_no_end() -> None:
    """Not a number that looks like an answer."""
    pool = Pool(Service(*CPU, UNIFORM), 2, 4.8)

    assert pool.percentile(0.5) == pool.mean() == np.inf


@pytest.mark.parametrize("arrivals", [0.01, 1.0, 30.0])
def test_fewest_hosts_that_keep_the_p95(arrivals: float) -> None:
    """One fewer does not, or would have no reserve; a bound that is easy to keep leaves the reserve alone."""
    service = Service(*CPU, UNIFORM)
    hosts, easy = (hosts_needed(service, arrivals, p95) for p95 in (2.5, 100.0))

    assert Pool(service, hosts, arrivals).percentile(0.95) <= 2.5
    assert hosts == 1 or Pool(service, hosts - 1, arrivals).percentile(0.95) > 2.5
    assert Pool(service, easy, arrivals).utilization <= MAX_UTILIZATION
    assert easy == 1 or Pool(service, easy - 1, arrivals).utilization > MAX_UTILIZATION
    assert easy < hosts or hosts == 1


def test_p95_that_no_number_of_hosts_keeps_is_said() -> None:
    """A long report alone takes longer."""
    with pytest.raises(CapacityError, match=r"a long report alone takes 1\.6 s"):
        hosts_needed(Service(*CPU, UNIFORM), 1.0, 1.5)


def test_peak_is_that_of_the_busiest_hour() -> None:
    """Of the busiest day."""
    assert Demand(86_400, [1] * 24).peak == pytest.approx(1)
    assert Demand(86_400, [3, *[1] * 21, 0, 0], busiest_day=1.5).peak == pytest.approx(1.5 * 3)


def test_parts_add_up() -> None:
    """An image and the share of a batch's steps, by hand."""
    entry = {"basis": "parts", "source": "", "memory_gb": 1, "image_s": 0.1, "tokens": [10, 30], "overhead": 0.5}
    service = Host.from_mapping("h", {**entry, "step_s": {1: 0.01, 4: 0.02}}).service

    assert service.in_flight == [1, 2, 3, 4]
    assert [service.reports_per_s[0], service.reports_per_s[3]] == pytest.approx([0.5 / 0.3, 0.5 / 0.2])
    assert service.reports_per_s[1] == pytest.approx(0.5 / (0.1 + 20 * (0.01 + 0.01 / 3) / 2))
    assert service.work.mean() == pytest.approx(1)
    # A quarter of the work of a full host is the image, the same for all.
    assert service.work.max() - service.work.min() == pytest.approx(0.75 * 20 / 20, rel=0.05)


def test_estimate_is_bound_by_memory() -> None:
    """Each step reads all weights once, and the cache of each report."""
    entry = {"basis": "estimated", "source": "", "memory_gb": 1, "image_s": 0.0, "tokens": [10, 10], "overhead": 0.0}
    entry |= {"weights_gb": 10, "slot_gb": 1, "bandwidth_gb_s": 200, "efficiency": 0.5, "slots": 2}
    service = Host.from_mapping("h", entry).service

    assert service.reports_per_s == pytest.approx([1 / (10 * 11 / 100), 2 / (10 * 12 / 100)])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"basis": "guessed"}, "basis is 'guessed'; allowed: measured, parts, estimated"),
        ({"slots": 8}, "missing or unknown: slots"),
        ({"image_s": None}, "image_s is None"),
        ({"tokens": [48, 16]}, "tokens is"),
        ({"reports_per_s": {8: 1.0, 1: 2.0}}, "reports_per_s is"),
        ({"reports_per_s": {2: 1.0}}, "reports_per_s is"),
        ({"reports_per_s": {1: 0.0}}, "reports_per_s is"),
    ],
)
def test_wrong_figures_are_named(
    change: dict[str, object], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, with exit code 2."""
    figures = yaml.safe_load(FIGURES.read_text(encoding="utf-8"))
    name = next(iter(figures["hosts"]))
    figures["hosts"][name] |= change
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(figures, sort_keys=False), encoding="utf-8")

    assert main(["--studies", "100", "--figures", str(tmp_path / "own.yaml")]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert len(said.splitlines()) == 1


def test_page_has_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Every table of docs/capacity.md, by the command above it."""
    page = PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"^python -m deploy\.capacity (.*--studies.*)$", page, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        assert main(shlex.split(command, comments=True)) == 0
        assert capsys.readouterr().out.strip() in page, command


def test_figures_have_a_source() -> None:
    """And every basis is used, so that the page explains what is there."""
    figures = yaml.safe_load(FIGURES.read_text(encoding="utf-8"))["hosts"]
    hosts, profiles = read_figures(FIGURES)

    assert {host.basis for host in hosts} == {"measured", "parts", "estimated"}
    assert all(entry["source"] for entry in figures.values())
    assert all(len(hours) == 24 for hours in profiles.values())
