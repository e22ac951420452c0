"""The printed pages of a draft."""

import re
import threading
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate, Spacer

from bridge.configuration.settings import ReportSettings
from bridge.documents.context import model_name
from bridge.documents.draft import NOTICE, SECTIONS, Draft, plain
from bridge.documents.fonts import load_fonts, mark_up

BODY = ParagraphStyle("body", fontSize=11, leading=15, spaceAfter=2 * mm)
LINE = ParagraphStyle("text", BODY, spaceAfter=0)
HEADING = ParagraphStyle("heading", BODY, fontSize=12.5, spaceBefore=3 * mm)
SMALL = ParagraphStyle("small", BODY, fontSize=8.5, leading=11.5, spaceAfter=0)
WARNING = ParagraphStyle(
    "warning", BODY, borderColor=colors.firebrick, borderWidth=1.2, borderPadding=5, spaceAfter=6 * mm
)
FOOTER = "UNVERIFIED DRAFT, NOT A DIAGNOSIS"
SHOWN = {
    "Patient": "PatientName",
    "Patient ID": "PatientID",
    "Born": "PatientBirthDate",
    "Sex": "PatientSex",
    "Accession number": "AccessionNumber",
    "Study date": "StudyDate",
}

BLANK_LINES = re.compile(r"\n\s*\n")

_lock = threading.Lock()
"""reportlab keeps the glyphs in use in its global fonts."""


def print_pages(draft: Draft, header: Dataset, settings: ReportSettings) -> bytes:
    """Return a PDF with the notice, patient and study, the sections, and the model with its warnings.

    header : patient and study, of `identify`
    """
    with _lock:
        fonts = load_fonts(settings.fonts)

        def paragraph(text: str, style: ParagraphStyle) -> Paragraph:
            # Only this wrapping breaks lines where there are no spaces.
            asian = any(ord(character) >= 0x2E80 for character in text)
            return Paragraph(mark_up(text, fonts), ParagraphStyle("line", style, wordWrap="CJK" if asian else None))

        def lines(text: str) -> list[Flowable]:
            # One paragraph for each line: reportlab copies what is left of a paragraph on every page that it fills.
            # A blank line is a space, and several are one.
            found = BLANK_LINES.sub("\n\n", text).split("\n")
            return [paragraph(line, LINE) if line.strip() else Spacer(0, LINE.leading) for line in found]

        story: list[Flowable] = [paragraph(NOTICE, WARNING)]
        story += [paragraph(f"{label}: {_show(header, keyword)}", BODY) for label, keyword in SHOWN.items()]
        if draft.replaces:
            story.append(paragraph(f"Version {draft.place}; replaces the earlier draft of this study.", BODY))
        for name, text in draft.sections():
            story += [paragraph(SECTIONS[name][0].meaning, HEADING), *lines(text), Spacer(0, BODY.spaceAfter)]
        for heading, text in draft.remarks():
            story += [paragraph(heading, HEADING), *lines(text), Spacer(0, BODY.spaceAfter)]
        story.append(Spacer(0, 5 * mm))
        story += [paragraph(line, SMALL) for line in _origin(draft)]
        file = BytesIO()
        template = SimpleDocTemplate(
            file, pagesize=A4, title=settings.series_description, author=settings.manufacturer, invariant=1
        )

        def footer(canvas: Any, _: object) -> None:
            canvas.setFont(fonts[0].fontName, 8.5)
            canvas.drawString(25 * mm, 12 * mm, f"{FOOTER}    page {canvas.getPageNumber()}")

        template.build(story, onFirstPage=footer, onLaterPages=footer)
    return file.getvalue()


def _origin(draft: Draft) -> list[str]:
    """Return what the text comes from."""
    warnings = [f"Warning: {' '.join(plain(warning).split())}" for warning in draft.answer["warnings"]]
    images = [
        f"{'Earlier image' if image is draft.prior else 'Image'} {image.SOPInstanceUID}" for image in draft.evidence
    ]
    model = f"Model {model_name(draft)}, use: {draft.use}, sha256 {draft.answer['model']['sha256']}"
    return [model, *warnings, *images]


def _show(header: Dataset, keyword: str) -> str:
    """Return a value as it is printed: the groups of a name next to each other, a date with hyphens."""
    text = str(header.get(keyword) or "")
    if keyword == "PatientName":
        groups = [" ".join(group.replace("^", " ").split()) for group in text.split("=")]
        first, *others = [group for group in groups if group] or [""]
        text = first + (f" ({', '.join(others)})" if others else "")
    elif keyword.endswith("Date") and len(text) == 8:
        text = f"{text[:4]}-{text[4:6]}-{text[6:]}"
    return text or "not given"
