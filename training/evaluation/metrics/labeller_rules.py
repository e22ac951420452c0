"""Words that turn a finding into its absence, or into a doubt: written here, after the ideas of NegEx and NegBio.

Sources: Chapman et al., "A Simple Algorithm for Identifying Negated Findings and Diseases in Discharge Summaries", J
Biomed Inform 2001; Peng et al., "NegBio: a High-performance Tool for Negation and Uncertainty Detection in Radiology
Reports", AMIA 2018. Everything is a regular expression on one sentence in lower case.
"""

import re


def _any(*patterns: str) -> re.Pattern[str]:
    """Any of these, as whole words."""
    return re.compile(r"\b(?:" + "|".join(patterns) + r")\b")


SENTENCE_END = re.compile(r"[.!?;]+(?=\s|$|(?<=[a-z][.!?;])[A-Z])|\n\s*\n")
"""Decimal points end nothing; a full stop before a capital does, also where the space was forgotten."""

MENTIONS: dict[str, tuple[str, ...]] = {
    "cardiomegaly": ("heart enlargement",),
    "pneumonia": ("pneumonitis",),
}
"""Mentions of findings in addition to CheXpert's."""

NO_MENTIONS: dict[str, tuple[str, ...]] = {
    "cardiomegaly": ("heart enlargement",),
    "edema": ("soft tissue (?:edema|swelling)",),
    "pneumonia": (r"(?:prior|previous|old|remote|granulomatous|tubercul\w+) infecti\w+", "post-?infectious"),
    "support devices": (r"plate[- ]?like", "tubercul", "kerley", r"end[- ]?plate"),
}
"""Where the letters of a mention mean something else, in addition to CheXpert's."""

PARTS = frozenset(
    {
        "the heart", "heart size", "cardiac size", "cardiac shadow", "cardiac contour", "cardiac silhouette",
        "mediastinum", "cardiomediastinum", "contour", "mediastinal configuration", "mediastinal silhouette",
        "pericardial silhouette", "cardiac silhouette and vascularity",
    }
)  # fmt: skip
"""Mentions that name a part of the body: what is said of it decides."""

SIGNS = frozenset({"vascular congestion", "pulmonary congestion", "vascular prominence", "indistinctness"})
"""Mentions that CheXpert counts as edema, and that leave it in doubt: the gold labels do not have it there."""

CLAUSE_END = _any("but", "however", "although", "though", "except", "otherwise", "aside from", "apart from", "yet")
"""A negation reaches no further than these."""

NEGATED_BEFORE = _any(
    "no", "non", "not", "without", "never", "nor", "neither", "absent", "absence of", "negative for", "free of",
    "clear of", "lack of", "denies", "ruled out", "excludes?", "resolved", "resolution of", "clearing of",
    "resolving of", "rather than", "instead of", "cleared of", "removal of", "removed",
)  # fmt: skip
"""These deny what follows them in the clause."""

NO_NEGATION = _any(
    "no (?:significant |interval |appreciable |definite |large |great )*(?:change|increase|improvement|progression)",
    "not (?:significantly |appreciably )?(?:changed|improved|increased|only|certain(?:ly)?|excluded|ruled out)",
    "without (?:significant |interval )*(?:change|improvement)",
    "no longer", "not well (?:seen|evaluated|visualized)",
)  # fmt: skip
"""These have a negating word and deny nothing."""

NEGATED_AFTER = _any(
    "(?:not|no longer) (?:\\w+ )?"
    "(?:seen|identified|present|evident|demonstrated|visualized|appreciated|detected|noted|suspected|observed|apparent)",
    "(?:is|are|was|were) (?:absent|ruled out|excluded|unlikely)",
    "(?:has|have)(?: \\w+)? (?:resolved|cleared)",
    "(?:is|are)(?: \\w+)? resolved",
)
"""These deny what stands before them in the clause."""

UNCERTAIN_BEFORE = _any(
    "may", "might", "could", "possibl[ey]", "possibility of", "likely", "suspected", "suspicion of",
    "questionable", "question(?: of)?", "concern(?:ing)?(?: for)?", "versus", "vs", "differential", "worrisome for",
    "(?:cannot|can not|difficult to|to) exclude", "rule out", "evaluate for", "correlat(?:e|ion)", "appears? to",
    "presum(?:ed|ably)", "perhaps", "potential", "equivocal", "indeterminate", "in the (?:appropriate|proper) clinical",
)  # fmt: skip
"""These put what follows them in doubt. "Probable" and "suggestive of" do not: readers mean the finding."""

UNCERTAIN_AFTER = _any(
    "can(?:not| not)(?: be| entirely| completely| definitively)* (?:excluded?|ruled? out)",
    "not (?:entirely |completely )?(?:excluded|ruled out)",
    "difficult to (?:entirely |completely )?exclude",
    "(?:is|are|remains?) (?:also )?(?:possible|suspected|questionable|likely|a (?:consideration|possibility))",
    "should be considered", "is in the differential",
)  # fmt: skip
"""These put what stands before them in doubt."""

ABNORMAL = _any(
    "(?:en)?larged?r?", "enlargement", "increased?", "prominen(?:t|ce)", "widen(?:ed|ing)", "big", "dilat(?:ed|ation)",
    "tortuous", "borderline", "abnormal", "shifted", "generous",
)  # fmt: skip
"""One of these makes a finding of a part of the body."""

NORMAL = _any(
    "normal", "unremarkable", "within (?:\\w+ )?limits", "stable", "unchanged", "clear", "intact", "preserved", "not",
)  # fmt: skip
"""Where one of these is said of a part of the body, and none of ABNORMAL, the finding is denied."""
