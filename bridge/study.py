"""One state of a study: its radiographs, whose they are, and the drafts of this bridge that are already in it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation

from bridge.anatomy_words import FRONTAL_CODES, FRONTAL_WORDS, VIEW_CODES, VIEW_WORDS, split_words
from bridge.identity import DRAFT, KINDS, SiteKey, series_uid

RADIOGRAPHS = (ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation)

PATIENT = ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex")
STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")
"""What a draft repeats of its study. A change of any of it makes the draft stale."""

MAX_CANDIDATES = 4
"""The server may refuse an image that says nothing of its view; this many are tried."""


@dataclass(frozen=True)
class Study:
    """What the archive has of a study.

    images : headers of its radiographs, without pixels
    drafts : SOP Instance UID of every draft in it -> UID of the draft that it replaces, or ""
    companions : SOP Instance UIDs of the other documents of drafts in it
    """

    uid: str
    images: tuple[Dataset, ...]
    drafts: Mapping[str, str]
    companions: frozenset[str] = frozenset()

    @classmethod
    def of(cls, uid: str, headers: Iterable[Dataset]) -> "Study":
        """Sort the headers of a study's instances; those that are neither radiographs nor drafts are left out."""
        images, drafts, companions = [], {}, []
        ours, others = series_uid(uid), {series_uid(uid, kind) for kind in KINDS if kind != DRAFT}
        for header in headers:
            if header.get("SeriesInstanceUID") == ours:
                drafts[str(header.SOPInstanceUID)] = _replaced_by(header)
            elif header.get("SeriesInstanceUID") in others:
                companions.append(str(header.SOPInstanceUID))
            elif header.get("SOPClassUID") in RADIOGRAPHS:
                images.append(header)
        images.sort(key=lambda header: str(header.SOPInstanceUID))
        return cls(uid, tuple(images), drafts, frozenset(companions))

    def fingerprint(self, key: SiteKey) -> str:
        """Return what changes with the radiographs and the identity, and with nothing else: not with our own drafts.

        Images can differ in identity while a PACS corrects them one after the other; every one of them counts.
        """
        parts = [str(image.SOPInstanceUID) for image in self.images]
        identities = [
            tuple(f"{keyword}={image.get(keyword, '')}" for keyword in (*PATIENT, *STUDY)) for image in self.images
        ]
        for identity in dict.fromkeys(identities):
            parts += identity
        return key.fingerprint(parts)

    def candidates(self) -> list[Dataset]:
        """Return the images to read, best first: frontal by their tags, then those that say nothing of their view.

        Laterals, oblique views and other projections are left out. Of several frontal images PA comes before AP, and
        later ones first, which are usually the repeats of rejected ones.
        """
        ranked = [(rank, image) for image in self.images if (rank := _rank(image)) is not None]
        ranked.sort(key=lambda pair: _taken_at(pair[1]), reverse=True)
        ranked.sort(key=lambda pair: pair[0])
        return [image for _, image in ranked[:MAX_CANDIDATES]]


def head_of(drafts: Mapping[str, str]) -> str:
    """Return the draft that no other replaces, or "" if there is none."""
    replaced = set(drafts.values())
    heads = sorted(draft for draft in drafts if draft not in replaced)
    return heads[-1] if heads else ""


def _replaced_by(header: Dataset) -> str:
    """Return the SOP Instance UID that the header's Predecessor Documents Sequence names, or ""."""
    for study in header.get("PredecessorDocumentsSequence") or ():
        for series in study.get("ReferencedSeriesSequence") or ():
            for document in series.get("ReferencedSOPSequence") or ():
                return str(document.get("ReferencedSOPInstanceUID", ""))
    return ""


def _rank(image: Dataset) -> int | None:
    """Return 0 for PA, 1 for other frontal images, 2 for unknown views, None for the rest."""
    if image.get("PresentationIntentType") == "FOR PROCESSING":
        return None
    # Some stations write the view next to the body part ("CHEST LAT").
    words = set(split_words(f"{image.get('ViewPosition', '')} {image.get('BodyPartExamined', '')}")) & VIEW_WORDS
    codes = {str(item.get("CodeValue", "")) for item in image.get("ViewCodeSequence") or ()} & VIEW_CODES
    if words - FRONTAL_WORDS or codes - FRONTAL_CODES:
        return None
    if not words and not codes:
        return 2
    return 0 if "PA" in words else 1


def _taken_at(image: Dataset) -> tuple[str, str, str]:
    date = image.get("AcquisitionDate") or image.get("ContentDate") or ""
    time = image.get("AcquisitionTime") or image.get("ContentTime") or ""
    return str(date), str(time), str(image.SOPInstanceUID)
