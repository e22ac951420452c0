"""The figures of an evaluation as Markdown: one table, the systems side by side, baselines always among them."""

from collections.abc import Mapping, Sequence
from typing import Any

FEW = 20
"""Patients, at least: percentile intervals over fewer are too narrow."""

_DETAIL = ("F1 of each label, by rules", "finding group right, by kind of picture")
"""Sections whose intervals would only fill the page; JSON has them."""


def markdown(result: Mapping[str, Any]) -> str:
    """One table of all sections, then what the constants say and all remarks."""
    systems = list(result["sections"][0]["figures"])
    difference = any(section["above_constant"] for section in result["sections"])
    head = ["", *systems, *(["above the constant"] if difference else [])]
    lines = [format_row(head), "|---" * len(head) + "|"]
    for section in result["sections"]:
        lines.append(format_row([f"**{section['title']}**", *[""] * (len(head) - 1)]))
        names = next(iter(section["figures"].values()))
        for name in names:
            cells = [format_cell(section, system, name) for system in systems]
            if difference:
                cells.append(_difference(section, name))
            lines.append(format_row([name, *cells]))
    lines.append(format_row(["**variety**", *[""] * (len(head) - 1)]))
    for key in next(iter(result["distinct"].values())):
        cells = [format_count(result["distinct"][system][key]) for system in systems]
        title = {"reports": "distinct reports", "ratio": "distinct / all"}.get(key, key.replace("_", " "))
        lines.append(format_row([title, *cells, *([""] if difference else [])]))
    return "\n\n".join(["\n".join(lines), *tabulate_subgroups(result), "\n".join(_remarks(result))])


def figure(result: Mapping[str, Any], name: str, system: str) -> tuple[float, float, float]:
    """One figure of one system with the limits of its interval. Raises KeyError if it was not computed."""
    for section in result["sections"]:
        if name in section["figures"].get(system, {}):
            value, low, high = section["figures"][system][name]
            return value, low, high
    raise KeyError(f"the evaluation has no {name!r} of {system!r}")


def tabulate_subgroups(result: Mapping[str, Any]) -> list[str]:
    """The scores of the evaluated system by sex, age, view and source; nothing where the data do not say them."""
    groups = result.get("subgroups") or {}
    rows = [(name, value, scores) for name, values in groups.items() for value, scores in values.items()]
    if not rows:
        return []
    shown = list(rows[0][2]["figures"])
    lines = [format_row([f"{result['system']}, by", "studies", "patients", *shown]), "|---" * (len(shown) + 3) + "|"]
    for name, value, scores in rows:
        cells = [_interval(*figures) for figures in scores["figures"].values()]
        lines.append(format_row([f"{name}: {value}", str(scores["studies"]), str(scores["patients"]), *cells]))
    few = [f"{name}: {value} ({scores['patients']})" for name, value, scores in rows if scores["patients"] < FEW]
    if few:
        lines.append(
            f"\nGroups of fewer than {FEW} patients, or studies where these are unknown, have intervals that are too "
            f"narrow, and of one patient none: {', '.join(few)}."
        )
    return ["\n".join(lines)]


def _remarks(result: Mapping[str, Any]) -> list[str]:
    of_references = result["distinct"]["references"]
    left_out = (
        f"; {result['left_out']} without a reference or an image that is asked for were left out"
        if result["left_out"]
        else ""
    )
    patients = "an unknown number of" if result["patients"] is None else result["patients"]
    remarks = [
        f"- {result['studies']} studies of {patients} patients, split {result['split']}{left_out}. "
        f"Baselines copy from {result['train']} training reports. In brackets: 95 % bootstrap intervals over patients.",
        f"- Of the references {of_references['reports']} are distinct ({of_references['ratio']:.3f}).",
    ]
    remarks += [f"- The {name} says “{text}”" for name, text in result["constants"].items()]
    remarks += [f"- {section['title']}: {section['note']}." for section in result["sections"] if section["note"]]
    return remarks + [f"- {note}" for note in result["notes"]]


def format_cell(section: Mapping[str, Any], system: str, name: str) -> str:
    """A figure of one system with its interval, which is left out for details; a dash where it was not computed."""
    figures = section["figures"].get(system, {}).get(name)
    if figures is None:
        return "–"
    value, low, high = figures
    if section["title"] in _DETAIL:
        return _number(value)
    return _interval(value, low, high)


def _difference(section: Mapping[str, Any], name: str) -> str:
    figures = section["above_constant"].get(name)
    if figures is None or section["title"] in _DETAIL:
        return ""
    value, low, high = figures
    return _interval(value, low, high, sign=True)


def _interval(value: float | None, low: float | None, high: float | None, *, sign: bool = False) -> str:
    """A figure with its interval where it has one."""
    if low is None and high is None:
        return _number(value, sign=sign)
    return f"{_number(value, sign=sign)} ({_number(low, sign=sign)} to {_number(high, sign=sign)})"


def _number(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "not finite"
    digits = 3 if abs(value) < 10 else 1
    return f"{value:{'+' if sign else ''}.{digits}f}"


def format_count(value: float) -> str:
    """A whole number as it is, a fraction with three decimals."""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def format_row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"
