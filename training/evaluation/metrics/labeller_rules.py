"""Words that turn a finding into its absence, or into a doubt: written here, after the ideas of NegEx and NegBio.

Sources: Chapman et al., "A Simple Algorithm for Identifying Negated Findings and Diseases in Discharge Summaries", J
Biomed Inform 2001; Peng et al., "NegBio: a High-performance Tool for Negation and Uncertainty Detection in Radiology
Reports", AMIA 2018. Everything is a regular expression on one sentence in lower case.
"""

import re


def _any(*patterns: str) -> re.Pattern[str]:
    """Any of these, as whole words."""
    return re.compile(r"\b(?:" + "|".join(patterns) + r")\b")


_SIDE = "(?:left|right)(?:[ -]sided)?"
_SIZE = (
    "(?:small|tiny|trace|mild|moderate|minimal|minor|slight|large|massive|stable|unchanged|persist(?:ent|ing)|residual|"
    "increas(?:ed|ing)|worsen(?:ed|ing)|new|moderate to large|small to moderate)"
)
_REST = (
    rf"(?:and |but |there is )?(?:an? )?{_SIZE}(?:[- ]sized)?(?: ones?)? (?:(?:is |are )?(?:seen |noted )?(?:on|at|in) "
    rf"(?:the )?{_SIDE}(?: side| base| lung)?|{_SIDE})(?=\s*(?:[.;,]|$))"
)
"""The other side, without the finding: "no effusion on the left; moderate on the right"."""

SENTENCE_END = re.compile(
    r"(?<!\bvs)(?<!\bVS)(?<!\be\.g)(?<!\bi\.e)(?<!\bDr)[.!?;]+(?=\s|$|(?<=[a-z][.!?;])[A-Z])"
    rf"(?!(?i:\s+{_REST}))|\n\s*\n"
)
"""Decimal points and abbreviations end nothing; a full stop before a capital does, also where the space is missing.

What is said of the other side without the finding belongs to the sentence before.
"""

OTHER_SIDE_BEFORE = re.compile(
    rf"\b{_SIZE}(?: on the)? {_SIDE},?(?: and| but| with)? no(?: definite| significant)? {_SIDE}(?: \w+)?\s*$"
)
OTHER_SIDE_AFTER = re.compile(
    rf"^\w*(?: (?:is |are )?(?:seen )?(?:on|at|in) the {_SIDE}(?: side| base| lung)?)?\s*[.;,]?\s*{_REST}"
)
"""What is denied on one side is there on the other: "moderate right and no left effusion"."""

MENTIONS: dict[str, tuple[str, ...]] = {
    "cardiomegaly": ("heart enlargement", r"\bheart\b(?= (?:is|was|appears|remains)\b)"),
    "pneumonia": ("pneumonitis",),
    "support devices": (
        r"\bleads?\b(?! to\b)", r"\bgenerators?\b", r"\bpacing\b", r"stimulators?\b", r"\bdrains\b", r"\belectrodes?\b",
        r"\b(?:chest|infusion|venous|central|right|left) port\b", r"\bport-?a-?cath", r"\bballoon pump", r"\bprosthe",
        r"\bstents?\b", r"\bsheath\b", r"\bloop recorder", r"\bswan[- ]ganz",
        r"\btracheostomy\b", r"\btrach\b", r"\b[lrb]?vads?\b", r"\bventricular assist", r"\bimpella\b", r"\becmo\b",
        r"\bwires\b", r"\b(?:sternotomy|sternal|cerclage|pacer|pacemaker|epicardial) wire\b", r"\bpleurx\b",
    ),
}  # fmt: skip
"""Mentions of findings in addition to CheXpert's."""

_OUTSIDE = (
    "(?:breasts?|chest wall|axilla(?:ry)?|soft tissues?|skin|subcutaneous|thyroid|neck|liver|hepatic|kidneys?|renal|"
    "adrenal|abdom(?:en|inal)|muscle|scalp)"
)
"""Where a mass is not one of the lung."""

_MASS = r"(?:mass(?:es)?|nod(?:ules?|ular)|lumps?|tumou?rs?|neoplasms?|carcinomas?|densit(?:y|ies)|lesions?)"

NO_MENTIONS: dict[str, tuple[str, ...]] = {
    "cardiomegaly": ("heart enlargement",),
    "edema": ("soft tissue (?:edema|swelling)",),
    "enlarged cardiomediastinum": (
        r"\b(?:aort(?:a|ic)|diaphragm\w*|hemidiaphragm\w*|hilar|renal|bony|rib|osseous|pleural|lung) contours?",
        r"\bcontours? of (?:the )?(?:\w+ )?(?:aort|diaphragm|hemidiaphragm|hil)",
    ),
    "lung lesion": (
        rf"\b{_OUTSIDE} (?:\w+ )?{_MASS}",
        rf"\b{_MASS}(?: \w+)? (?:in|of|within|on|overlying|along) (?:the )?(?:left |right )?(?:\w+ )?{_OUTSIDE}\b",
        r"\bmass effect", r"\bbody mass", r"\bmuscle mass", r"\bventricular mass",
    ),
    "pneumonia": (r"(?:prior|previous|old|remote|granulomatous|tubercul\w+) infecti\w+", "post-?infectious"),
    "support devices": (
        r"plate[- ]?like", "platelet", "template", "tubercul", r"end[- ]?plate",
        r"kerley(?: ?-?[abc])?(?: and [abc])? lines?", r"\b(?:pleural|septal|fissur\w+|fracture|skin|suture|fat|"
        r"joint|paraspinal|paratracheal|mid[- ]?clavicular|axillary) lines?\b", r"\bin line with\b",
        r"\bvalv\w* (?:\w+ )?calcifi\w+", r"calcifi\w+ (?:of|in) (?:the )?(?:\w+ )?valve", r"\bnative valve",
        r"\bsupport(?:s|ing|ive)?\b(?= (?:the|this|that|a|an|of|for)\b)", r"\bleads? (?:to|into)\b",
    ),
}  # fmt: skip
"""Where the letters of a mention mean something else, in addition to CheXpert's."""

PARTS = frozenset(
    {
        "heart", "the heart", "heart size", "cardiac size", "cardiac shadow", "cardiac contour", "cardiac silhouette",
        "mediastinum", "cardiomediastinum", "contour", "mediastinal configuration", "mediastinal silhouette",
        "pericardial silhouette", "cardiac silhouette and vascularity",
    }
)  # fmt: skip
"""Mentions that name a part of the body: what is said of it decides."""

SIGNS = frozenset({"vascular congestion", "pulmonary congestion", "vascular prominence", "indistinctness"})
"""Mentions that CheXpert counts as edema, and that leave it in doubt: the gold labels do not have it there."""

_SEEN = (
    "(?:seen|identified|present|evident|demonstrated|visualized|appreciated|detected|noted|suspected|observed|apparent)"
)
_AFFIRMED = (
    "(?:small|tiny|trace|mild|moderate|minimal|minor|slight|stable|unchanged|persist(?:ent|ing)|residual|patchy|"
    "increas(?:ed|ing)|worsen(?:ed|ing)|improv(?:ed|ing)|decreas(?:ed|ing)|known|chronic|similar|bilateral|bibasilar)"
)
"""Words that a denied finding hardly ever has: "no pneumothorax, small effusion". Not among them: "large", "new"."""

_VERB = "(?:is|are|was|were|has|have|had|remains?|persists?|present|noted|not|continues?|appears?)"
_NO_LIST = r"(?:(?!\b(?:or|nor|and)\b)[^,])*"

_PARTLY = "(?:not|partially|partly|nearly|almost|incompletely|largely|mostly|yet|never)"

CLAUSE_END = _any(
    "but", "however", "although", "though", "except", "otherwise", "aside from", "apart from", "yet", "while", "whereas"
)
"""Neither a denial nor a doubt reaches beyond these."""

NEW_STATEMENT = re.compile(
    rf"(?:,|\band\b|\bwith\b)\s*(?:and |with )?(?:there (?:is|are|has|have)|now|the)\b"
    r"(?!(?: [\w-]+){1,3} (?:(?:have|were)(?: been)? removed|(?:are|have) (?:not|resolved|cleared)))"
    rf"|(?:,|\band\b|\bwith\b)\s*(?:and |with )?(?:an? )?{_AFFIRMED}\b(?!.*\bn?or\b)"
    rf"|\band\s+(?:an? )?{_SIZE} {_SIDE}\b(?!.*\bn?or\b)"
    rf"|,\s*(?:no|without)\b"
    rf"|,\s*(?!(?:or|nor|and|with|if|which|that|{_VERB})\b)(?={_NO_LIST}\b{_VERB}\b)"
    rf"|,\s*(?!(?:or|nor|and|if|which|that)\b)(?={_NO_LIST}\b{_SEEN} (?:on|in|at) (?:the )?{_SIDE})"
    rf"|\band\b(?={_NO_LIST}\b(?:remains?|persists?|(?:is|are|has|have) (?:\w+ )?(?:{_AFFIRMED}|enlarged|prominent))\b)"
    rf"|(?:(?<= seen)|(?<= identified)|(?<= evident)|(?<= noted)|(?<= present))(?:,|\s+and\b)"
)
"""Starts another statement of the same sentence: "no pneumothorax, a small effusion is present"."""

NEGATED_BEFORE = _any(
    "no", "non", "not", "without", "never", "nor", "neither", "absent", "absence of", "negative for", "free of",
    "clear of", "lack of", "denies", "ruled out", "excludes?", "resolved", "resolution of", "clearing of",
    "resolving of", "rather than", "instead of", "cleared of", "removal of", "removed", "unlikely", "no longer",
    "(?:discontinuation|discontinuance|explantation|extraction) of", "explanted", "discontinued",
)  # fmt: skip
"""These deny what follows them in the clause."""

NO_NEGATION = _any(
    "no (?:significant |interval |appreciable |definite |large |great )*(?:change|increase|improvement|progression|"
    "worsening|decrease|reduction|enlargement|growth|difference|resolution|clearing)",
    "not (?:significantly |appreciably )?(?:changed|improved|increased|only|certain(?:ly)?|"
    "excluded|ruled out|resolved)",
    "not (?:yet |completely |entirely |fully )*(?:resolved|cleared)",
    "without (?:significant |interval )*(?:change|improvement|resolution)",
    "(?:near|nearly|almost|partial|partially|incomplete|incompletely|largely|mostly)[ -]"
    "(?:complete(?:ly)? |total(?:ly)? )?(?:interval )?(?:resolution|resolved|resorption|clearing|cleared)(?: of)?",
    f"no longer {_SEEN}", "not well (?:seen|evaluated|visualized)",
)  # fmt: skip
"""These have a negating word and deny nothing that follows."""

_REMOVED = (
    "(?:removed|explanted|discontinued|taken out|pulled(?! back| up)|extracted|"
    "withdrawn(?! back| slightly| by| to| into| approximately| \\d))"
)
"""A device that was pulled back is still there."""

NEGATED_AFTER = _any(
    f"(?:not|no longer) (?:\\w+ )?{_SEEN}",
    "(?:not|no longer) in (?:place|situ)",
    "(?:is|are|was|were)(?: \\w+)? (?:absent|ruled out|excluded|unlikely)",
    f"(?:has|have|had)(?:(?! {_PARTLY})(?: \\w+))? (?:resolved|cleared)",
    f"(?:is|are)(?:(?! {_PARTLY})(?: \\w+))? resolved",
    f"(?:(?:has|have|had)(?: since)? been|is|are|was|were)(?: \\w+)? {_REMOVED}",
    "(?:is|are|has been|have been) (?:now |since )?(?:out|gone)(?! of)",
)
"""These deny what is before them in the clause."""

NEGATED_ENTRY = re.compile(
    r"^\w*(?:(?:,| and| or| &|/)? ?[\w-]+){0,3}\s*(?::|=|--?)\s*"
    r"(?:none|no|not|nil|absent|negative)\b(?! (?:\w+ )?(?:change|increase|improve))"
    rf"|^\w*\s+(?:now |since |interval )?{_REMOVED}"
)
"""An entry of a list or a note: "pneumothorax: none", "lines and tubes: none", "chest tube removed"."""

EXCLUDED_BEFORE = _any(
    "(?:cannot|can not|can't|could not|couldn't|unable to|not possible to|impossible to|difficult to|hard to|"
    "(?:do|does|did) not|doesn't|don't|to|without)(?: \\w+)? (?:exclude|excluding|rule out)",
    "rule out",
    "(?:less|not) likely",
    "(?:favou?red|preferred) over",
    "(?:more|most) likely than",
    "as opposed to",
)
"""To leave something open is a doubt, although its words are those of denials."""

UNCERTAIN_BEFORE = _any(
    "may", "might", "could", "possibl[ey]", "possibility of", "likely", "suspected", "suspicion of",
    "questionable", "question(?: of)?", "concern(?:ing)?(?: for)?", "versus", "vs", "differential", "worrisome for",
    "evaluate for", "correlat(?:e|ion)", "appears? to",
    "presum(?:ed|ably)", "perhaps", "potential(?:ly)?", "equivocal", "indeterminate",
    "in the (?:appropriate|proper) clinical", "doubtful", "dubious", "(?<!no )(?<!without )doubt",
)  # fmt: skip
"""These put what follows them in doubt. "Probable" and "suggestive of" do not: readers mean the finding."""

UNCERTAIN_AFTER = _any(
    "(?:can(?:not| not|'t)|could not|couldn't)(?: be| entirely| completely| definitively| fully)* "
    "(?:excluded?|ruled? out)",
    "not (?:be )?(?:entirely |completely )?(?:excluded|ruled out)",
    "(?:difficult|hard|impossible) to (?:entirely |completely )?(?:exclude|rule out)",
    "(?:is|are|remains?) (?:also |less )?"
    "(?:possible|suspected|questionable|doubtful|doubted|likely|a (?:consideration|possibility))",
    "should be considered",
    "is in the differential",
    "if any",
    "if present",
)
"""These put what is before them in doubt."""

_FINDING = (
    r"(?:atelecta\w*|consolidati\w+|pneumonia|pneumonitis|edema|effusions?|infiltrat\w+|infection|aspiration|collapse|"
    r"pneumothora\w+|fluid|thickening|hemorrhage|contusion)"
)
ALTERNATIVE_AFTER = re.compile(rf"^\w*\s*(?:\b(?:or|versus|vs)\b|/)\.?\s*(?:\w+ ){{0,3}}?{_FINDING}\b")
ALTERNATIVE_BEFORE = re.compile(rf"\b{_FINDING}\s*(?:\b(?:or|versus|vs)\b|/)\.?\s*(?=(?:\w+ ){{0,3}}$)")
"""Of two findings joined by "or" or "versus" one is there, and which of them is in doubt.

Words that follow the "or" are not a part of it: "atelectasis or possibly pneumonia" doubts pneumonia more.
"""

HISTORY = re.compile(r"(?:\bhistory(?: of| for)?|\bh/o|\bhx(?: of)?)(?: [\w-]+){0,5}\s*$")
"""What follows is of the past, or only what somebody told."""

TREATED = re.compile(
    r"(?:\bstatus[- ]post|\bs/p|\bpost)"
    r"(?:(?! (?:with|and|now|without|has|have|had|is|are|there|shows?)\b) [\w-]+){0,6}\s*$"
    r"|\b(?:treated|treatment (?:for|of)|therapy for|recovered from)(?: [\w-]+){0,2}\s*$"
)
"""What follows was treated."""

PRIOR = re.compile(
    r"\b(?:prior|previous|past|former|remote)(?! (?:stud|exam|radiograph|film|chest [xrf]|ct\b|x-?ray|imag|from|and))"
    r"(?: [\w-]+){0,3}\s*$"
)
_EXAMINATION = r"(?:stud(?:y|ies)|exam\w*|radiographs?|films?|ct|x-?rays?|images?|imaging|report)"
_EARLIER = r"(?:prior|previous|earlier|old|outside|last)"
EARLIER_EXAMINATION_BEFORE = re.compile(
    rf"\b{_EARLIER} (?:\w+ ){{0,2}}{_EXAMINATION} (?:\w+ )?"
    r"(?:showed|demonstrated|revealed|described|reported|had|noted|suggested)(?: [\w-]+){0,6}\s*$"
)
EARLIER_EXAMINATION_AFTER = re.compile(
    rf"^\w* (?:was|were) (?:\w+ )?{_SEEN} (?:on|in|at) (?:the )?(?:\w+ )?{_EARLIER}\b"
)
"""What an earlier examination showed."""

STILL_THERE = _any(
    "unchanged", "persists?", "persistent", "remains?", "stable", "again", "increased", "decreased", "improved",
    "worse", "worsened", "larger", "smaller", "similar",
)  # fmt: skip
"""An earlier finding of which one of these is said is a present one."""

LASTING = frozenset({"fracture", "support devices", "other", "pleural other", "cardiomegaly"})
"""Findings that stay when their cause is over: a prior fracture is seen for years."""

NO_LESION_AFTER = re.compile(
    r"^\w*(?:,? [\w-]+){0,4}?,? (?:likely|probably|may|could|which|is|are|represent\w*|reflect\w*|consistent with|"
    r"compatible with|due to|corresponds? to|related to|secondary to|from)(?: [\w-]+){0,3}? "
    r"(?:nipples?|artifacts?|artefacts?|vessels?|summation|superimpos\w+|overlapping|bone islands?|costochondral|"
    r"ekg|ecg|electrodes?|skin)\b"
)
"""A shadow with an explanation outside the lungs: "nodular opacity likely representing nipple shadow"."""

OTHER_PARTS = _any(
    "aort(?:a|ic)", "hil(?:a|ar|um)", "arter(?:y|ies)", "vasculature", "vascularity", "lungs?", "esophagus", "trachea"
)
"""Parts of the body whose size says nothing of the heart or the mediastinum."""

ABNORMAL = _any(
    "(?:en)?larged?r?", "enlargement", "increased?", "prominen(?:t|ce)", "widen(?:ed|ing)", "big", "dilat(?:ed|ation)",
    "borderline", "abnormal", "shifted", "generous",
)  # fmt: skip
"""One of these makes a finding of a part of the body."""

NORMAL = _any(
    "normal", "unremarkable", "within (?:\\w+ )?limits", "stable", "unchanged", "clear", "intact", "preserved", "not",
)  # fmt: skip
"""Where one of these is said of a part of the body, and none of ABNORMAL, the finding is denied."""
