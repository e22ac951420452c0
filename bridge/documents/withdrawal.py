"""What replaces a draft when its study changes and there is no report on the new state: a document that says so."""

import hashlib
from importlib.metadata import version

from prelim_client.answers import Answer

AUTHOR = "prelim-bridge"
REASONS = {
    "no_radiograph": "it has no radiograph any longer",
    "no_frontal_image": "it has no frontal image",
    "for_processing": "it has only detector data before processing",
    "refused": "the server does not read its images",
    "dead": "the work on it failed",
}


def explain_withdrawal(why: str) -> Answer:
    """Return, in the form of an answer of the server, why a study has no draft; `why` is of REASONS.

    The author is the bridge: its "weights" are a constant, so that documents of other authors have other UIDs.
    """
    return {
        "report": f"No draft report is available for the study as it is now: {REASONS[why]}. "
        "The earlier draft is about another state of the study. Do not use it.",
        "sections": {"findings": None, "impression": None},
        "model": {
            "name": AUTHOR,
            "version": version("prelim"),
            "architecture": "none",
            "sha256": hashlib.sha256(AUTHOR.encode()).hexdigest(),
        },
        "warnings": [],
    }
