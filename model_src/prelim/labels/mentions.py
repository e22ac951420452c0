"""Which words mention a finding, and where the same letters mean something else, in addition to CheXpert's phrases.

Everything is a regular expression on one sentence in lower case.
"""

MENTIONS: dict[str, tuple[str, ...]] = {
    "cardiomegaly": (
        "heart enlargement", "enlargement of the heart", r"\bheart\b(?= (?:is|was|appears|remains|does)\b)",
        r"(?<=\bnormal )heart\b(?! failure)", r"\b(?:heart|cardiac)\b(?=\s*:)",
    ),
    "edema": (r"\bcongestive failure\b",),
    "enlarged cardiomediastinum": (r"\bmediastinal (?:mass(?:es)?|widening|enlargement)",),
    "pleural effusion": (r"\bhydrothora(?:x|ces)\b",),
    "pneumonia": ("pneumonitis",),
    "support devices": (
        r"\bleads?\b(?! to\b)", r"\bgenerators?\b", r"\bpacing\b", r"stimulators?\b", r"\bdrains\b", r"\belectrodes?\b",
        r"\b(?:chest|infusion|venous|central|right|left) port\b", r"\bport-?a-?cath", r"\bballoon pump", r"\bprosthe",
        r"\bstents?\b", r"\bsheath\b", r"\bloop recorder", r"\bswan[- ]ganz",
        r"\btracheostomy\b", r"\btrach\b", r"\b[lrb]?vads?\b", r"\bventricular assist", r"\bimpella\b", r"\becmo\b",
        r"\bwires\b", r"\b(?:sternotomy|sternal|cerclage|pacer|pacemaker|epicardial) wire\b", r"\bpleurx\b",
        r"\b(?:re)?intubated\b", r"\b(?:ett|ogt|ngt|dht|cvc)s?\b", r"\bdob+hoff\b", r"\bkeofeed",
        r"\btav[ri]\b", r"\bmitra(?:l )?clips?\b", r"\bcordis\b", r"\bshunt (?:tube|tubing|catheter)",
    ),
}  # fmt: skip
"""Mentions of findings in addition to CheXpert's."""

_OUTSIDE = (
    "(?:breasts?|chest wall|axilla(?:ry)?|soft tissues?|skin|subcutaneous|thyroid|neck|liver|hepatic|kidneys?|renal|"
    "adrenal|abdom(?:en|inal)|muscle|scalp|mediastin(?:al|um)|paraspinal|paravertebral|cardiac|pericardial|esophag(?:eal|us)|"
    "gastric|stomach|splenic|spleen|pancrea(?:tic|s)|brain|ovar(?:ian|y)|uterine|bone|bony|osseous|ribs?|vertebra(?:l|e)?|"
    "humer(?:al|us)|clavic(?:ular|le)|scapula(?:r)?)"
)
"""Where a mass is not one of the lung."""

_MASS = r"(?:mass(?:es)?|nod(?:ules?|ular)|lumps?|tumou?rs?|neoplasms?|carcinomas?|densit(?:y|ies)|lesions?)"

NO_MENTIONS: dict[str, tuple[str, ...]] = {
    "pneumothorax": (r"\bpseudo-?pneumothora\w+",),
    "edema": (
        rf"\b{_OUTSIDE} (?:edema|swelling)",
        r"\b(?:cerebral|vasogenic|cutaneous|laryngeal|peripheral|pedal|ankle|leg|arm|extremity|marrow|"
        r"scrotal|facial) edema",
        rf"edema (?:in|of|within) (?:the )?(?:left |right )?(?:{_OUTSIDE}|arm|leg)\b",
    ),
    "lung opacity": (r"\bscarce",),
    "pleural effusion": (r"\b(?:joint|knee|elbow|hip|shoulder|subdural) effusion",),
    "enlarged cardiomediastinum": (
        r"\b(?:aort(?:a|ic)|diaphragm\w*|hemidiaphragm\w*|hilar|renal|bony|rib|osseous|pleural|lung) contours?",
        r"\bcontours? of (?:the )?(?:\w+ )?(?:aort|diaphragm|hemidiaphragm|hil)",
    ),
    "lung lesion": (
        rf"\b{_OUTSIDE} (?:\w+ )?{_MASS}",
        rf"\b{_MASS}(?: \w+)? (?:in|of|within|on|overlying|along) (?:the )?(?:left |right )?(?:\w+ )?{_OUTSIDE}\b",
        r"\b[cp]lump", r"\bmassage", r"\bmass effect", r"\bbody mass", r"\bmuscle mass", r"\bventricular mass",
    ),
    "pneumonia": (
        r"(?:prior|previous|old|remote|granulomatous|tubercul\w+) infecti\w+", "post-?infectious",
        r"\b(?:urinary tract|wound|skin|sinus|ear|dental|catheter|line|soft[- ]tissue) infecti\w+",
    ),
    "support devices": (
        r"plate[- ]?like", "platelet", "template", "tubercul", r"end[- ]?plate",
        r"kerley(?: ?-?[abc])?(?: and [abc])? lines?", r"\b(?:pleural|septal|fissur\w+|fracture|skin|suture|fat|"
        r"joint|paraspinal|paratracheal|mid[- ]?clavicular|axillary) lines?\b", r"\bin line with\b",
        r"\bvalv\w* (?:\w+ )?calcifi\w+", r"calcifi\w+ (?:of|in) (?:the )?(?:\w+ )?valve", r"\bnative valve",
        r"\bsupport(?:s|ing|ive)?\b(?= (?:the|this|that|a|an|of|for)\b)", r"\bleads? (?:to|into)\b",
        r"\b[a-z]+lines\b", r"\bdecannulat", r"\brecoil", r"\bplateau",
        r"\blead (?:exposure|poisoning|toxicity|apron|shield)",
        r"\b(?:ecg|ekg|telemetry|monitor(?:ing)?) (?:leads?|wires|electrodes)\b", r"\bleads? of (?:the |an )?e[ck]g\b",
    ),
}  # fmt: skip
"""Where the letters of a mention mean something else, in addition to CheXpert's."""

PARTS = frozenset(
    {
        "heart", "cardiac", "the heart", "heart size", "cardiac size", "cardiac shadow", "cardiac contour",
        "cardiac silhouette", "mediastinum", "cardiomediastinum", "contour", "mediastinal configuration",
        "mediastinal silhouette", "pericardial silhouette", "cardiac silhouette and vascularity",
    }
)  # fmt: skip
"""Mentions that name a part of the body: what is said of it decides."""

SIGNS = frozenset({"vascular congestion", "pulmonary congestion", "vascular prominence", "indistinctness"})
"""Mentions that CheXpert counts as edema, and that leave it in doubt: the gold labels do not have it there."""
