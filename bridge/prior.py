"""The most recent earlier chest radiograph of a patient in the PACS, for models that compare.

A draft never depends on it: where the PACS does not answer, has none, or shows studies that may be somebody else's, the
report is written without.
"""

import datetime
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset

from bridge.dicom.patient import is_same_patient
from bridge.dicom.study_state import StudyState
from bridge.dicom.subject import is_as_certain
from bridge.failures import StudyError, StudyFailure
from bridge.journal import describe_failure, log
from bridge.peers.interfaces import PriorSource

FOUND, NONE, UNCERTAIN, UNDATED = "found", "none", "patient_uncertain", "study_undated"
REFUSED = "refused"
"""By the server."""

MOST_ROWS = 1000
"""Of an answer: a PACS that does not know the filter shows all its studies."""
MOST_STUDIES = 10
"""Studies whose headers are read, the latest first; those of limbs are among them."""
WILDCARDS = "*?\\"
"""With these the PACS would look for other patients too (PS3.4 C.2.2.2.4), or for several."""

Moment = tuple[datetime.date, str]
"""Date, and time as HHMMSS or "" if it is not known."""


@dataclass(frozen=True)
class Prior:
    """What was found.

    image   : with its pixels, or None
    outcome : FOUND, or why there is none, a word for the log
    """

    image: Dataset | None
    outcome: str


class AskedOnce:
    """A PACS that is asked each question once, while images of one study are tried one after another.

    A failure is an answer too. Of images it keeps the last one, where a search ends.
    """

    def __init__(self, pacs: PriorSource) -> None:
        self._pacs = pacs
        self._known: dict[tuple[object, ...], Any] = {}
        self._image: tuple[str, Dataset] | None = None

    def studies_of(self, patient: str, until: datetime.date) -> Iterator[Dataset]:
        """Yield what is known of the studies with radiographs under a Patient ID up to a day."""

        def ask() -> list[Dataset]:
            return list(itertools.islice(self._pacs.studies_of(patient, until), MOST_ROWS))

        yield from self._ask((patient, until), ask)

    def study(self, uid: str) -> StudyState:
        """Return the present state of a study."""
        state: StudyState = self._ask((uid,), lambda: self._pacs.study(uid))
        return state

    def image(self, header: Dataset) -> Dataset:
        """Return an image with its pixels."""
        uid = str(header.SOPInstanceUID)
        if self._image is None or self._image[0] != uid:
            self._image = uid, self._ask(("image", uid), lambda: self._pacs.image(header), keep=False)
        return self._image[1]

    def _ask(self, question: tuple[object, ...], ask: Callable[[], Any], *, keep: bool = True) -> Any:
        """Return the answer. `keep`: also one that is not a failure."""
        known = self._known.get(question)
        if known is None:
            try:
                known = ask()
            except StudyError as error:
                known = error
            if keep or isinstance(known, StudyError):
                self._known[question] = known
        if isinstance(known, StudyError):
            raise known
        return known


def find_prior(pacs: PriorSource, image: Dataset) -> Prior:
    """Return the latest frontal chest radiograph of an earlier study of the patient of an image. Raises nothing.

    image : to report, from its file: a PACS garbles names in its metadata
    """
    try:
        return _find(pacs, image)
    except StudyError as error:
        return Prior(None, error.reason)
    except Exception as error:  # noqa: BLE001 - whatever a damaged header raises; the draft does without
        described = describe_failure(error)
        log("unexpected", **described)
        return Prior(None, described["reason"])


def describe_interval(image: Dataset, prior: Dataset) -> str:
    """Return how long before an image a prior was taken, in words for a prompt: dates stay in the bridge."""
    taken, before = _moment(image), _moment(prior)
    days = 0 if taken is None or before is None else (taken[0] - before[0]).days
    when = {0: "earlier on the same day", 1: "1 day earlier"}.get(days, f"{days} days earlier")
    return f"Chest radiograph {when}"


def _find(pacs: PriorSource, image: Dataset) -> Prior:
    """Raises Outage, and StudyFailure if the latest ones could not be read and there is no other."""
    taken = _moment(image)
    if taken is None:
        return Prior(None, UNDATED)
    patient = str(image.get("PatientID") or "").strip(" \0")
    # Without these nothing in the PACS is certainly the patient's.
    if not is_same_patient(image, image) or any(sign in patient for sign in WILDCARDS):
        return Prior(None, UNCERTAIN)
    outcome = NONE
    for uid in itertools.islice(_earlier_studies(pacs, image, patient, taken), MOST_STUDIES):
        try:
            found = _frontal(pacs, uid, image)
        except StudyFailure as error:
            outcome = error.reason
            continue
        if found is None:
            continue
        if is_same_patient(found, image) and _precedes(_moment(found), taken):
            return Prior(found, FOUND)
        outcome = UNCERTAIN
    return Prior(None, outcome)


def _earlier_studies(pacs: PriorSource, image: Dataset, patient: str, taken: Moment) -> list[str]:
    """Return the UIDs of the patient's earlier studies, the latest first."""
    own = str(image.StudyInstanceUID)
    found: dict[str, Moment] = {}
    for row in itertools.islice(pacs.studies_of(patient, taken[0]), MOST_ROWS):
        uid, moment = str(row.get("StudyInstanceUID") or ""), _moment(row)
        # Some archives ignore case, or read what they do not understand as a match.
        same = str(row.get("PatientID") or "").strip(" \0") == patient
        if same and uid not in ("", own) and moment is not None and _precedes(moment, taken):
            found[uid] = moment
    return sorted(found, key=lambda uid: (found[uid], uid), reverse=True)


def _frontal(pacs: PriorSource, uid: str, image: Dataset) -> Dataset | None:
    """Return the frontal chest image of a study with its pixels, or None if it has none."""
    candidates = pacs.study(uid).candidates()
    header = next((one for one in candidates if is_as_certain(one, image)), None)
    return None if header is None else pacs.image(header)


def _precedes(first: Moment | None, second: Moment) -> bool:
    """Whether a study is certainly before another; of one day only if both have a time."""
    if first is None or first[0] != second[0]:
        return first is not None and first[0] < second[0]
    return bool(first[1]) and first[1] < second[1]


def _moment(header: Dataset) -> Moment | None:
    """Return date and time of a header's study, or None if it has no valid date."""
    try:
        date = datetime.datetime.strptime(str(header.get("StudyDate") or "").strip(), "%Y%m%d").date()
    except ValueError:
        return None
    digits = str(header.get("StudyTime") or "").partition(".")[0].replace(":", "").strip()
    return date, digits.ljust(6, "0") if digits.isdecimal() and len(digits) in (2, 4, 6) else ""
