"""Texts become labels: which findings a report says are there, by the rules that the server's records use too."""

import re

from prelim.labels.findings import read_findings
from prelim.labels.labeler import FINDINGS

__all__ = ["FINDINGS", "MAX_TEXT", "list_findings"]

MAX_TEXT = 20_000
"""Characters of a report: a dozen pages."""

_RUN = re.compile(r"\S{60,}")
_LONG = re.compile(r"[^.]{440,500}\s")
"""The rules take time in proportion to the square of a sentence's length: 500 characters take a tenth of a second."""


def list_findings(text: str) -> list[str]:
    """Return the findings that a report says are there, for certain or not."""
    sentences = _LONG.sub(r"\g<0>. ", _RUN.sub(" ", text[:MAX_TEXT]))
    return [name for name, said in read_findings(sentences).items() if said.startswith(("positive", "uncertain"))]
