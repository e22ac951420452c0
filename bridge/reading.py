"""What the server says of a study: which images it reads together, and what it is told besides."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from pydicom.dataset import Dataset

from bridge.configuration.server import COMPARISON, LATERAL, PRIOR, ServerSettings
from bridge.dicom.clinical_context import FREE_TEXTS, read_context
from bridge.dicom.deidentify import write_deidentified
from bridge.dicom.identity import SiteKey
from bridge.dicom.patient import contradict
from bridge.dicom.study_state import StudyState
from bridge.documents.answer import HttpError, read_report
from bridge.failures import Outage, StudyFailure
from bridge.journal import describe_failure, log
from bridge.peers.interfaces import PriorSource, StudySource
from bridge.peers.report_client import ReportClient, is_about_options, is_about_words, is_refusal
from bridge.prior import FOUND, REFUSED, AskedOnce, describe_interval, find_prior
from prelim_client.answers import Answer, ReportError

FRONTAL = "frontal"

UNUSABLE = "unusable"
"""What became of a prior whose file cannot be read."""

WITHOUT = {
    "none": "the PACS has no earlier frontal chest radiograph of this patient",
    "patient_uncertain": "it is not certain that what the PACS has is of this patient",
    "study_undated": "the study has no valid date",
    REFUSED: "the server did not read it",
    UNUSABLE: "its file is damaged",
}
"""Outcome of the search -> why a report has no prior; anything else is a failure of the PACS."""


@dataclass(frozen=True)
class StudyReading:
    """What the server says of a study in one state.

    answer  : of the server, or None if it refused
    images  : headers of the images of the study that it read, from their files
    prior   : header of the image of an earlier study that it read with them, or None
    outcome : of the search for it, a word for the log; "" if there was none
    refused : why it refused the first image, or ""
    """

    answer: Answer | None
    images: Sequence[Dataset] = ()
    prior: Dataset | None = None
    outcome: str = ""
    refused: str = ""


@dataclass(frozen=True)
class Picture:
    """An image: the header of its file, and the file as it is sent, with its header cut to the allow-list.

    A PACS garbles names of some character sets in its metadata, so that documents have those of the file.
    """

    header: Dataset
    file: bytes


class _Refused(Exception):
    """The server does not read the images."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StudyReader:
    """Requests reports on the images of studies.

    archive : of the studies
    pacs    : asked for earlier studies, where the settings want that
    """

    def __init__(
        self, settings: ServerSettings, key: SiteKey, archive: StudySource, pacs: PriorSource | None = None
    ) -> None:
        self._settings = settings
        self._key = key
        self._archive = archive
        self._pacs = pacs if {PRIOR, COMPARISON} & set(settings.context) else None
        self._client = ReportClient(settings)

    def read(self, study: StudyState, candidates: Sequence[Dataset]) -> StudyReading:
        """Return the server's answer, or why it refused the first of the candidates.

        An image that is refused is left out, and the next is tried: whether a picture without a view is a chest, only
        the server decides.

        Raises Outage, StudyFailure.
        """
        refusals: list[str] = []
        wanted = self._settings.images
        remaining = list(candidates)
        lateral = self._lateral(study)
        pacs = None if self._pacs is None else AskedOnce(self._pacs)
        while remaining:
            pictures = self._of_one_patient(remaining[:wanted])
            further, outcome = self._further(pictures[0].header, lateral, pacs)
            # Which of several images was refused is not in the answer: try with fewer.
            for roles in _fewer_and_fewer(further):
                try:
                    return self._request(pictures, {role: further[role] for role in roles}, outcome)
                except _Refused as refused:
                    refusal = refused.reason
            refusals.append(refusal)
            if len(pictures) > 1:
                wanted = 1
            else:
                remaining = remaining[1:]
        return StudyReading(None, refused=refusals[0])

    def _of_one_patient(self, headers: Sequence[Dataset]) -> list[Picture]:
        """Return the first image, and those of the others whose files do not say that they are somebody else's.

        Raises Outage, StudyFailure.
        """
        first, *others = [self._archive.image(header) for header in headers]
        return [self._picture(image) for image in (first, *(one for one in others if not contradict(first, one)))]

    def _picture(self, image: Dataset) -> Picture:
        return Picture(header_of(image), write_deidentified(image, self._key))

    def _lateral(self, study: StudyState) -> Picture | None:
        """Return the lateral view of a study, or None if there is none, or it cannot be read.

        Raises Outage.
        """
        header = study.lateral() if LATERAL in self._settings.context else None
        try:
            return None if header is None else self._usable(self._archive.image(header))
        except StudyFailure:
            return None

    def _further(
        self, image: Dataset, lateral: Picture | None, pacs: PriorSource | None
    ) -> tuple[dict[str, Picture], str]:
        """Return the images that go with a frontal one, by their roles, and what became of the search for a prior.

        Whatever is wrong with them, the report can be written without.
        """
        further: dict[str, Picture] = {}
        outcome = ""
        if pacs is not None:
            prior = find_prior(pacs, image)
            outcome = prior.outcome
            if prior.image is not None and (picture := self._usable(prior.image)) is not None:
                further[PRIOR] = picture
            elif prior.image is not None:
                outcome = UNUSABLE
        if lateral is not None and not contradict(image, lateral.header):
            further[LATERAL] = lateral
        return further, outcome

    def _usable(self, image: Dataset) -> Picture | None:
        """Return an image as it is sent, or None if its file is damaged."""
        try:
            return self._picture(image)
        except Exception as error:  # noqa: BLE001 - whatever a damaged file raises
            log("unexpected", **describe_failure(error))
            return None

    def _request(self, pictures: Sequence[Picture], further: Mapping[str, Picture], outcome: str) -> StudyReading:
        """Request a report. Raises _Refused, Outage, StudyFailure."""
        header = pictures[0].header
        wanted = self._settings.context
        context = read_context(header, wanted)
        if COMPARISON in wanted and PRIOR in further:
            context[COMPARISON] = describe_interval(header, further[PRIOR].header)
        if PRIOR not in further and outcome == FOUND:
            outcome = REFUSED
        sent = {role: picture for role, picture in further.items() if role in wanted}
        files = [picture.file for picture in (*pictures, *sent.values())]
        # The study's name in the bridge's log is the request's in the server's.
        name = self._key.pseudonym(str(header.StudyInstanceUID))
        try:
            answer = read_report(self._ask(files, context, [FRONTAL, *sent] if sent else None, name))
        except HttpError:
            raise StudyFailure("server_answer_unreadable") from None
        except ReportError as error:
            if not is_refusal(error):
                raise _translate(error) from None
            raise _Refused(f"{error.code}_{_refusal_name(error)}") from None
        prior = sent.get(PRIOR)
        read = [*pictures, *(picture for role, picture in sent.items() if role != PRIOR)]
        return StudyReading(
            answer if prior is not None or PRIOR not in wanted else _warned(answer, _no_prior(outcome)),
            [picture.header for picture in read],
            None if prior is None else prior.header,
            outcome,
        )

    def _ask(
        self, files: Sequence[bytes], context: Mapping[str, str], roles: Sequence[str] | None, name: str
    ) -> Answer:
        """Request a report; without the free texts of the study if the server does not take what they say.

        A text that a department has typed must not cost the draft.

        Raises ReportError, Outage.
        """
        options = self._settings.options
        try:
            return self._client.report(files, options, request_id=name, context=context, roles=roles)
        except ReportError as error:
            texts = FREE_TEXTS.keys() & context.keys()
            if not texts or not is_about_words(error, texts):
                raise
        rest = {field: value for field, value in context.items() if field not in texts}
        answer = self._client.report(files, options, request_id=name, context=rest, roles=roles)
        return _warned(answer, f"context_left_out: the server does not take the words of {' or '.join(sorted(texts))}")


def header_of(image: Dataset) -> Dataset:
    """Return the header of an image, its text decoded."""
    header = image[:0x7FE00000]
    assert isinstance(header, Dataset)  # noqa: S101 - a slice of a data set is one
    header.decode()
    return header


def _fewer_and_fewer(further: Mapping[str, Picture]) -> Iterator[tuple[str, ...]]:
    """Yield the roles of all further images, then of all but one, and so on to none."""
    for count in range(len(further), -1, -1):
        yield from combinations(further, count)


def _no_prior(outcome: str) -> str:
    """Return the warning of a report without the prior that the site wants compared."""
    reason = WITHOUT.get(outcome, "the PACS could not be asked for it, or did not give it")
    return f"no_prior: read without an earlier examination: {reason}"


def _warned(answer: Answer, warning: str) -> Answer:
    """Return the answer with one more warning."""
    given = answer.get("warnings")
    return answer | {"warnings": [*given, warning] if isinstance(given, list) else given}


def _translate(error: ReportError) -> Outage | StudyFailure:
    """Return what an error of the server that is not about the image means."""
    if is_about_options(error):
        return Outage("server_options_refused")
    if error.code < 400:
        # Success without a report: a login page, or another program at this address.
        return Outage("server_no_report")
    if error.code in (401, 403, 404, 405, 408, 429, 502, 503, 504):
        return Outage(f"server_{error.code}")
    return StudyFailure(f"server_{error.code}")


def _refusal_name(error: ReportError) -> str:
    """Return the name at the head of a refusal's message ("body_part: ..."), or else its type."""
    name, colon, _ = error.message.partition(":")
    return name if colon and name.isidentifier() and name.isascii() and len(name) < 40 else error.type[:40]
