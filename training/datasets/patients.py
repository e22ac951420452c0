"""The patient in the ids and paths of published data sets."""

import re

PUBLISHED = (
    re.compile(r"(?:^|[/_])p\d\d[/_]p(\d+)(?=[/_]|$)"),  # MIMIC-CXR: files/p10/p10000032/s50414267, p10_p10000032_s504
    re.compile(r"(?:^|[/_])(patient\d+)(?=[/_]|$)"),  # CheXpert: train/patient42142/study5/view1_frontal.jpg
    re.compile(r"^(CXR\d+)_(?:\d+_)?IM-\d+"),  # Open-i: CXR2384_IM-0942
    re.compile(r"(?:^|[/_])p?(GRDN[0-9A-Z]+)(?=[/_]|$)"),  # ReXGradient: pGRDN004ABC_aGRDN00DEF_s1.2
)
"""What is in the first group of the first that is found."""


def find_patient(name: str) -> str | None:
    """The patient that an id or path of a published data set names; None for any other: a prefix may be a hospital."""
    return next((found[1] for pattern in PUBLISHED if (found := pattern.search(name))), None)
