"""Draw the panels of deploy/grafana/dashboard.json, with what their own queries find in a Prometheus.

    python -m loadtests.dashboard http://127.0.0.1:9090 dashboard.png --minutes 10

For documentation, where Grafana is not available.
"""

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests

from terminal.arguments import CommandLine

BOARD = Path(__file__).parent.parent / "deploy" / "grafana" / "dashboard.json"
STEP_S = 5
_PARTS = re.compile(r"(\{\{\w+\}\})")
"""Of a legend: {{name}} is the value of a label."""
RATE = "1m"
"""Of Grafana's $__rate_interval, which is four times the interval of the scrapes."""


def ask(prometheus: str, expression: str, minutes: float) -> list[tuple[Mapping[str, str], list[float], list[float]]]:
    """Series of a query: labels, times in seconds since 1970, values."""
    now = time.time()
    parameters: dict[str, str | float] = {"query": expression.replace("$__rate_interval", RATE)}
    parameters |= {"start": now - 60 * minutes, "end": now, "step": STEP_S}
    answer = requests.get(f"{prometheus}/api/v1/query_range", params=parameters, timeout=30)
    answer.raise_for_status()
    return [
        (series["metric"], *map(list, zip(*((t, float(v)) for t, v in series["values"]), strict=True)))
        for series in answer.json()["data"]["result"]
    ]


def draw(board: Mapping[str, Any], prometheus: str, minutes: float, file: Path) -> list[str]:
    """Draw all panels where Grafana has them; returns the titles of panels without data."""
    # Imported here because it takes a second, which `--help` need not wait for.
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    figure = plt.figure(figsize=(16, rows / 2.2))
    empty = []
    for panel in board["panels"]:
        place = panel["gridPos"]
        left, bottom = place["x"] / 24, 1 - (place["y"] + place["h"]) / rows
        width, height = place["w"] / 24, place["h"] / rows
        axes = figure.add_axes((left + 0.03, bottom + 0.022, width - 0.045, height - 0.055))
        axes.set_title(panel["title"], fontsize=10, loc="left")
        series = [
            (target["legendFormat"], *found)
            for target in panel["targets"]
            for found in ask(prometheus, target["expr"], minutes)
        ]
        if not series:
            empty.append(panel["title"])
        (_draw_number if panel["type"] == "stat" else _draw_lines)(axes, series, panel["fieldConfig"]["defaults"])
    figure.savefig(file, dpi=80, metadata={"Software": None})
    plt.close(figure)
    return empty


def _draw_number(axes: Any, series: Sequence[Any], defaults: Mapping[str, Any]) -> None:
    axes.set_axis_off()
    value = series[0][3][-1] if series else None
    words = {text: shown["text"] for each in defaults.get("mappings", []) for text, shown in each["options"].items()}
    number = "no data" if value is None else f"{value:,.0f} {defaults['unit']}".removesuffix(" short")
    axes.text(0, 0.4, words.get(f"{value:g}", number) if value is not None else number, fontsize=20)


def _draw_lines(axes: Any, series: Sequence[Any], defaults: Mapping[str, Any]) -> None:
    for legend, labels, times, values in series:
        label = "".join(labels.get(part[2:-2], "") if part.startswith("{{") else part for part in _PARTS.split(legend))
        axes.plot([datetime.fromtimestamp(at, UTC) for at in times], values, label=label, linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(defaults["unit"], fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    if series:
        axes.legend(fontsize=7, loc="upper left")


def main() -> int:
    """Draw; the exit code is 1 if a panel has no data."""
    parser = CommandLine(__doc__)
    parser.add_argument("prometheus", help="its address")
    parser.add_argument("file", type=Path, help="the picture")
    parser.add_argument("--minutes", type=float, default=10, help="that are shown, until now (10)")
    given = parser.parse_args()
    empty = draw(json.loads(BOARD.read_text(encoding="utf-8")), given.prometheus, given.minutes, given.file)
    for title in empty:
        print(f"{title}: no data", file=sys.stderr)
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
