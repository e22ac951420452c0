"""Every kind of document of a draft, and which of them a site wants."""

from collections.abc import Callable

from pydicom.dataset import Dataset

from bridge.configuration.settings import ReportSettings
from bridge.dicom.identity import DRAFT, MEASUREMENTS, PDF
from bridge.documents.basic_text import write_basic_text
from bridge.documents.draft import Draft
from bridge.documents.fonts import load_fonts
from bridge.documents.measurements import write_measurement_report
from bridge.documents.pdf import write_pdf

WRITERS: dict[str, Callable[[Draft, ReportSettings], Dataset]] = {
    DRAFT: write_basic_text,
    MEASUREMENTS: write_measurement_report,
    PDF: write_pdf,
}


def chosen_kinds(settings: ReportSettings) -> list[str]:
    """Return the kinds of document that a draft has, the SR first.

    Raises ConfigError if the fonts of the PDF cannot be read.
    """
    if settings.pdf:
        load_fonts(settings.fonts)
    return [DRAFT, *[MEASUREMENTS] * settings.tid1500, *[PDF] * settings.pdf]
