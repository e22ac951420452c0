"""Free text of a report -> its sections, by headings such as `FINDINGS:`.

A report is read as a chain of headings. The grammar, of which tests/training/datasets/test_sections.py is the table:

    heading     = known name (training.datasets.headings), then a colon, a bracket, a dash, the end of the line or a$
                  gap; Markdown around it is dropped
    title       = line that names the examination only (date and time included): what follows it describes the image
    anatomy     = `LUNGS:` outside findings: opens the description, or continues the findings, and is text
    closing     = signature or notice: nothing after it is about the image
    other       = any other line that begins with capitals and a colon: a section of its own name, or, inside findings
                  and impression, and after an anatomy, text
    aside       = comparison, technique or examination inside findings, inside a line of the impression, or in a field:
                  its first sentence or line, after which the text continues
    field       = text of a data set that is findings or impression by its key: `REPORT:` does not open a section in it,
                  nor does `DIAGNOSIS:` where it begins or is an impression
    summing up  = `SUMMARY:` or `DIAGNOSIS:` after findings, where there is no impression: the impression
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from training.datasets import headings
from training.datasets.headings import CLOSING, DESCRIPTION, DIFFERENTIAL, TARGETS

PREAMBLE = "preamble"

_HEADER = ("indication", "comparison", "technique", "examination")
"""Sections that come before the findings: a later paragraph of the last of them may be the findings themselves."""

_ASIDE = ("comparison", "technique", "examination")
"""Sections that may be a line or a sentence among the findings."""

_SUMMING_UP = ("summary", "diagnosis")

_AFTER = (
    "recommendation", "notification", *_SUMMING_UP, DIFFERENTIAL, "accession number", "wet read", "addendum", CLOSING,
)  # fmt: skip
"""Sections in which nothing but a known heading opens another."""

_WEAK = ("technique", "examination", *_SUMMING_UP, DIFFERENTIAL, CLOSING, DESCRIPTION)
"""Sections whose headings are common words: they need a colon, or a line of their own."""

_WORDS = re.compile(r"[^\W\d_]{2,}[ \t,'\n/-]+[^\W\d_]{2,}|[^\W\d_a-z]{4,}")
_SENTENCE = re.compile(r"(?:[^\W\d_]+[ \t,'\n/-]+){2,}[^\W\d_]*[^\W\d_A-Z]")
_CODE = re.compile(r"\s*\d+[ \t]*(?:-[ \t]*[A-Z]{2}|\n|\Z)")
"""CheXpert's summaries are codes: `2-ABNORMAL`; `1. Normal` is none."""

_SENTENCE_END = (
    r"(?<!\bDr)(?<!\bvs)(?<!\b[ap]\.m)[.;](?=\s+(?:\D|\d{1,2}[.)]\s))|(?<=\b[ap]\.m)\.(?=\s+[A-Z])|[。；](?=\s*\S)"
)
_NEW_LINE = r"\n[ \t]*\n|\n(?=[ \t]*[A-Z*•-])"
_ASIDE_END = re.compile(rf"{_SENTENCE_END}|{_NEW_LINE}")
_LINE_END = re.compile(rf"[.;][ \t]*\n|{_NEW_LINE}")
"""Where an aside ends, and where a reason does, which may have several sentences."""

_PARAGRAPH_END = re.compile(r"\n[ \t]*\n")
_SPLIT = re.compile(r"(?<=[.;。；])\s*|\n")

_RULE = re.compile(r"^[ \t]*[_=*-]{5,}[ \t]*$", re.MULTILINE)


class _Mark(NamedTuple):
    """A heading: where it begins, where the text of its section begins, and the section.

    firm : whether it makes a report of a text: a caption such as "CT of the chest: a mass" has no headings
    """

    start: int
    end: int
    name: str
    firm: bool = True


def split_sections(text: str, name: str = PREAMBLE) -> dict[str, str]:
    """The sections of a report, in their order.

    name : of the section that the text begins with

    A text without headings is `report` (or `name`). Findings without a heading are taken from what follows the name of
    the examination, or from what follows the first sentence or paragraph of the last heading before them. Two sections
    of one name are joined by a line end. Line breaks inside a section are kept.
    """
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    marks = list(_find_marks(text, name))
    whole = {"report" if name == PREAMBLE else name: text.strip()} if text.strip() else {}
    if not any(mark.firm for mark in marks):
        return whole
    sections = {name: _strip(text[: marks[0].start])}
    ends = [mark.start for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=True):
        body = _strip(text[mark.end : end])
        sections[mark.name] = "\n".join(filter(None, (sections.get(mark.name), body)))
    if name in (PREAMBLE, "findings") and not sections.get("findings"):
        sections = _find_findings(sections, [mark.name for mark in marks])
    return _name_impression({name: body for name, body in sections.items() if body}) or whole


def _name_impression(sections: dict[str, str]) -> dict[str, str]:
    """The sections with what sums up the findings as `impression`, if there is no other."""
    names = list(sections)
    after = names[names.index("findings") + 1 :] if "findings" in names and "impression" not in names else []
    found = next((name for name in after if name in ("summary", "diagnosis") and not _CODE.match(sections[name])), "")
    return {"impression" if name == found else name: body for name, body in sections.items()}


def _strip(body: str) -> str:
    """Without white space and ruled lines at its ends."""
    return _RULE.sub("", body).strip()


def _find_marks(text: str, name: str) -> Iterator[_Mark]:
    """The headings of a text that begins in section `name`."""
    folded = headings.fold(text)
    kinds = (headings.CLOSERS, headings.AT_LINE, headings.INSIDE, headings.ANATOMY, headings.TITLE, headings.OTHER)
    found = sorted(
        ((match.start(), rank, match) for rank, kind in enumerate(kinds) for match in kind.finditer(folded)),
        key=lambda entry: entry[:2],
    )
    field = name if name in TARGETS else ""
    last, seen = 0, {name}
    body, resumed = False, None  # whether parts of the body are headings; where an aside ends
    for start, rank, match in found:
        if start < last:
            continue
        if resumed and start >= resumed.start:
            yield resumed
            name, resumed = resumed.name, None
        if rank == 0:
            mark: _Mark | None = _Mark(start, match.end(), CLOSING)
        elif rank <= 2:
            mark = _read_known(text, match, at_line=rank == 1)
            mark = mark and _rename(text, mark, match["name"], name, field)
        else:
            inside = (*TARGETS, *_AFTER, *([DESCRIPTION] if body and rank == 5 else []))
            mark = None if name in inside else _read_other(text, match, kinds[rank])
            body = body or (mark is not None and rank == 3)
            if mark and rank == 3 and "findings" in seen:
                mark = mark._replace(name="findings")  # `HEART:` after a `COMPARISON:` among the findings
            if mark and rank == 4 and name in _HEADER and not text[last:start].strip():
                mark = None  # `COMPARISON:` and, on the next line, the name of an earlier examination
        if mark:
            within = resumed.name if resumed else name  # two asides in a row
            going_on = within in ("findings", field) or (body and within == DESCRIPTION)
            going_on = going_on or (within == "impression" and rank == 2)
            resumed = _resume(text, mark, within) if going_on and mark.name in _ASIDE else None
            name, last = mark.name, max(mark.end, start + 1)
            seen.add(name)
            yield mark
    if resumed:
        yield resumed


def _rename(text: str, mark: _Mark, written: str, name: str, field: str) -> _Mark | None:
    """The mark as it is read inside section `name` and, if the text is a field, in that; None where it is text."""
    begins = not text[: mark.start].strip()
    if name == mark.name == "findings" and not begins and headings.QUALIFIED.fullmatch(written):
        return None
    if name == "impression" and mark.name == DIFFERENTIAL:
        return None
    own = mark.name in _SUMMING_UP and (field == "impression" or begins) and not _CODE.match(text, mark.end)
    return mark._replace(name=field) if field and (own or mark.name == DESCRIPTION) else mark


def _resume(text: str, aside: _Mark, name: str) -> _Mark | None:
    """Where section `name` continues after an aside; None where nothing follows."""
    begin = aside.end + len(text[aside.end :]) - len(text[aside.end :].lstrip())
    found = _ASIDE_END.search(text, begin)
    return _Mark(found.end(), found.end(), name) if found else None


def _read_known(text: str, match: re.Match[str], at_line: bool) -> _Mark | None:
    """The mark of a known name, if it is written as a heading."""
    start, end = match.span("name")
    written, kind, opened = text[start:end], match.lastgroup, match["opened"].strip()
    section = headings.name_section(match["name"])
    if headings.MODIFIED.search(text[max(0, start - 20) : start]):
        return None
    capitals = written == written.upper()
    initial = capitals or written[0].isupper()
    begins = bool(opened) or _begins_sentence(text, match.start(), at_line)
    if kind == "bracket":
        heading = any(bracket in opened for bracket in "[(<{")
    elif kind == "colon":
        heading = begins if at_line and not initial else at_line or capitals or (initial and begins)
        heading = heading or (initial and section in TARGETS)
    elif kind in ("dash", "end"):
        heading = (initial or bool(opened)) and begins and (at_line or (capitals and section in TARGETS))
    else:
        heading = capitals and begins and section not in _WEAK and (at_line or section in TARGETS)
    return _Mark(match.start(), match.end(), section) if heading else None


def _begins_sentence(text: str, start: int, at_line: bool) -> bool:
    """Whether a sentence begins here: what is before it is finished. Most lines that are finished are not full."""
    before = text[:start].rstrip(" \t")
    if at_line and before.endswith("\n"):
        line = before.rstrip("\n").rpartition("\n")[2]
        return before.endswith("\n\n") or not line.isupper() or line.rstrip().endswith(tuple(".:;!?*_"))
    return not before or before.rstrip().endswith(tuple(".:;!?。；)]*"))


def _read_other(text: str, match: re.Match[str], kind: re.Pattern[str]) -> _Mark | None:
    """The mark of a title, of a part of the body, or of a heading in capitals that is not known."""
    written = " ".join(text[slice(*match.span("name"))].split())
    capitals = written == written.upper()
    if kind is headings.ANATOMY:
        return _Mark(match.start(), match.start(), DESCRIPTION)
    if kind is headings.TITLE:
        if not headings.EXAMINATION.search(match["name"]):
            return None
        alone = text[match.end() : match.end() + 1] in ("", "\n")
        return _Mark(match.start(), match.end(), DESCRIPTION, firm=capitals or alone)
    if not capitals:
        return None
    if headings.EXAMINATION.search(match["name"]):
        return _Mark(match.start(), match.end(), DESCRIPTION)
    return _Mark(match.start(), match.end(), written.lower(), firm=False)


def _find_findings(sections: dict[str, str], names: list[str]) -> dict[str, str]:
    """The sections with the findings that have no heading of their own, if there are any."""
    if _WORDS.search(sections.get(DESCRIPTION, "")):
        return {"findings" if name == DESCRIPTION else name: body for name, body in sections.items()}
    before = names[: names.index("impression")] if "impression" in names else names
    for last in reversed(before):
        if last not in _HEADER and last in headings.NAMES:
            continue
        for first, rest in _divide(sections.get(last, ""), last, "impression" in names):
            return {**sections, last: first, "findings": rest}
        if last in _HEADER:
            break
    if names[0] not in _HEADER and _SENTENCE.search(sections.get(PREAMBLE, "")):
        return {"findings" if name == PREAMBLE else name: body for name, body in sections.items()}
    return sections


def _divide(body: str, name: str, impression: bool) -> Iterator[tuple[str, str]]:
    """The ways to divide section `name` into what its heading announces and the findings, the best first."""
    reason = name == "indication"
    paragraphs = _PARAGRAPH_END.search(body)
    for end in (paragraphs if reason else None, (_LINE_END if reason else _ASIDE_END).search(body)):
        if end and any(headings.DESCRIBED.match(part) for part in _SPLIT.split(headings.fold(body[end.end() :]))):
            yield body[: end.end()].strip(), body[end.end() :].strip()
    if paragraphs and name in _HEADER and not (reason and impression) and _WORDS.search(body, paragraphs.end()):
        yield body[: paragraphs.start()].strip(), body[paragraphs.end() :].strip()
