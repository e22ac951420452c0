"""The sections of a model card that programs write, each between two marks."""

import re
from pathlib import Path

GAP = "**GAP, for the owner to fill:**"
"""Marks in a card what no program can know."""


def write_section(card: Path, name: str, text: str) -> None:
    """Write one section into a model card, which keeps everything else.

    name : of its heading and marks, in lower case
    """
    page = card.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    section = re.compile(f"(?<={re.escape(begin)}).*?(?={re.escape(end)})", re.DOTALL)
    if section.search(page) is None:
        page = f"{page.rstrip()}\n\n## {name.capitalize()}\n\n{begin}{end}\n"
    card.write_text(section.sub(lambda _: text, page), encoding="utf-8")
