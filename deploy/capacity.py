"""How many hosts a number of studies needs.

    python -m deploy.capacity --studies 2000 --p95 10
    python -m deploy.capacity --studies 274000 --p95 10 --profile around_the_clock --busiest-day 1.1
    python -m deploy.capacity --studies 2000 --p95 10 --figures own.yaml

Prints a table with a row for each model and host of deploy/capacity.yaml: the smallest number of hosts with which 95 %
of the reports of the busiest hour are back within --p95 seconds while one of the hosts is down.
docs/capacity.md explains the figures, and how to measure your own.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from deploy.queueing import Pool, Service
from terminal.arguments import CommandLine

FIGURES = Path(__file__).with_name("capacity.yaml")

MAX_HOSTS = 100_000
MAX_UTILIZATION = 0.85
"""Above it a forecast that is a few percent too low makes the queue grow without end."""

DAY_S = 86_400
YEAR_DAYS = 365

_LENGTHS = 32
"""Lengths of reports that stand for all of them."""

_ALLOWED = {
    "image_s": "allowed: a number of 0 or more",
    "overhead": "allowed: 0 to 1",
    "efficiency": "allowed: above 0 to 1",
    "tokens": "allowed: two numbers, the smaller one first",
    "reports_per_s": "allowed: numbers above 0 by reports in flight, rising from 1",
    "step_s": "allowed: numbers above 0 by reports in flight, rising from 1",
}

HEAD = (
    "| model and host | basis | memory, GB | alone, s | reports/s | hosts | p50, s | p95, s | busy | host-days |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


class CapacityError(Exception):
    """The figures or the question cannot be used. The message names the key, and the way out."""

    for_users = True


@dataclass(frozen=True)
class Demand:
    """Studies that arrive.

    studies_per_day : on average over a year
    profile         : studies of each hour of a day, in any unit
    busiest_day     : studies of the busiest day of a week / those of the average one
    """

    studies_per_day: float
    profile: Sequence[float]
    busiest_day: float = 1.0

    @property
    def peak(self) -> float:
        """Studies per second in the busiest hour."""
        share = max(self.profile) / sum(self.profile)
        return self.studies_per_day * self.busiest_day * share / 3600


@dataclass(frozen=True)
class Host:
    """A model on a kind of host.

    basis     : `measured` through the server, `parts` measured one by one, or `estimated` from the hardware's data
    memory_gb : that it takes there
    """

    name: str
    basis: str
    memory_gb: float
    service: Service

    @classmethod
    def from_mapping(cls, name: str, given: Mapping[str, Any]) -> "Host":
        """Read an entry of capacity.yaml. Raises CapacityError naming a missing or unknown key."""
        kinds = {
            "measured": (_measured, {"reports_per_s"}),
            "parts": (_from_parts, {"step_s", "overhead"}),
            "estimated": (_estimated, {"weights_gb", "slot_gb", "bandwidth_gb_s", "efficiency", "slots", "overhead"}),
        }
        basis = str(given.get("basis"))
        if basis not in kinds:
            raise CapacityError(f"{name}: basis is {basis!r}; allowed: {', '.join(kinds)}")
        read, keys = kinds[basis]
        wanted = keys | {"basis", "source", "memory_gb", "image_s", "tokens"}
        if wrong := sorted(wanted ^ set(given)):
            raise CapacityError(
                f"{name}: the keys of a host with basis {basis} are {', '.join(sorted(wanted))}; "
                f"missing or unknown: {', '.join(map(str, wrong))}"
            )
        _check(name, given)
        in_flight, rates = read(given)
        return cls(name, basis, given["memory_gb"], Service(in_flight, rates, _relative_work(given, rates[-1])))


def hosts_needed(service: Service, arrivals: float, p95: float) -> int:
    """The smallest number of hosts that keep the p95 and MAX_UTILIZATION; one that is down is not among them.

    arrivals : per second
    p95      : seconds

    Raises CapacityError if no number does.
    """
    alone = service.seconds(1.0) * float(np.quantile(service.work, 0.95))
    if alone >= p95:
        raise CapacityError(f"none: a long report alone takes {alone:.1f} s")
    few = many = max(1, math.ceil(arrivals / service.reports_per_s[-1] / MAX_UTILIZATION))
    while Pool(service, many, arrivals).percentile(0.95) > p95:
        few, many = many + 1, 2 * many
        if many > MAX_HOSTS:
            raise CapacityError(f"over {MAX_HOSTS} hosts")
    while few < many:
        middle = (few + many) // 2
        if Pool(service, middle, arrivals).percentile(0.95) > p95:
            few = middle + 1
        else:
            many = middle
    return many


def row(host: Host, demand: Demand, p95: float) -> str:
    """The row of one host: with the number of hosts, and what they do in the busiest hour while one is down."""
    service = host.service
    most = service.reports_per_s[-1]
    known = [host.name, host.basis, f"{host.memory_gb:g}", _number(service.seconds(1.0)), _number(most)]
    host_days = _number(demand.studies_per_day * YEAR_DAYS / most / DAY_S)
    try:
        needed = hosts_needed(service, demand.peak, p95)
    except CapacityError as error:
        return f"| {' | '.join([*known, str(error), '–', '–', '–', host_days])} |"
    pool = Pool(service, needed, demand.peak)
    found = [f"{needed} + 1", *(_number(pool.percentile(share)) for share in (0.5, 0.95)), f"{pool.utilization:.0%}"]
    return f"| {' | '.join([*known, *found, host_days])} |"


def table(hosts: Sequence[Host], demand: Demand, p95: float) -> str:
    """The Markdown table of all hosts."""
    return "\n".join([HEAD, *(row(host, demand, p95) for host in hosts)])


def read_figures(path: Path) -> tuple[list[Host], dict[str, list[float]]]:
    """Hosts, and profiles of a day by name. Raises CapacityError."""
    try:
        figures = yaml.safe_load(path.read_text(encoding="utf-8"))
        hosts = [Host.from_mapping(name, given) for name, given in figures["hosts"].items()]
        profiles = {name: list(map(float, hours)) for name, hours in figures["profiles"].items()}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CapacityError(f"{path} is not like {FIGURES.name}: {type(error).__name__} {error}") from error
    for name, hours in profiles.items():
        if len(hours) != 24 or min(hours) < 0 or sum(hours) <= 0:
            raise CapacityError(f"{path}: profile {name} has {len(hours)} values; give 24 of 0 or more, one an hour")
    return hosts, profiles


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--studies", type=float, required=True, help="a day, on average over a year")
    parser.add_argument("--p95", type=float, default=10.0, help="seconds (%(default)s)")
    parser.add_argument("--profile", default="day_shift", help="of a day, a name in the figures (%(default)s)")
    parser.add_argument("--busiest-day", type=float, default=1.3, help="its studies / an average day's (%(default)s)")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="a file like deploy/capacity.yaml")
    given = parser.parse_args(arguments)
    for name in ("studies", "p95", "busiest_day"):
        if not 0 < getattr(given, name) < math.inf:
            parser.error(f"--{name.replace('_', '-')} is {getattr(given, name)}; allowed: above 0")
    try:
        hosts, profiles = read_figures(given.figures)
        if given.profile not in profiles:
            raise CapacityError(f"--profile is {given.profile!r:.80}; {given.figures} has {', '.join(profiles)}")
    except CapacityError as error:
        print(error, file=sys.stderr)
        return 2
    demand = Demand(given.studies, profiles[given.profile], given.busiest_day)
    print(f"{given.studies:g} studies a day, {_number(demand.peak)} a second in the busiest hour\n")
    print(table(hosts, demand, given.p95))
    return 0


def _check(name: str, given: Mapping[str, Any]) -> None:
    """Raise CapacityError for a value that cannot be computed with."""
    for key, value in given.items():
        if key in ("basis", "source"):
            continue
        values = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
        lowest = 0.0 if key in ("image_s", "overhead") else 1e-9
        allowed = bool(values) and all(isinstance(one, int | float) and lowest <= one < math.inf for one in values)
        if key in ("reports_per_s", "step_s"):
            counts = list(value) if isinstance(value, Mapping) else []
            allowed = allowed and counts[:1] == [1] and counts == sorted(counts)
        elif key == "tokens":
            allowed = allowed and len(values) == 2 and values == sorted(values)
        elif key in ("overhead", "efficiency"):
            allowed = allowed and value <= 1
        if not allowed:
            raise CapacityError(f"{name}: {key} is {value!r:.100}; {_ALLOWED.get(key, 'allowed: a number above 0')}")


def _measured(given: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    """Reports in flight, and reports per second with so many."""
    curve = given["reports_per_s"]
    return list(curve), list(curve.values())


def _from_parts(given: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    """A report needs the host for its image, and for its share of as many steps as it has tokens.

    The time of a step is taken as linear between the measured ones.
    """
    measured, tokens = given["step_s"], sum(given["tokens"]) / 2
    counts = list(range(1, max(measured) + 1))
    steps = np.interp(counts, list(measured), list(measured.values()))
    kept = 1 - given["overhead"]
    return counts, [
        kept / (given["image_s"] + tokens * step / count) for count, step in zip(counts, steps.tolist(), strict=True)
    ]


def _estimated(given: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    """A step takes as long as reading the weights, and the cache of each report in flight."""
    speed = given["bandwidth_gb_s"] * given["efficiency"]
    counts = range(1, given["slots"] + 1)
    steps = {count: (given["weights_gb"] + count * given["slot_gb"]) / speed for count in counts}
    return _from_parts({**given, "step_s": steps})


def _relative_work(given: Mapping[str, Any], most: float) -> npt.NDArray[np.float64]:
    """Work of reports of equally likely lengths between the two of `tokens`, in units of the mean.

    most : reports per second of a full host, which says how much of the work is the image
    """
    shortest, longest = given["tokens"]
    lengths = shortest + (longest - shortest) * (np.arange(_LENGTHS) + 0.5) / _LENGTHS
    fixed = min(1.0, given["image_s"] * most)
    return np.asarray(fixed + (1 - fixed) * lengths / lengths.mean())


def _number(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
