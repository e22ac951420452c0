"""Free text of a report -> its sections, by headings such as `FINDINGS:`."""

import re
from collections.abc import Iterator

NAMES = {
    "findings": (
        "FINDINGS",
        "FINDING",
        "FINDINGS AND IMPRESSION",
        "FINDINGS AND IMPRESSIONS",
        "FINDINGS & IMPRESSION",
        "FINDINGS/IMPRESSION",
    ),
    "impression": ("IMPRESSION", "IMPRESSIONS", "CONCLUSION", "CONCLUSIONS", "INTERPRETATION", "OPINION"),
    "indication": (
        "INDICATION",
        "INDICATIONS",
        "HISTORY",
        "CLINICAL HISTORY",
        "CLINICAL INDICATION",
        "CLINICAL INFORMATION",
        "REASON FOR EXAM",
        "REASON FOR EXAMINATION",
        "REASON FOR THIS EXAMINATION",
    ),
    "comparison": ("COMPARISON", "COMPARISONS", "COMPARISON STUDY"),
    "technique": ("TECHNIQUE", "PROCEDURE", "VIEWS"),
    "examination": ("EXAMINATION", "EXAM", "STUDY", "TYPE OF EXAMINATION"),
    "recommendation": ("RECOMMENDATION", "RECOMMENDATIONS"),
    "notification": ("NOTIFICATION", "COMMUNICATION"),
    "wet read": ("WET READ",),
    "addendum": ("ADDENDUM",),
    "accession number": ("ACCESSION NUMBER", "ACCESSION"),
}
"""Headings by the name of their section, in any case."""

SECTION_OF = {heading: name for name, headings in NAMES.items() for heading in headings}

_LINE = re.compile(r"^[ \t]*([A-Za-z][A-Za-z0-9 ,/&()'-]{1,60}):", re.MULTILINE)
_INSIDE = re.compile(rf"(?<!\S)({'|'.join(sorted(map(re.escape, SECTION_OF), key=len, reverse=True))}):")
"""Inside a line only known headings in capitals count: texts that lost their line ends have them."""

_EXAMINATION = re.compile(r"\b(?:CHEST|VIEWS?|RADIOGRAPHS?|FILMS?|PORTABLE|X-?RAYS?)\b")
"""Headings that name the examination, such as `PA AND LATERAL VIEWS, CHEST`: findings follow them."""

DESCRIPTION = "description"


def split_sections(text: str) -> dict[str, str]:
    """The sections of a report, in their order.

    A text without headings is `report`; what comes before the first heading is `preamble`. Headings in capitals that
    are not known open a section of their own name, but inside findings or impression they are part of the text
    (`FINDINGS: LUNGS: clear`). What follows the name of the examination is `findings` if nothing else is. Two sections
    of one name are joined by a line end. Line breaks inside a section stay.
    """
    marks = list(_find_headings(text))
    if not marks:
        return {"report": text.strip()} if text.strip() else {}
    sections = {"preamble": text[: marks[0][0]].strip()}
    ends = [start for start, _, _ in marks[1:]] + [len(text)]
    for (_, begin, name), end in zip(marks, ends, strict=True):
        sections[name] = "\n".join(filter(None, (sections.get(name), text[begin:end].strip())))
    sections = {name: body for name, body in sections.items() if body}
    if "findings" not in sections and DESCRIPTION in sections:
        sections = {"findings" if name == DESCRIPTION else name: body for name, body in sections.items()}
    return sections


def _find_headings(text: str) -> Iterator[tuple[int, int, str]]:
    """Start and end of every heading, and the name of its section."""
    at_lines = [(match, True) for match in _LINE.finditer(text)]
    matches = sorted([*at_lines, *((match, False) for match in _INSIDE.finditer(text))], key=lambda m: m[0].start(1))
    name, last = "", 0
    for match, at_line in matches:
        if match.start(1) < last:
            continue
        found = _name_section(match[1], name) if at_line else SECTION_OF[match[1]]
        if found:
            name, last = found, match.end()
            yield match.start(1), last, found


def _name_section(heading: str, current: str) -> str | None:
    """The name of the section that a line's heading opens inside another; None if it opens none."""
    plain = " ".join(heading.split())
    known = SECTION_OF.get(plain.upper())
    if known or plain != plain.upper():
        return known
    if current in ("findings", "impression"):
        return None
    return DESCRIPTION if _EXAMINATION.search(plain) else plain.lower()
