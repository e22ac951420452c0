"""The results of the decode benchmark as JSON and as a Markdown table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.decode.contender import OURS
from benchmarks.decode.floor import Floor
from benchmarks.decode.point import Point
from benchmarks.decode.rounds import Series, count_differing
from benchmarks.machine import QUIET_CORES, where_and_when
from prelim.networks.machine import family


@dataclass(frozen=True)
class DecodeRow:
    """One contender in one precision at one point.

    best, median   : milliseconds per step
    prefill        : milliseconds until the first token, best
    first_floor    : minimum milliseconds until the first token
    first_share    : first_floor / prefill
    floor, bound   : minimum milliseconds of a step, and the bound that applies
    of_floor       : best / floor
    same, fastest  : ratio of its median to ours in the same precision, and to ours in our fastest precision; None
                     where there is none
    differing      : tokens that differ from ours in the same precision, of `tokens`; None where there is none
    foreign_cores  : mean number of cores used by other processes
    idle_cores     : the part of them used by idle contenders
    refused        : why there is no result; all figures are None then
    """

    peer: str
    precision: str
    best: float | None = None
    median: float | None = None
    prefill: float | None = None
    first_floor: float | None = None
    first_share: float | None = None
    floor: float | None = None
    bound: str | None = None
    of_floor: float | None = None
    same: float | None = None
    fastest: float | None = None
    differing: int | None = None
    tokens: int | None = None
    foreign_cores: float | None = None
    idle_cores: float | None = None
    refused: str | None = None


def rows(results: Sequence[Series], floors: Mapping[str, Floor], first_floors: Mapping[str, Floor]) -> list[DecodeRow]:
    """Make the rows of one point; floors of a step and of the first token by precision."""
    done = [series for series in results if series.refused is None and min(series.best, series.median) > 0]
    ours = sorted((series for series in done if series.peer == OURS), key=lambda series: series.median)
    fastest = ours[0] if ours else None
    table = []
    for series in results:
        if series.refused is not None:
            table.append(DecodeRow(series.peer, series.precision, refused=series.refused))
            continue
        if series.best <= 0 or series.median <= 0:
            # The first token took longer than the whole text, so these rounds give no time of a step.
            table.append(
                DecodeRow(series.peer, series.precision, refused="its rounds scatter too much; use more rounds")
            )
            continue
        floor, first_floor = floors[series.precision], first_floors[series.precision]
        kin = [one for one in ours if family(one.precision) == family(series.precision)]
        # The same kind of int8 if there is one, else our fastest.
        same = next((one for one in kin if one.precision == series.precision), kin[0] if kin else None)
        table.append(
            DecodeRow(
                series.peer,
                series.precision,
                best=1e3 * series.best,
                median=1e3 * series.median,
                prefill=1e3 * min(series.first),
                first_floor=1e3 * first_floor.seconds,
                first_share=first_floor.seconds / min(series.first),
                floor=1e3 * floor.seconds,
                bound=floor.bound,
                of_floor=series.best / floor.seconds,
                same=series.median / same.median if same else None,
                fastest=series.median / fastest.median if fastest else None,
                differing=count_differing(series, same) if same else None,
                tokens=sum(len(ids) for ids in series.token_ids),
                foreign_cores=series.foreign_cores,
                idle_cores=series.idle_cores,
            )
        )
    return table


_HEAD = (
    "| decoder | precision | ms a step, median | best | floor, ms | best / floor "
    "| times ours, same precision | times our fastest | tokens unlike ours "
    "| first token, ms | its floor, ms (share) |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def markdown_table(table: Sequence[DecodeRow]) -> str:
    """The rows of one point as Markdown; notes below it name refusals and measurements under other load."""
    lines, disturbed = [_HEAD], []
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in table:
        name = f"**{row.peer}**" if row.peer == OURS else row.peer
        if row.refused is not None:
            lines.append(f"| {name} | {row.precision} |" + " – |" * 9)
            reasons.setdefault((row.peer, row.refused), []).append(row.precision)
            continue
        busy = row.foreign_cores is not None and row.foreign_cores > QUIET_CORES
        unlike = "–" if row.differing is None else f"{row.differing} of {row.tokens}"
        cells = [
            name,
            row.precision,
            number(row.median) + ("\\*" if busy else ""),
            number(row.best),
            f"{number(row.floor)} ({row.bound})",
            number(row.of_floor),
            number(row.same),
            number(row.fastest),
            unlike,
            number(row.prefill),
            f"{number(row.first_floor)} ({100 * (row.first_share or 0):.0f} %)",
        ]
        lines.append("| " + " | ".join(cells) + " |")
        if busy:
            disturbed.append(row.foreign_cores or 0.0)
    notes = [f"{peer} {', '.join(precisions)}: {reason}" for (peer, reason), precisions in reasons.items()]
    if disturbed:
        notes.append(f"\\* under other load: up to {max(disturbed):.1f} cores were busy with something else")
    return "\n".join(lines) + "".join(f"\n\n{note}" for note in notes)


def markdown(record: Mapping[str, Any], tables: Mapping[tuple[str, Point], Sequence[DecodeRow]]) -> str:
    """The whole page; `record` is the content of the JSON file without the rows."""
    parts = [_preface(record)]
    for name, shape in record["shapes"].items():
        parts.append(f"## {name}: {shape['parameters'] / 1e6:.1f} M parameters")
        parts.append("\n".join(f"- {peer}: {note}" for peer, note in shape["notes"].items()))
        for (shape_name, point), table in tables.items():
            if shape_name == name:
                parts.append(f"### {point} (images x beams)\n\n{markdown_table(table)}")
    return "\n\n".join(parts) + "\n"


def _preface(record: Mapping[str, Any]) -> str:
    """Machine and method of the measurement."""
    settings = record["settings"]
    restricted = " ".join(f"{name}={value}" for name, value in settings["restricted"].items())
    if restricted:
        restricted = f"\n- Restricted to fewer instructions than it has: {restricted}"
    return (
        f"# Decoding, ms a step\n\n{where_and_when(record)}{restricted}\n\n"
        f"A step is one token for every row. Its time is that of {settings['steps'] + 1} tokens minus that of the "
        f"first, divided by {settings['steps']}, from {settings['rounds']} rounds in which all took turns. "
        "The floor is the larger of bytes read / memory bandwidth and operations / matrix throughput; "
        "a decoder that fits into the processor's cache can be below it. The share of the first token's is that of its "
        "best time; no prefix comes twice. "
        '"Times ours" is the ratio of its median to ours. Weights are random, so tokens '
        "are often nearly equally good, and texts stay different after a first difference: only fp32 must have none."
    )


def number(value: float | None) -> str:
    """Format with three significant digits; None is a dash."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
