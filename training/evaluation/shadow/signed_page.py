"""The part of the page on signed reports: agreement by finding over time, with control limits."""

import html
from collections.abc import Sequence
from itertools import pairwise

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from prelim.labels.labeler import FINDINGS
from training.evaluation.metrics.f1 import share_interval
from training.evaluation.shadow.control import ChartPoint, chart
from training.evaluation.shadow.page import TableRow, draw, picture, table
from training.evaluation.shadow.signed import BOTH, DRAFT, SIGNED, Signed, Stretch

_NOTE = (
    "Labels are by rules, of drafts and of signed reports alike (docs/evaluate.md). The signed report is what somebody "
    "wrote who may have read the draft; it does not prove what is in the image."
)


def describe_agreement(signed: Signed, baseline: int, size: int | None, alarm: float) -> list[str]:
    """What the page says of drafts and signed reports, as HTML.

    baseline : stretches of time that the control limits are from
    size     : studies of a stretch; None: weeks
    alarm    : share of points that are out of control by chance, at most
    """
    stretches = signed.stretches(size)
    charts = [chart([stretch.group(i) for stretch in stretches], baseline, alarm) for i in range(len(FINDINGS))]
    parts = [
        "<h1>Drafts compared with signed reports</h1>",
        f"<p>{sum(stretch.studies for stretch in stretches)} studies. {_NOTE}</p>",
        f"<p>{html.escape(_describe_limits(stretches, baseline, alarm))}</p>",
        "<h2>Out of control</h2>",
        table(["from", "finding", "studies that differ", "of", "in control"], _alarms(charts)),
    ]
    if stretches:
        words = "Share of studies whose draft and signed report differ, by finding, over time, with control limits"
        parts.append(picture(plot(stretches, charts), words))
    parts += [
        "<h2>Agreement by finding</h2>",
        table(["finding", "both say it", "only the draft", "only the signed report", "differ"], _findings(stretches)),
        "<h2>What came in</h2>",
        table(["", "count"], [*signed.counts.items()]),
    ]
    return parts


def _describe_limits(stretches: Sequence[Stretch], baseline: int, alarm: float) -> str:
    if len(stretches) <= baseline:
        return f"There are no limits yet: they are from the first {baseline} stretches, and there are {len(stretches)}."
    first = sum(stretch.studies for stretch in stretches[:baseline])
    return (
        f"The limits are from the first {baseline} stretches ({first} studies). If nothing changes, at most "
        f"{alarm:.2%} of the points of a finding are out of control; of the {len(FINDINGS)} findings together at most "
        f"one in {1 / (1 - (1 - alarm) ** len(FINDINGS)):.0f} stretches has such a point."
    )


def _alarms(charts: Sequence[Sequence[ChartPoint]]) -> list[TableRow]:
    found = [(point, finding) for finding, points in zip(FINDINGS, charts, strict=True) for point in points]
    return [
        (point.group.name, finding, point.group.count, point.group.total, f"{point.low} to {point.high}")
        for point, finding in sorted(found, key=lambda pair: pair[0].group.name)
        if point.is_out
    ]


def _findings(stretches: Sequence[Stretch]) -> list[TableRow]:
    cells = np.sum([stretch.cells for stretch in stretches], axis=0) if stretches else np.zeros((len(FINDINGS), 4), int)
    rows: list[TableRow] = []
    for finding, numbers in zip(FINDINGS, cells, strict=True):
        share = share_interval(int(numbers[DRAFT] + numbers[SIGNED]), int(numbers.sum()))
        differ = f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"
        rows.append((finding, numbers[BOTH], numbers[DRAFT], numbers[SIGNED], differ))
    return rows


def plot(stretches: Sequence[Stretch], charts: Sequence[Sequence[ChartPoint]]) -> bytes:
    """A PNG with one chart a finding. Dotted lines: the first stretch with drafts of another model."""
    figure, axes = plt.subplots(-(-len(FINDINGS) // 3), 3, figsize=(16, 14), sharex=True, squeeze=False)
    changes = [i for i, (a, b) in enumerate(pairwise(stretches), 1) if a.models != b.models]
    for place, finding, points in zip(axes.flat, FINDINGS, charts, strict=False):
        _plot_one(place, finding, points)
        for change in changes:
            place.axvline(change - 0.5, color="0.5", linestyle=":", linewidth=1)
    for place in axes.flat[len(FINDINGS) :]:
        place.set_visible(False)
    step = max(len(stretches) // 8, 1)
    for place in axes[-1]:
        place.set_xticks(range(0, len(stretches), step), [one.name for one in stretches[::step]], rotation=60)
    figure.tight_layout()
    return draw(figure)


def _plot_one(axes: Axes, finding: str, points: Sequence[ChartPoint]) -> None:
    places = np.arange(len(points))
    totals = np.array([max(point.group.total, 1) for point in points], dtype=np.float64)
    shares = 100 * np.array([point.group.count for point in points]) / totals
    low, high = (
        np.array([np.nan if value is None else value for value in values]) * 100 / totals
        for values in ([point.low for point in points], [point.high for point in points])
    )
    axes.fill_between(places, low, high, step="mid", color="0.9")
    axes.plot(places, shares, color="black", marker=".", linewidth=1)
    out = [i for i, point in enumerate(points) if point.is_out]
    axes.plot(places[out], shares[out], "o", color="tab:red")
    axes.set_title(finding, fontsize=10)
    axes.set_ylabel("% that differ", fontsize=8)
    axes.set_ylim(bottom=0)
