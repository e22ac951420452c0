"""A draft report as a Basic Text SR (PS3.3 A.35.1), after TID 2000 Basic Diagnostic Imaging Report."""

from highdicom.sr import ComprehensiveSR, ContainerContentItem, ContentSequence, ImageContentItem, TextContentItem
from highdicom.sr.coding import CodedConcept
from highdicom.sr.templates import LanguageOfContentItemAndDescendants
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage

from bridge.configuration.settings import ReportSettings
from bridge.dicom.identity import DRAFT
from bridge.documents.draft import BANNER, NOTICE, SECTIONS, TITLE, Draft
from bridge.documents.structured_report import COMMENT, ENGLISH, algorithm, observer, write_structured_report

SOURCE = CodedConcept("121080", "DCM", "Best illustration of finding")
BASELINE = CodedConcept("121079", "DCM", "Baseline")
"""PS3.16 CID 7003; the second of an image that others are compared with."""


def write_basic_text(draft: Draft, settings: ReportSettings) -> Dataset:
    """Return the SR document of a draft, ready to be stored.

    The notice is also in the text, because viewers hide the flags.
    """
    # highdicom has no Basic Text SR; this document uses only what that allows (PS3.3 A.35.1.3.1).
    return write_structured_report(
        ComprehensiveSR, _content(draft, settings), draft, settings, DRAFT, sop_class=BasicTextSRStorage
    )


def _content(draft: Draft, settings: ReportSettings) -> ContainerContentItem:
    """Return the content tree."""
    root = ContainerContentItem(TITLE, template_id="2000")
    content = ContentSequence()
    content.extend(LanguageOfContentItemAndDescendants(ENGLISH))
    content.extend(observer(draft, settings))
    content.extend(algorithm(draft, settings))
    content.append(TextContentItem(COMMENT, NOTICE, relationship_type="CONTAINS"))
    for name, text in draft.sections():
        heading, concept = SECTIONS[name]
        item = TextContentItem(concept, BANNER + text, relationship_type="CONTAINS")
        if not draft.withdrawn:
            item.ContentSequence = ContentSequence(
                ImageContentItem(
                    BASELINE if image is draft.prior else SOURCE,
                    image.SOPClassUID,
                    image.SOPInstanceUID,
                    relationship_type="INFERRED FROM",
                )
                for image in draft.evidence_of(name)
            )
        section = ContainerContentItem(heading, relationship_type="CONTAINS")
        section.ContentSequence = ContentSequence([item])
        content.append(section)
    content += [TextContentItem(COMMENT, BANNER + text, relationship_type="CONTAINS") for _, text in draft.remarks()]
    root.ContentSequence = content
    return root
