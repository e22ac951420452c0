"""What a DICOM file is a picture of, by all tags that say so together, against what the model takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydicom.uid import UID

from prelim.errors import Refused
from prelim.images.dicom.anatomy import (
    BREAST_VIEWS,
    REGION_OF_CODE,
    REGION_OF_WORD,
    VIEW_OF_CODE,
    VIEW_OF_POSITION,
    VIEW_OF_WORD,
    VIEW_TERMS,
)
from prelim.images.dicom.anatomy_words import find_terms
from prelim.images.dicom.tags import HeaderValues
from prelim.images.dicom.values import Concept, describe_tag, standard_name
from prelim.images.input_config import Accepts, InputConfig

MAMMOGRAPHY = (
    "DigitalMammographyXRayImageStorageForPresentation",
    "DigitalMammographyXRayImageStorageForProcessing",
    "BreastTomosynthesisImageStorage",
    "BreastProjectionXRayImageStorageForPresentation",
    "BreastProjectionXRayImageStorageForProcessing",
)

# How the keyword of a SOP class begins -> the Modality of its images, for images other than general radiographs.
CLASS_MODALITIES = {
    "CTImage": "CT",
    "EnhancedCT": "CT",
    "LegacyConvertedEnhancedCT": "CT",
    "MRImage": "MR",
    "EnhancedMR": "MR",
    "LegacyConvertedEnhancedMR": "MR",
    "Ultrasound": "US",
    "NuclearMedicine": "NM",
    "PositronEmission": "PT",
    "DigitalIntraOral": "IO",
}

# Next to a region, these say from where it is seen: French "THORAX FACE", "CHEST BACK".
DIRECTIONS = ("FACE", "BACK")


@dataclass(frozen=True)
class Evidence:
    """One tag, and the term that it says: a region of the body, or a view."""

    keyword: str
    term: str


def check_subject(values: HeaderValues, config: InputConfig) -> list[str]:
    """Compare what the tags say with what the model takes; return a warning for each thing that no tag says.

    Raises Refused (422) for a contradiction, by name: modality, for_processing, sop_class, body_part, view.
    """
    _check_modality(values, config)
    accepts = config.accepts
    _check_processing(values, accepts)
    warnings = _check_sop_class(values, accepts)
    if accepts.body_parts is not None:
        accepted = {REGION_OF_WORD.get(part, part) for part in accepts.body_parts}
        evidence = find_regions(values)
        wrong = next((found for found in evidence if found.term not in accepted), None)
        if wrong is not None:
            raise _contradiction("body_part", wrong, accepts.body_parts, "body_parts")
        if not evidence:
            warnings.append(_unknown("body_part", ("BodyPartExamined", "AnatomicRegionSequence"), accepts.body_parts))
    if accepts.views is not None:
        views = find_views(values)
        wrong = next((found for found in views if not VIEW_TERMS[found.term] & _view_terms(accepts.views)), None)
        if wrong is not None:
            raise _contradiction("view", wrong, accepts.views, "views")
        if not views:
            warnings.append(_unknown("view", ("ViewPosition", "ViewCodeSequence"), accepts.views))
    return warnings


def find_regions(values: HeaderValues) -> list[Evidence]:
    """The regions of the body that the tags name; words and codes that are not known say nothing."""
    label = values.body_part or ()
    terms = find_terms([word for word in label if word not in DIRECTIONS], REGION_OF_WORD)
    found = [Evidence("BodyPartExamined", term) for term in terms or find_terms(label, REGION_OF_WORD)]
    regions = _coded_terms(values.regions, REGION_OF_CODE, REGION_OF_WORD)
    found += [Evidence("AnatomicRegionSequence", term) for term in regions]
    if values.sop_class is not None and UID(values.sop_class).keyword in MAMMOGRAPHY:
        found.append(Evidence("SOPClassUID", "BREAST"))
    # Some mammograms are stored as computed radiography that names no body part.
    return found + [Evidence(view.keyword, "BREAST") for view in find_views(values) if view.term in BREAST_VIEWS]


def find_views(values: HeaderValues) -> list[Evidence]:
    """The views that the tags name; some stations write them next to the body part ("CHEST LAT")."""
    found = [Evidence("ViewPosition", term) for term in find_terms(values.view_position or (), VIEW_OF_POSITION)]
    views = _coded_terms(values.view_codes, VIEW_OF_CODE, VIEW_OF_POSITION)
    found += [Evidence("ViewCodeSequence", term) for term in views]
    label = find_terms(values.body_part or (), VIEW_OF_WORD)
    if found and len(set(label)) > 1:
        # "CHEST PA/LAT" is the name of the study.
        return found
    return found + [Evidence("BodyPartExamined", term) for term in label]


def _coded_terms(concepts: Iterable[Concept] | None, codes: Mapping[str, str], words: Mapping[str, str]) -> list[str]:
    """The terms of coded concepts: by the code, else by what the file says that it means."""
    terms = []
    for concept in concepts or ():
        term = codes.get(concept.code or "")
        terms += find_terms(concept.words, words) if term is None else [term]
    return terms


def _view_terms(accepted: tuple[str, ...]) -> frozenset[str]:
    return frozenset().union(*(VIEW_TERMS.get(VIEW_OF_WORD.get(view, view), {view}) for view in accepted))


def _check_modality(values: HeaderValues, config: InputConfig) -> None:
    if values.modality not in config.modalities:
        found = f"'{values.modality}'" if values.modality else "absent"
        raise Refused(
            f"modality: {describe_tag('Modality')} is {found}; this model reads {', '.join(config.modalities)}; "
            "set input.modalities in model.yaml if it was trained on more"
        )
    keyword = UID(values.sop_class or "").keyword
    by_class = next((code for start, code in CLASS_MODALITIES.items() if keyword.startswith(start)), None)
    if by_class is not None and by_class not in config.modalities:
        raise Refused(
            f"modality: {describe_tag('SOPClassUID')} is {standard_name(values.sop_class or '')}; this model reads "
            f"{', '.join(config.modalities)}; send a radiograph"
        )


def _check_processing(values: HeaderValues, accepts: Accepts) -> None:
    """Refuse raw detector data, which no window makes a picture of (PS3.3 C.8.11.1)."""
    keyword = UID(values.sop_class or "").keyword
    by_class = keyword.endswith("ForProcessing")
    if accepts.sop_classes is not None and any(name.endswith("ForProcessing") for name in accepts.sop_classes):
        return
    if by_class or "".join(values.presentation_intent or ()) == "FORPROCESSING":
        tag = "SOPClassUID" if by_class else "PresentationIntentType"
        raise Refused(
            f"for_processing: {describe_tag(tag)} says FOR PROCESSING; allowed: FOR PRESENTATION; send that image"
        )


def _check_sop_class(values: HeaderValues, accepts: Accepts) -> list[str]:
    if accepts.sop_classes is None:
        return []
    if values.sop_class is None:
        return [_unknown("sop_class", ("SOPClassUID",), accepts.sop_classes)]
    if UID(values.sop_class).keyword not in accepts.sop_classes:
        raise Refused(
            f"sop_class: {describe_tag('SOPClassUID')} is {standard_name(values.sop_class)}; this model reads "
            f"{', '.join(accepts.sop_classes)}; send a radiograph, or set input.accepts.sop_classes in model.yaml"
        )
    return []


def _contradiction(name: str, found: Evidence, accepted: tuple[str, ...], setting: str) -> Refused:
    return Refused(
        f"{name}: {describe_tag(found.keyword)} says '{found.term}'; this model reads {', '.join(accepted)}; "
        f"send such an image, or set input.accepts.{setting} in model.yaml"
    )


def _unknown(name: str, keywords: tuple[str, ...], accepted: tuple[str, ...]) -> str:
    verb = "does" if len(keywords) == 1 else "do"
    tags = " and ".join(map(describe_tag, keywords))
    return f"{name}_unknown: {tags} {verb} not tell; this model reads {', '.join(accepted)}"
