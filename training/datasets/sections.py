"""Free text of a report -> its sections, by headings in capitals: `FINDINGS: ...`."""

import re

HEADING = re.compile(r"^[ \t]*([A-Z][A-Z /&()]{2,50}):", re.MULTILINE)

NAMES = {
    "findings": ("FINDINGS", "FINDING"),
    "impression": ("IMPRESSION", "IMPRESSIONS", "CONCLUSION", "CONCLUSIONS"),
    "indication": (
        "INDICATION",
        "INDICATIONS",
        "HISTORY",
        "CLINICAL HISTORY",
        "CLINICAL INFORMATION",
        "REASON FOR EXAM",
    ),
    "comparison": ("COMPARISON", "COMPARISONS"),
    "technique": ("TECHNIQUE",),
}
"""What headings are called, by the name of the section; any other heading is its own name in lower case."""

SECTION_OF = {heading: name for name, headings in NAMES.items() for heading in headings}


def split_sections(text: str) -> dict[str, str]:
    """The sections of a report, in their order; what stands before the first heading is `report`.

    Two sections of one name are joined by a line end. Line breaks inside a section stay.
    """
    parts = HEADING.split(text)
    sections: dict[str, str] = {"report": parts[0].strip()}
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        heading = " ".join(heading.split())  # noqa: PLW2901
        name = SECTION_OF.get(heading, heading.lower())
        sections[name] = "\n".join(filter(None, (sections.get(name), body.strip())))
    return {name: body for name, body in sections.items() if body}
