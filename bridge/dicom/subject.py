"""What a radiograph is of, by its tags: the body part and the view."""

from pydicom.dataset import Dataset

from bridge.dicom.anatomy_words import (
    CHEST_CODES,
    CHEST_WORDS,
    FRONTAL_CODES,
    FRONTAL_WORDS,
    LATERAL_CODES,
    LATERAL_WORDS,
    REGION_CODES,
    REGION_WORDS,
    VIEW_CODES,
    VIEW_WORDS,
    split_words,
)

CHEST, UNNAMED_PART, OTHER_PART = range(3)
"""Places of a body part, the best first."""
PA, FRONTAL, UNNAMED_VIEW = range(3)
"""Places of the view of a frontal image."""

RAW = "FOR PROCESSING"
"""Presentation Intent Type of detector data."""


def rank_frontal(image: Dataset) -> tuple[int, int] | None:
    """Return the places of body part and view, or None for an image that is not read as a frontal one."""
    if image.get("PresentationIntentType") == RAW:
        return None
    views, codes = _views(image)
    if views - FRONTAL_WORDS or codes - FRONTAL_CODES:
        return None
    if not views and not codes:
        return _body_part(image), UNNAMED_VIEW
    return _body_part(image), PA if "PA" in views else FRONTAL


def is_lateral(image: Dataset) -> bool:
    """Whether the tags name a lateral view and no other one, and no other body part than the chest."""
    views, codes = _views(image)
    named = bool(views or codes) and views <= LATERAL_WORDS and codes <= LATERAL_CODES
    return named and image.get("PresentationIntentType") != RAW and _body_part(image) != OTHER_PART


def is_as_certain(prior: Dataset, image: Dataset) -> bool:
    """Whether an image is of the chest and frontal, as certainly as another that is to be compared with it.

    An image without such tags can be anything; the server decides it for the image to report, nobody for a prior.
    """
    found, given = rank_frontal(prior), rank_frontal(image)
    if found is None or given is None or OTHER_PART in (found[0], given[0]):
        return False
    return found[0] <= given[0] and found[1] <= max(given[1], FRONTAL)


def codes_of(image: Dataset, keyword: str) -> set[str]:
    """Return the code values of a sequence."""
    return {str(item.get("CodeValue", "")) for item in image.get(keyword) or ()}


def _words(image: Dataset) -> set[str]:
    # Some stations write the view next to the body part ("CHEST LAT").
    return set(split_words(f"{image.get('ViewPosition', '')} {image.get('BodyPartExamined', '')}"))


def _views(image: Dataset) -> tuple[set[str], set[str]]:
    """Return the words and the codes of views."""
    return _words(image) & VIEW_WORDS, codes_of(image, "ViewCodeSequence") & VIEW_CODES


def _body_part(image: Dataset) -> int:
    regions = (_words(image) & REGION_WORDS) | (codes_of(image, "AnatomicRegionSequence") & REGION_CODES)
    if not regions:
        return UNNAMED_PART
    return CHEST if regions & (CHEST_WORDS | CHEST_CODES) else OTHER_PART
