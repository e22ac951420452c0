"""The results of the decode benchmark as JSON and as a Markdown table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.decode.contender import OURS
from benchmarks.decode.floor import Floor, family
from benchmarks.decode.rounds import Point, Series, differing
from benchmarks.machine import QUIET_CORES, where_and_when


@dataclass(frozen=True)
class Row:
    """One contender in one precision at one point.

    best, median   : milliseconds a step
    prefill        : milliseconds until the first token, best
    floor, bound   : milliseconds that a step takes at least, and what bounds it
    of_floor       : best / floor
    same, fastest  : how many times as long as ours it takes by the medians: ours in the same precision, and ours in its
                     fastest precision; None where there is none
    differing      : tokens that differ from ours in the same precision, of `tokens`; None where there is none
    foreign_cores  : cores that other processes kept busy meanwhile
    idle_cores     : the part of them that contenders took whose turn it was not
    refused        : why there is no result; all figures are None then
    """

    peer: str
    precision: str
    best: float | None = None
    median: float | None = None
    prefill: float | None = None
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


def rows(results: Sequence[Series], floors: Mapping[str, Floor]) -> list[Row]:
    """What one point says; `floors` by precision."""
    done = [series for series in results if series.refused is None and min(series.best, series.median) > 0]
    ours = sorted((series for series in done if series.peer == OURS), key=lambda series: series.median)
    fastest = ours[0] if ours else None
    table = []
    for series in results:
        if series.refused is not None:
            table.append(Row(series.peer, series.precision, refused=series.refused))
            continue
        if series.best <= 0 or series.median <= 0:
            # The first tokens took longer than all: no time of a step can be told from such rounds.
            table.append(Row(series.peer, series.precision, refused="its rounds scatter too much; take more of them"))
            continue
        floor = floors[series.precision]
        kin = [one for one in ours if family(one.precision) == family(series.precision)]
        # Of several kinds of int8 the one of the same name, else our fastest.
        same = next((one for one in kin if one.precision == series.precision), kin[0] if kin else None)
        table.append(
            Row(
                series.peer,
                series.precision,
                best=1e3 * series.best,
                median=1e3 * series.median,
                prefill=1e3 * min(series.first),
                floor=1e3 * floor.seconds,
                bound=floor.bound,
                of_floor=series.best / floor.seconds,
                same=series.median / same.median if same else None,
                fastest=series.median / fastest.median if fastest else None,
                differing=differing(series, same) if same else None,
                tokens=sum(len(ids) for ids in series.token_ids),
                foreign_cores=series.foreign_cores,
                idle_cores=series.idle_cores,
            )
        )
    return table


_HEAD = (
    "| decoder | precision | ms a step, median | best | first token, ms | floor, ms | best / floor "
    "| times ours, same precision | times our fastest | tokens unlike ours |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def markdown_table(table: Sequence[Row]) -> str:
    """The rows of one point; below it what was refused, and what was measured under other load."""
    lines, disturbed = [_HEAD], []
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in table:
        name = f"**{row.peer}**" if row.peer == OURS else row.peer
        if row.refused is not None:
            lines.append(f"| {name} | {row.precision} |" + " – |" * 8)
            reasons.setdefault((row.peer, row.refused), []).append(row.precision)
            continue
        busy = row.foreign_cores is not None and row.foreign_cores > QUIET_CORES
        unlike = "–" if row.differing is None else f"{row.differing} of {row.tokens}"
        cells = [
            name,
            row.precision,
            number(row.median) + ("\\*" if busy else ""),
            number(row.best),
            number(row.prefill),
            f"{number(row.floor)} ({row.bound})",
            number(row.of_floor),
            number(row.same),
            number(row.fastest),
            unlike,
        ]
        lines.append("| " + " | ".join(cells) + " |")
        if busy:
            disturbed.append(row.foreign_cores or 0.0)
    notes = [f"{peer} {', '.join(precisions)}: {reason}" for (peer, reason), precisions in reasons.items()]
    if disturbed:
        notes.append(f"\\* under other load: up to {max(disturbed):.1f} cores were busy with something else")
    return "\n".join(lines) + "".join(f"\n\n{note}" for note in notes)


def markdown(record: Mapping[str, Any], tables: Mapping[tuple[str, Point], Sequence[Row]]) -> str:
    """The whole page; `record` is what the JSON file holds in addition to the rows."""
    parts = [_preface(record)]
    for name, shape in record["shapes"].items():
        parts.append(f"## {name}: {shape['parameters'] / 1e6:.1f} M parameters")
        parts.append("\n".join(f"- {peer}: {note}" for peer, note in shape["notes"].items()))
        for (shape_name, point), table in tables.items():
            if shape_name == name:
                parts.append(f"### {point} (images x beams)\n\n{markdown_table(table)}")
    return "\n\n".join(parts) + "\n"


def _preface(record: Mapping[str, Any]) -> str:
    """Where and how it was measured."""
    settings = record["settings"]
    return (
        f"# Decoding, ms a step\n\n{where_and_when(record)}\n\n"
        f"A step is one token for every row. Its time is that of {settings['steps'] + 1} tokens less that of the first "
        f"one, over {settings['steps']}, from {settings['rounds']} rounds in which all took turns. The floor is the "
        "larger of what must be read over the memory bandwidth and what must be computed over the matrix throughput; "
        "a decoder that fits into the processor's cache can be below it. "
        '"Times ours" is how many times as long as ours a decoder takes, by the medians. Weights are random, so words '
        "are often nearly as good as each other, and texts that once differ go on to differ: only in fp32 must none."
    )


def number(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
