"""A draft as a measurement report (TID 1500) in a Comprehensive 3D SR, for software: IHE AI Results takes this form.

A report generator measures nothing in the image. The document has one measurement group for the image, with how
probable the text was to the model, and the text itself as qualitative evaluations.
"""

from highdicom.sr import (
    Comprehensive3DSR,
    ContainerContentItem,
    ContentSequence,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from highdicom.sr.coding import CodedConcept
from highdicom.sr.templates import LanguageOfContentItemAndDescendants
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from bridge.configuration.settings import ReportSettings
from bridge.dicom.identity import MEASUREMENTS, document_uid
from bridge.documents.draft import BANNER, NOTICE, SECTIONS, Draft
from bridge.documents.structured_report import COMMENT, ENGLISH, algorithm, observer, write_structured_report

PROCEDURE = CodedConcept("363679005", "SCT", "Imaging procedure")
EVALUATIONS = CodedConcept("C0034375", "UMLS", "Qualitative Evaluations")
LOG_PROBABILITY = CodedConcept("avg_logprob", "99PRELIM", "Mean natural log-probability of a token")
NO_UNITS = CodedConcept("1", "UCUM", "no units")


def write_measurement_report(draft: Draft, settings: ReportSettings) -> Dataset:
    """Return the measurement report of a draft, ready to be stored."""
    (root,) = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer(draft, settings)),
        procedure_reported=PROCEDURE,
        imaging_measurements=[_group(draft, settings)],
        language_of_content_item_and_descendants=LanguageOfContentItemAndDescendants(ENGLISH),
    )
    root.ContentSequence.append(_evaluations(draft))
    return write_structured_report(
        Comprehensive3DSR, root, draft, settings, MEASUREMENTS, sop_class=Comprehensive3DSRStorage
    )


def _group(draft: Draft, settings: ReportSettings) -> MeasurementsAndQualitativeEvaluations:
    """Return the measurement group of the images; a withdrawn draft has read none and measures nothing."""
    if draft.withdrawn:
        return MeasurementsAndQualitativeEvaluations(tracking_identifier=_tracking(draft))
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(draft),
        algorithm_id=algorithm(draft, settings),
        measurements=[Measurement(LOG_PROBABILITY, round(draft.answer["avg_logprob"], 6), NO_UNITS)],
        source_images=[
            SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID) for image in draft.evidence
        ],
    )


def _tracking(draft: Draft) -> TrackingIdentifier:
    return TrackingIdentifier(uid=document_uid(draft.uid, "group"), identifier="unverified draft report")


def _evaluations(draft: Draft) -> ContainerContentItem:
    """Return the texts (TID 1500, rows 12 to 14)."""
    texts = [(COMMENT, NOTICE), *((SECTIONS[name][1], BANNER + text) for name, text in draft.sections())]
    texts += [(COMMENT, BANNER + text) for _, text in draft.remarks()]
    container = ContainerContentItem(EVALUATIONS, relationship_type="CONTAINS")
    container.ContentSequence = ContentSequence(
        TextContentItem(concept, text, relationship_type="CONTAINS") for concept, text in texts
    )
    return container
