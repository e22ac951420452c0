"""The findings of a report with their sides, for records that must not have its text.

$ python -c "from prelim.labels.findings import read_findings; print(read_findings('Small left effusion.'))"
"""

import re
from functools import cache

from prelim.labels.labeler import OTHER, Labeler, State

_SIDE = re.compile(r"\b(left|right|bilateral(?:ly)?|both|bibasilar|bibasal)\b")
_BOTH = re.compile(r"\b(?:left and right|right and left)\b")


def read_findings(report: str) -> dict[str, str]:
    """What the rule labeler reads of each finding that is mentioned, such as "pleural effusion": "positive left".

    It is "negative", "uncertain" or "positive", the last two with the side, if it is said.
    The side is that of the nearest word before the finding in its clause, or else of the first one after it. The rules
    are measured for what is there and what is denied (docs/evaluate.md), not for sides.
    """
    states: dict[str, State] = {}
    sides: dict[tuple[str, State], set[str]] = {}
    for finding, state, around in _labeler().statements(report):
        states[finding] = max(state, states.get(finding, State.NEGATIVE))
        sides.setdefault((finding, state), set()).update(_sides(*around))
    states.pop(OTHER, None)
    return {
        finding: " ".join([state.name.lower(), *_together(sides[finding, state] if state > State.NEGATIVE else set())])
        for finding, state in sorted(states.items())
    }


@cache
def _labeler() -> Labeler:
    return Labeler()


def _sides(before: str, after: str) -> set[str]:
    before, after = (_BOTH.sub("both", words) for words in (before, after))
    nearest = [*_SIDE.findall(before)][-1:] or [*_SIDE.findall(after)][:1]
    return {side if side in ("left", "right") else "both" for side in nearest}


def _together(sides: set[str]) -> list[str]:
    if not sides:
        return []
    return [sides.pop()] if len(sides) == 1 else ["both"]
