"""One state of a study: its radiographs, whose they are, and the drafts of this bridge that are already in it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import (
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
)

from bridge.dicom.identity import DRAFT, KINDS, SiteKey, device_uid, series_uid
from bridge.dicom.subject import RAW, codes_of, is_lateral, rank_frontal

RADIOGRAPHS = (ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation)
RAW_RADIOGRAPH = DigitalXRayImageStorageForProcessing
"""Detector data before processing."""

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
PATIENT = ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex")
STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")
"""What a draft repeats of its study. A change of any of it makes the draft stale."""

PICTURE = ("SOPInstanceUID", "SOPClassUID", "ViewPosition", "BodyPartExamined", "PresentationIntentType")
PICTURE_CODES = ("ViewCodeSequence", "AnatomicRegionSequence")
"""What decides whether an image is read. A change of any of it makes the draft stale too."""

SHA256 = re.compile(r"[0-9a-f]{64}")

MAX_CANDIDATES = 4
"""The server may refuse an image that says nothing of its view; this many are tried."""


@dataclass(frozen=True)
class StudyState:
    """What the archive has of a study.

    images     : headers of its radiographs, without pixels
    own        : SOP Instance UID of every draft in it -> its header
    companions : SOP Instance UID of every other document of a draft in it -> its header
    others     : SOP classes of what else is in it, such as key objects, presentation states, reports, videos
    """

    uid: str
    images: tuple[Dataset, ...]
    own: Mapping[str, Dataset]
    companions: Mapping[str, Dataset] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    @classmethod
    def of(cls, uid: str, headers: Iterable[Dataset]) -> "StudyState":
        """Sort the headers of a study's instances. One without UIDs, which nobody could fetch, is not an image."""
        images, own, companions, others = [], {}, {}, []
        series = {series_uid(uid, kind) for kind in KINDS if kind != DRAFT}
        for header in headers:
            # Of a damaged file an element can have several values.
            known = all(isinstance(header.get(keyword), str) and header.get(keyword) for keyword in UIDS)
            if known and _is_draft(header):
                own[str(header.SOPInstanceUID)] = header
            elif known and header.SeriesInstanceUID in series:
                companions[str(header.SOPInstanceUID)] = header
            elif known and header.get("SOPClassUID") in RADIOGRAPHS:
                images.append(header)
            else:
                others.append(str(header.get("SOPClassUID") or ""))
        images.sort(key=lambda header: str(header.SOPInstanceUID))
        return cls(uid, tuple(images), own, companions, tuple(others))

    @property
    def drafts(self) -> dict[str, str]:
        """SOP Instance UID of every draft -> UIDs of the drafts that it replaces, separated by backslashes."""
        return {uid: _replaced_by(header) for uid, header in self.own.items()}

    @property
    def documents(self) -> dict[str, str]:
        """SOP Instance UID of every document of a draft -> its series, another one where a PACS has copied it."""
        return {uid: str(header.SeriesInstanceUID) for uid, header in {**self.own, **self.companions}.items()}

    def fingerprint(self, key: SiteKey) -> str:
        """Return what changes with the radiographs, their views and the identity, but not with our own drafts.

        Images can differ in identity while a PACS corrects them one after the other; every one of them counts.
        """
        parts = [part for image in self.images for part in _describe_picture(image)]
        identities = [
            tuple(f"{keyword}={image.get(keyword, '')}" for keyword in (*PATIENT, *STUDY)) for image in self.images
        ]
        for identity in dict.fromkeys(identities):
            parts += identity
        return key.fingerprint(parts)

    def why_skipped(self) -> str:
        """Return why a study without candidates has none, as a word for the queue."""
        if not (self.images or self.own or self.companions or self.others):
            return "study_is_gone"
        intents = {str(image.get("PresentationIntentType")) for image in self.images}
        if intents == {RAW} or (not intents and RAW_RADIOGRAPH in self.others):
            return "for_processing"
        return "no_frontal_image" if self.images else "no_radiograph"

    def candidates(self) -> list[Dataset]:
        """Return the images to read, best first: chests, then images that name no body part, then other body parts.

        Of each, frontal images by their tags come before those that say nothing of their view. Laterals, oblique views
        and other projections are left out. Of several frontal images PA comes before AP, and later ones first, which
        are usually the repeats of rejected ones.
        """
        ranked = [(rank, image) for image in self._latest_first if (rank := rank_frontal(image)) is not None]
        ranked.sort(key=lambda pair: pair[0])
        return [image for _, image in ranked[:MAX_CANDIDATES]]

    def lateral(self) -> Dataset | None:
        """Return the lateral image to read next to a frontal one, the latest, or None."""
        return next(filter(is_lateral, self._latest_first), None)

    @property
    def _latest_first(self) -> list[Dataset]:
        return sorted(self.images, key=_taken_at, reverse=True)


def is_same_image(header: Dataset, image: Dataset) -> bool:
    """Whether a file is the image whose header was asked for: by its UIDs, and by its Patient ID where both have one.

    A file of another patient, of a cache or of an archive that corrects only its database, must not become a draft. A
    Patient ID that is not ASCII is not compared: archives garble it in their metadata.
    """
    if any(_text(header, keyword) != _text(image, keyword) for keyword in UIDS):
        return False
    first, second = _text(header, "PatientID"), _text(image, "PatientID")
    return first == second or not (first and second and (first + second).isascii())


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    values = value if isinstance(value, MultiValue) else [value or ""]
    return "\\".join(map(str, values)).strip(" \0")


def _is_draft(header: Dataset) -> bool:
    """Whether a document is a draft of this bridge, by its author: the device whose UID follows from its serial number.

    A PACS that merges studies or moves them to another patient copies drafts under other UIDs.
    """
    serial = str(header.get("DeviceSerialNumber") or "")
    if header.get("SOPClassUID") != BasicTextSRStorage or not SHA256.fullmatch(serial):
        return False
    return any(author.get("DeviceUID") == device_uid(serial) for author in header.get("AuthorObserverSequence") or ())


def _replaced_by(header: Dataset) -> str:
    """Return the SOP Instance UIDs that the header's Predecessor Documents Sequence names."""
    return "\\".join(
        str(document.get("ReferencedSOPInstanceUID", ""))
        for study in header.get("PredecessorDocumentsSequence") or ()
        for series in study.get("ReferencedSeriesSequence") or ()
        for document in series.get("ReferencedSOPSequence") or ()
    )


def _describe_picture(image: Dataset) -> list[str]:
    codes = [f"{keyword}={sorted(codes_of(image, keyword))}" for keyword in PICTURE_CODES]
    return [f"{keyword}={image.get(keyword) or ''}" for keyword in PICTURE] + codes


def _taken_at(image: Dataset) -> tuple[str, str, str]:
    date = image.get("AcquisitionDate") or image.get("ContentDate") or ""
    time = image.get("AcquisitionTime") or image.get("ContentTime") or ""
    return str(date), str(time), str(image.SOPInstanceUID)
