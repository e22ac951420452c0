"""Texts become labels: which findings a report says are there, by the rules that the server's records use too."""

from prelim.labels.findings import read_findings
from prelim.labels.labeler import FINDINGS

__all__ = ["FINDINGS", "MAX_TEXT", "list_findings"]

MAX_TEXT = 20_000
"""Characters of a report: a dozen pages."""


def list_findings(text: str) -> list[str]:
    """Return the findings that a report says are there, for certain or not."""
    return [name for name, said in read_findings(text[:MAX_TEXT]).items() if said.startswith(("positive", "uncertain"))]
