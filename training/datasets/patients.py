"""The patient in the ids and paths of published data sets."""

import re
from collections.abc import Iterable

PUBLISHED = (
    re.compile(r"(?:^|[/_])p\d\d[/_]p(\d+)(?=[/_]|$)"),  # MIMIC-CXR: files/p10/p10000032/s50414267, p10_p10000032_s504
    re.compile(r"(?:^|[/_])(patient\d+)(?=[/_]|$)"),  # CheXpert: train/patient42142/study5/view1_frontal.jpg
    re.compile(r"^(CXR\d+)_(?:\d+_)?IM-\d+"),  # Open-i: CXR2384_IM-0942
    re.compile(r"(?:^|[/_])p?(GRDN[0-9A-Z]+)(?=[/_]|$)"),  # ReXGradient: pGRDN004ABC_aGRDN00DEF_s1.2
)
"""What is in the first group of the first that is found."""


def find_patient(name: str) -> str | None:
    """The patient that an id or path of a published data set names; None for any other: a prefix may be a hospital.

    Windows' separators are read.
    """
    path = name.replace("\\", "/")
    return next((found[1] for pattern in PUBLISHED if (found := pattern.search(path))), None)


_MIMIC_STUDY = re.compile(r"(?:^|[/_])s?(5\d{7})(?=[/_.]|$)", re.IGNORECASE)
_MIMIC_PATIENT = re.compile(r"(?:^|[/_])p?(1\d{7})(?=[/_.]|$)", re.IGNORECASE)
_CHEXPERT = re.compile(r"(?:^|[/_])patient0*(\d+)(?:[/_]study0*(\d+))?(?=[/_.]|$)", re.IGNORECASE)
_OPENI = re.compile(r"(?:^|[/_])CXR0*(\d+)(?=[/_.]|$)|(?:^|/)(\d+)_IM-\d+", re.IGNORECASE)
_REXGRADIENT = re.compile(r"(?:^|[/_])p?(GRDN[0-9A-Z]+)(?:[/_]a?(GRDN[0-9A-Z]+))?(?=[/_.]|$)", re.IGNORECASE)

OPENI_FORMATS = ("indiana_csv", "openi_xml")
"""Their ids are bare numbers, or numbers after CXR."""


def find_published(names: Iterable[str], patient: str | None, source_format: str) -> tuple[str | None, str | None]:
    """Study and patient of a published data set, the same for every format that the data set is spread in.

    names         : the study's id and the paths of its images, which name it in one way or another
    patient       : that the data set gives
    source_format : its name in training.datasets.FORMATS

    returns : such as `mimic study 50414267` and `mimic patient 10000032`; None for what the names do not tell
    """
    names = [name.replace("\\", "/") for name in names]
    if source_format in OPENI_FORMATS:
        names.insert(0, f"CXR{names[0].upper().removeprefix('CXR')}")
    given = [patient] if patient else []
    for name in names:
        if found := _OPENI.search(name):
            number = int(found[1] or found[2])
            return f"openi study {number}", f"openi patient {number}"
        if found := _CHEXPERT.search(name):
            study = f"chexpert study {found[1]}/{found[2]}" if found[2] else None
            return study, f"chexpert patient {found[1]}"
        if found := _REXGRADIENT.search(name):
            study = f"rexgradient study {found[2].upper()}" if found[2] else None
            return study, f"rexgradient patient {found[1].upper()}"
        if found := _MIMIC_STUDY.search(name):
            subject = next((hit[1] for text in (*given, *names) if (hit := _MIMIC_PATIENT.search(text))), None)
            return f"mimic study {found[1]}", subject and f"mimic patient {subject}"
    return None, None
