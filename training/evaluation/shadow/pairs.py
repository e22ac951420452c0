"""Pairs of answers to one request, and what differs between them."""

from collections.abc import Iterable
from dataclasses import dataclass

from prelim.audit.check import Line
from prelim.errors import AuditError

KINDS = ("appeared", "vanished", "side", "certainty", "denial", "refused", "answered", "wording")
"""Differences. denial: a finding is denied by one and not mentioned by the other. refused, answered: only the old
version, or only the new one, wrote a report. wording: another text with the same findings."""


@dataclass(frozen=True)
class Pair:
    """What two versions answered to one request."""

    request: str
    old: Line
    new: Line

    @property
    def both_answered(self) -> bool:
        """Whether there are two reports."""
        return "digests" in self.old and "digests" in self.new


@dataclass(frozen=True)
class Difference:
    """One difference between two answers.

    kind     : one of KINDS
    finding  : that it is about, or ""
    old, new : what the versions said, such as "positive left"
    """

    request: str
    kind: str
    finding: str
    old: str
    new: str


def pair(old: Iterable[Line], new: Iterable[Line]) -> list[Pair]:
    """The requests that both have, in the order of the old one; of a request that was sent again, its last line.

    Raises AuditError for a report without its findings.
    """
    found = [{line["request"]: line for line in lines} for lines in (old, new)]
    for line in (line for lines in found for line in lines.values()):
        if "digests" in line and "findings" not in line:
            raise AuditError(f"line {line['line']} has no findings: record with PRELIM_AUDIT_FINDINGS=yes")
    return [Pair(request, line, found[1][request]) for request, line in found[0].items() if request in found[1]]


def differences(one: Pair, *, one_key: bool = True) -> list[Difference]:
    """All differences between the two answers to one request.

    one_key : both logs have the same key; else the digests of equal texts differ, and wordings cannot be compared
    """
    if not one.both_answered:
        old, new = (line["refused"]["type"] if "refused" in line else "report" for line in (one.old, one.new))
        kind = "refused" if old == "report" else "answered" if new == "report" else "wording"
        return [Difference(one.request, kind, "", old, new)] if old != new else []
    old, new = one.old["findings"], one.new["findings"]
    found = [
        Difference(one.request, kind, finding, old.get(finding, "not mentioned"), new.get(finding, "not mentioned"))
        for finding in sorted(old.keys() | new.keys())
        if (kind := _kind(old.get(finding, ""), new.get(finding, "")))
    ]
    if not found and one_key and one.old["digests"]["text"] != one.new["digests"]["text"]:
        return [Difference(one.request, "wording", "", "", "")]
    return found


def is_there(said: str) -> bool:
    """Whether a finding is present, for certain or not."""
    return said.startswith(("positive", "uncertain"))


def _kind(old: str, new: str) -> str:
    """The kind of difference between what is said of one finding; "" for none."""
    if is_there(old) != is_there(new):
        return "appeared" if is_there(new) else "vanished"
    if old == new:
        return ""
    (was, _, side), (state, _, other_side) = old.partition(" "), new.partition(" ")
    if not is_there(old):
        return "denial"
    return "side" if side != other_side else "certainty" if was != state else ""
