"""Cleaning of report texts: named steps, none of which is applied unless `dataset.clean` names it."""

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from training.datasets.study import DatasetError, Study

DEIDENTIFIED = re.compile(r"\[\*\*.*?\*\*\]|\b[xX]-?XXXX\b|X{3,}|_{2,}|<(?:unk|unused)>")
ENUMERATION = re.compile(r"(?:(?<=^)|(?<=\s))\d{1,2}[.)](?=\s)")


def remove_deidentified(text: str) -> str:
    """Without the marks that de-identification left: `XXXX` and `x-XXXX` (Open-i), `___` and `[** **]` (MIMIC).

    The sentence around a mark stays, with its hole.
    """
    return squeeze(re.sub(r"\s+([.,;:])", r"\1", DEIDENTIFIED.sub(" ", text)))


def remove_enumeration(text: str) -> str:
    """Without the numbers of numbered sentences: `1. No effusion. 2) Stable.` becomes `No effusion. Stable.`."""
    return squeeze(ENUMERATION.sub(" ", text))


def squeeze(text: str) -> str:
    """With one space for every run of white space, and none at the ends."""
    return " ".join(text.split())


STEPS: dict[str, Callable[[str], str]] = {
    "whitespace": squeeze,
    "deidentified": remove_deidentified,
    "enumeration": remove_enumeration,
    "lowercase": str.lower,
}
"""Every step by the name that `dataset.clean` gives."""


_INLINE = re.compile(r"</?(?:b|i|u|em|strong|span|font|sub|sup|a)(?:\s[^<>]*)?>", re.IGNORECASE)
_BLOCK = re.compile(r"</?(?:p|br|div|li|ul|ol|tr|td|table|h[1-6]|pre|body|html)(?:\s[^<>]*)?/?>", re.IGNORECASE)
_PLACE = re.compile(r"<(?:image|img|imagehere|image[-_]?placeholder|image[-_]?\d+)>\s*", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:[a-z]+|#\d+|#x[\da-f]+);", re.IGNORECASE)


def remove_markup(text: str) -> str:
    """A text without the tags and character references of HTML; "<5 mm" and "R&D;" are text.

    `<image>`, with which conversations (LLaVA) say where the image is put, goes too: a system here has its own place.
    """
    text = _BLOCK.sub("\n", _INLINE.sub("", _PLACE.sub("", text)))
    return _ENTITY.sub(lambda found: html.unescape(found[0]).replace("\xa0", " "), text)


_ESCAPED_END = re.compile(r"(?:\\+r)?\\+n(?!(?:u|eq|abla)\b)|\\+r(?=[\s\\A-Z]|\Z)")
_ESCAPED_SPACE = re.compile(r"\\+t(?=[\s\\A-Z\d]|\Z)|_x000[Dd]_")


def remove_escapes(text: str) -> str:
    r"""A text with line ends where a program wrote them as `\n`; `\t` and Excel's `_x000D_` are white space."""
    return _ESCAPED_SPACE.sub(" ", _ESCAPED_END.sub("\n", text)) if "\\" in text or "_x000" in text else text


def has_words(text: str) -> bool:
    """Whether anything but punctuation and marks of de-identification is in a text."""
    return any(character.isalnum() for character in DEIDENTIFIED.sub(" ", text))


def clean_study(study: Study, steps: Sequence[str]) -> Study:
    """The study with every section cleaned by the steps, in their order; sections without words are left out.

    Raises DatasetError for an unknown step.
    """
    unknown = [step for step in steps if step not in STEPS]
    if unknown:
        raise DatasetError(f"dataset.clean has {unknown[0]!r}; allowed: {', '.join(STEPS)}")
    further = tuple(_clean(report, steps) for report in study.further)
    return replace(study, sections=_clean(study.sections, steps), further=further)


def _clean(report: Mapping[str, str], steps: Sequence[str]) -> dict[str, str]:
    sections = dict(report)
    for step in steps:
        sections = {name: STEPS[step](text) for name, text in sections.items()}
    return {name: text for name, text in sections.items() if has_words(text)}
