"""Tables and chart of the serving benchmark."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.decode.table import number
from benchmarks.machine import QUIET_CORES, where_and_when
from loadtests.chart import draw_panels

HEAD = "| | load | offered /s | reports /s | p50, s | p95, s | p99, s | failed |\n|---|---|---|---|---|---|---|---|"


NEEDED = {"p50": 1, "p95": 20, "p99": 100}
"""Reports that a percentile needs: of fewer it is in effect the slowest, and is left out."""


def table(saturated: Mapping[str, Mapping[str, Any]], offered: Sequence[Mapping[str, Any]]) -> str:
    """The table of one model.

    saturated : name of the candidate -> Figures
    offered   : Figures with the `candidate` and the name of its `load`
    """
    lines, disturbed = [HEAD], 0.0
    found = [{"candidate": name, "load": "saturated", **figures} for name, figures in saturated.items()] + list(offered)
    for figures in found:
        busy = figures["foreign_cores"] > QUIET_CORES
        disturbed = max(disturbed, figures["foreign_cores"] if busy else 0.0)
        reports = figures["requests"] - figures["failures"]
        cells = [
            figures["candidate"],
            figures["load"],
            number(figures["offered"]),
            number(figures["reports_per_s"]) + ("\\*" if busy else ""),
            *(number(figures[name] if reports >= needed else None) for name, needed in NEEDED.items()),
            f"{figures['failures']:.0f} of {figures['requests']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    note = f"\n\n\\* under other load: up to {disturbed:.1f} cores were busy with something else" if disturbed else ""
    return "\n".join(lines) + note


def alone_table(alone: Mapping[str, Mapping[str, float]]) -> str:
    """The table of the time of a single request, by part."""
    lines = [
        "| one request at a time | tokens | latency, ms | its handler, ms | outside of it, ms |",
        "|---|---|---|---|---|",
    ]
    for name, one in alone.items():
        times = " | ".join(number(one[part]) for part in ("latency", "handler", "outside"))
        lines.append(f"| {name} | {one['tokens']} | {times} |")
    return "\n".join(lines)


def markdown(record: Mapping[str, Any]) -> str:
    """The whole page."""
    plan = record["settings"]
    parts = [
        "# Serving",
        where_and_when(record),
        f"Medians of {plan['rounds']} rounds in which all took turns on one server; the load generator, with PNGs of "
        "some 50 kB, is on the same cores. Reports of 3 beams, lengths uniform from 16 tokens to the model's maximum. "
        "Saturated: a closed loop with twice as many users as requests decoded together, "
        f"{plan['closed']:.0f} s; otherwise Poisson arrivals for {plan['open']:.0f} s, "
        "with a queue that keeps growing at 100 %. The last column has n, the number of requests; a percentile of too "
        f"few reports is left out ({', '.join(f'{name}: {needed}' for name, needed in NEEDED.items())}).",
    ]
    for name, subject in record["models"].items():
        parts.append(f"## {name}: reports of 16 to {subject['tokens']} tokens")
        parts.append(table(subject["saturated"], subject["offered"]))
        if subject["alone"]:
            parts.append(alone_table(subject["alone"]))
    return "\n\n".join(parts) + "\n"


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Draw latency over throughput, one panel per model: p50 solid, p95 dashed."""
    models = {name: subject for name, subject in record["models"].items() if subject["offered"]}
    with draw_panels(path, (6.5, 4.6), count=len(models)) as panels:
        for panel, (name, subject) in zip(panels, models.items(), strict=True):
            for color, candidate in zip(_COLORS, subject["saturated"], strict=False):
                points = [one for one in subject["offered"] if one["candidate"] == candidate and one["p95"] is not None]
                points.sort(key=lambda one: one["offered"])
                if not points:
                    continue
                rates = [one["reports_per_s"] for one in points]
                panel.plot(rates, [one["p50"] for one in points], "o-", color=color, label=candidate, markersize=4)
                panel.plot(rates, [one["p95"] for one in points], "o--", color=color, markersize=4)
            panel.set_yscale("log")
            panel.set_xlim(left=0)
            panel.set_title(f"{name}: 16 to {subject['tokens']} tokens, 3 beams")
            panel.set_xlabel("reports per second")
            panel.set_ylabel("seconds from arrival to report")
            panel.grid(which="both", alpha=0.25)
            panel.legend(title="p50 solid, p95 dashed", fontsize=8, title_fontsize=8)


_COLORS = ("#0b6e4f", "#d1495b", "#6a994e", "#30638e", "#8d6a9f")
