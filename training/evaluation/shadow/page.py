"""The page that compares two versions: figures with 95 % intervals, plots, and every difference."""

import base64
import html
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from prelim.labels.labeler import FINDINGS
from training.evaluation.metrics.f1 import share_interval
from training.evaluation.metrics.measure import Array, Bootstrap, Interval, Measure
from training.evaluation.shadow.pairs import KINDS, Difference, Pair, is_there

_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ddd}"
    "img{max-width:100%}"
)
_NOTE = (
    "UNVERIFIED. Labels are by rules (docs/evaluate.md); sides are not measured. Requests count as independent: where "
    "many are of one patient, intervals are too narrow."
)
_TWO_KEYS = " The logs have two keys, so that other wordings of the same findings are not seen."
TableRow = Sequence[object]


def write_page(path: Path, title: str, parts: Sequence[str]) -> None:
    """Write the page, one HTML file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    path.write_text(f'<!doctype html><html lang="en">{head}{"".join(parts)}</html>\n', encoding="utf-8")


def describe_versions(
    names: tuple[str, str],
    pairs: Sequence[Pair],
    found: Sequence[Difference],
    alone: tuple[int, int],
    *,
    one_key: bool = True,
) -> list[str]:
    """What the page says of two versions, as HTML.

    names : of the old and the new version
    found : all differences
    alone : requests that only the old, only the new log has
    one_key : see `differences`
    """
    measured = [measure_finding(pairs, finding) for finding in FINDINGS]
    return [
        f"<h1>{html.escape(names[1])} compared with {html.escape(names[0])}</h1>",
        f"<p>Both have {len(pairs)} requests; {alone[0]} more are of the old version alone, {alone[1]} of the new.</p>",
        f"<p>{_NOTE}{'' if one_key else _TWO_KEYS}</p>",
        picture(plot(pairs, found, measured), "Differences by finding, time and length of both versions"),
        "<h2>Requests with a difference</h2>",
        table(["difference", "requests", "share"], _kinds(pairs, found)),
        "<h2>Findings</h2>",
        table(
            ["finding", "old", "new", "new - old", "appeared", "vanished", "side", "certainty"],
            _findings(found, measured),
        ),
        "<h2>Refusals, length, time</h2>",
        table(["", "old", "new", "new - old"], _numbers(pairs)),
        "<h2>All differences</h2>",
        table(
            ["request", "difference", "finding", "old", "new"],
            [(d.request, d.kind, d.finding, d.old, d.new) for d in found],
        ),
    ]


def measure_finding(pairs: Sequence[Pair], finding: str) -> tuple[float, float, Interval]:
    """How often the old and the new version report a finding, and the difference, of requests that both answered."""
    both = [one for one in pairs if one.both_answered]
    said = [[is_there(line["findings"].get(finding, "")) for line in (one.old, one.new)] for one in both]
    return _compare(np.array(said, dtype=np.float64).reshape(-1, 2))


def _compare(values: Array) -> tuple[float, float, Interval]:
    """Means of old and new values, shape (requests, 2), and their paired difference."""
    if not len(values):
        return float("nan"), float("nan"), Interval(*3 * [float("nan")])
    bootstrap = Bootstrap([f"{i}" for i in range(len(values))])
    old, new = (Measure.of_reports(name, values[:, i]) for i, name in enumerate(("old", "new")))
    return old.score(), new.score(), bootstrap.difference(new, old)


def milliseconds(line: dict[str, object]) -> float:
    """How long a report took, the wait included."""
    timing = line["timing_ms"]
    return float(sum(timing.values())) if isinstance(timing, dict) else float("nan")


def _kinds(pairs: Sequence[Pair], found: Sequence[Difference]) -> list[TableRow]:
    requests = {kind: {d.request for d in found if d.kind == kind} for kind in KINDS}
    rows = [("any", {d.request for d in found}), *requests.items()]
    return [(kind, len(those), _percent(share_interval(len(those), len(pairs)))) for kind, those in rows]


def _findings(found: Sequence[Difference], measured: Sequence[tuple[float, float, Interval]]) -> list[TableRow]:
    counts = Counter((d.finding, d.kind) for d in found)
    return [
        (finding, f"{old:.1%}", f"{new:.1%}", _percent(difference), *(counts[finding, kind] for kind in KINDS[:4]))
        for finding, (old, new, difference) in zip(FINDINGS, measured, strict=True)
    ]


def _numbers(pairs: Sequence[Pair]) -> list[TableRow]:
    refused = np.array([["refused" in line for line in (one.old, one.new)] for one in pairs], dtype=np.float64)
    rows: list[TableRow] = []
    old, new, difference = _compare(refused)
    rows.append(("refused", f"{old:.1%}", f"{new:.1%}", _percent(difference)))
    lengths, times = _lengths_and_times(pairs)
    for name, values in (("tokens", lengths), ("milliseconds", times)):
        old, new, difference = _compare(values)
        rows.append(
            (
                name,
                f"{old:.1f}",
                f"{new:.1f}",
                f"{difference.value:.1f} ({difference.low:.1f} to {difference.high:.1f})",
            )
        )
    if len(times):
        slow = np.quantile(times, 0.95, axis=0)
        rows.append(("milliseconds, 95 % are below", f"{slow[0]:.1f}", f"{slow[1]:.1f}", f"{slow[1] - slow[0]:.1f}"))
    return rows


def _lengths_and_times(pairs: Sequence[Pair]) -> tuple[Array, Array]:
    """Tokens and milliseconds of requests that both answered, each of shape (requests, 2)."""
    both = [(one.old, one.new) for one in pairs if one.both_answered]
    lengths = np.array([[line["tokens"] for line in one] for one in both], dtype=np.float64)
    times = np.array([[milliseconds(line) for line in one] for one in both], dtype=np.float64)
    return lengths.reshape(-1, 2), times.reshape(-1, 2)


def plot(
    pairs: Sequence[Pair], found: Sequence[Difference], measured: Sequence[tuple[float, float, Interval]]
) -> bytes:
    """A PNG: differences by finding with their counts, time and length of both versions."""
    figure, (change, counts, time, length) = plt.subplots(1, 4, figsize=(16, 4.8), width_ratios=(1.3, 1.3, 1, 1))
    places = np.arange(len(FINDINGS))
    middle, low, high = np.array([100 * np.array(difference) for _, _, difference in measured]).T
    change.errorbar(
        middle, places, xerr=[np.maximum(middle - low, 0), np.maximum(high - middle, 0)], fmt="o", color="black"
    )
    change.axvline(0, color="0.7", zorder=0)
    change.set(title="new - old", xlabel="percentage points of reports", yticks=places, yticklabels=FINDINGS)
    number = Counter((d.finding, d.kind) for d in found)
    right = np.zeros(len(FINDINGS))
    for kind, color in (("appeared", "tab:orange"), ("side", "tab:purple"), ("certainty", "tab:gray")):
        width = np.array([number[finding, kind] for finding in FINDINGS], dtype=np.float64)
        counts.barh(places, width, left=right, color=color, label=kind)
        right += width
    left = np.array([-number[finding, "vanished"] for finding in FINDINGS], dtype=np.float64)
    counts.barh(places, left, color="tab:blue", label="vanished")
    counts.set(title="requests that differ", yticks=places, yticklabels=[])
    counts.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    counts.legend(frameon=False, fontsize=8)
    for axes in (change, counts):
        axes.set_ylim(len(FINDINGS) - 0.5, -0.5)
    lengths, times = _lengths_and_times(pairs)
    for axes, values, title in ((time, times, "milliseconds"), (length, lengths, "tokens")):
        for i, name in enumerate(("old", "new")):
            if len(values):
                axes.ecdf(values[:, i], label=name)
        axes.set(title=title, ylim=(0, 1), ylabel="share of reports below" if axes is time else "")
        axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return draw(figure)


def draw(figure: Figure) -> bytes:
    """A figure as a PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
    return file.getvalue()


def _percent(interval: Interval) -> str:
    return f"{interval.value:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def table(head: Sequence[str], rows: Sequence[TableRow]) -> str:
    """A table as HTML."""
    lines = [("th", head), *(("td", row) for row in rows)]
    cells = ("".join(f"<{tag}>{html.escape(f'{cell}')}</{tag}>" for cell in row) for tag, row in lines)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in cells)}</table>"


def picture(png: bytes, words: str) -> str:
    """A plot as HTML; `words` say what it shows."""
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
