"""The results of the benchmark of draft tokens as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from benchmarks.drafts.turns import COLUMNS, DraftRow, StepCost

GOAL = 1.5
"""The gain for which drafts are worth having."""


def markdown(record: Mapping[str, Any], rows: Sequence[DraftRow], costs: Sequence[StepCost]) -> str:
    """The whole page; `record` is the content of the JSON file."""
    lines = [
        "# Draft tokens from known reports",
        "",
        f"Date: {record['date'] or 'not given'}; commit: {record['commit'] or 'unknown'}; torch "
        f"{record['versions']['torch']}; {record['machine']['cpu']}",
        "",
        f"A model was trained on {record['studies']} reports for {record['epochs']} epochs; held-out reports have "
        f"{record['loss']:.2f} nats a token. The table of draft tokens has {record['entries']} entries; with it, a "
        f"decoder that wrote {record['held_out']} of them would write {record['radiologists']:.2f} tokens a step.",
        "",
        "| decoder | precision | | together | texts (different) | tokens a step, without drafts | with "
        "| drafts accepted | time without / with | same bits |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(_line, rows),
        "",
        f"Time: CPU time of one thread, the best of {record['rounds']} rounds in turns. Bold: below {GOAL}.",
        "",
        f"A step that looks at {COLUMNS} tokens, by its rows for each request:",
        "",
        *_steps(costs),
    ]
    return "\n".join(lines) + "\n"


def _line(row: DraftRow) -> str:
    cells = (
        row.decoder,
        row.precision,
        row.mode,
        f"{row.together}",
        f"{row.texts} ({row.different})",
        f"{row.tokens / row.plain_steps:.2f}",
        f"{row.tokens / row.steps:.2f}",
        f"{row.accepted / max(row.proposed, 1):.0%}",
        f"{row.gain:.2f}" if row.gain >= GOAL else f"**{row.gain:.2f}**",
        "yes" if row.same else "**no**",
    )
    return f"| {' | '.join(cells)} |"


def _steps(costs: Sequence[StepCost]) -> Iterator[str]:
    """Milliseconds of one row, and how many times as long others take."""
    most = max(cost.rows for cost in costs)
    yield f"| decoder | precision | together | ms, one row | {' | '.join(f'{n} rows' for n in range(2, most + 1))} |"
    yield "|---" * (most + 3) + "|"
    for (decoder, precision, together), group in groupby(costs, lambda c: (c.decoder, c.precision, c.together)):
        one, *others = (cost.seconds for cost in group)
        times = " | ".join(f"{seconds / one:.2f}" for seconds in others)
        yield f"| {decoder} | {precision} | {together} | {1e3 * one:.2f} | {times} |"
