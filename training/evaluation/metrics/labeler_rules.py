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

_OTHER_ONE = (
    rf"(?:(?:the |that on the |the one on the ){_SIDE}(?: one| side)?|the other(?: one| side)?) "
    r"(?:(?:still|only) )?(?:remains?|persists?|is (?:still )?(?:unchanged|stable|present|there|larger|smaller)|"
    r"has (?:increased|decreased|enlarged|worsened|grown)|(?:has|does|is) not(?=\s*(?:[.,;]|$)))(?! clear| normal)"
)
_ONE_THERE = (
    rf"there (?:is|are|remains?|persists?) (?:still |now )?(?:one|some|(?:an? )?{_SIZE} (?:one|amount)) "
    rf"(?:on|at|in) (?:the )?{_SIDE}"
)
_BOTH_THERE = r"(?:both|all) (?:remain|persist|are (?:still )?(?:present|seen|noted|there|visible))(?! normal| clear)"
"""The other side, with the finding left out: "but the left remains", "but there is one on the right"."""

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
    rf"|(?:[,;]|\b(?:but|and|while|whereas|although|however)\b)\s*(?:but |and |while )?"
    rf"(?:{_OTHER_ONE}|{_ONE_THERE}|{_BOTH_THERE})"
)
"""What is denied on one side is there on the other: "moderate right and no left effusion"."""

_SEEN = (
    "(?:seen|identified|present|evident|demonstrated|redemonstrated|visuali[sz]ed|visible|appreciated|appreciable|detected|"
    "detectable|discern(?:ed|ible)|noted|suspected|observed|apparent|found|shown|recogni[sz](?:ed|able)|there)"
)
_GONE = (
    "(?:resolved|cleared|disappeared|subsided|vanished|dissipated|abated|(?:re|re?ab)sorbed|faded|"
    "gone(?: away)?|melted away)"
)
_EXCLUDED = "(?:excluded?|ruled? (?:in or )?out|confirm(?:ed)?|guaranteed?|discounted?|dismiss(?:ed)?)"
_ADVERB = r"(?:\w+ly|very|quite|rather|also|most|now)"
_LINK = (
    "(?:is|are|was|were|seems?|appears?|looks?|remains?)"
    f"(?: (?:thought|felt|considered|believed|deemed|judged))?(?: to be)?(?: {_ADVERB}){{0,2}}"
)
"""What joins a finding to how likely it is: "pneumonia is thought to be very unlikely"."""

_AFFIRMED = (
    "(?:small|tiny|trace|mild|moderate|minimal|minor|slight|stable|unchanged|persist(?:ent|ing)|residual|patchy|"
    "increas(?:ed|ing)|worsen(?:ed|ing)|improv(?:ed|ing)|decreas(?:ed|ing)|known|chronic|similar|bilateral|bibasilar|old|healed|healing)"
)
"""Words that a denied finding hardly ever has: "no pneumothorax, small effusion". Not among them: "large", "new"."""

_NEVER_LISTED = (
    "(?:fractures?|cardiomegaly|atelectasis|scar(?:ring|s)?|granulomas?|scoliosis|pacemaker|picc|catheter|tube|clips)"
)
"""What is not in lists of denied findings that have no "or": "no pneumothorax, rib fracture" has two statements."""


def _ends(*words: str) -> str:
    """The place after one of these words."""
    return "|".join(f"(?<={word})" for word in words)


_END_OF_GENERAL = _ends("process", "processes", "disease", "abnormality", "abnormalities", "finding", "findings")
_END_OF_FINDING = _ends(
    "pneumothorax", "effusion", "effusions", "consolidation", "edema", "pneumonia", "infiltrate", "infiltrates"
)

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
    r"|(?:,|\band\b)\s*(?:the )?(?:persistence|progression|worsening|recurrence|development|appearance) (?:of|in)\b"
    r"(?!.*\bn?or\b)"
    r"|(?:,|\band\b)\s*+(?!(?:n?or|and|with)\b)(?=(?:[\w-]+ ){1,5}(?:placed|inserted|introduced|positioned)\b)"
    rf"|(?:{_END_OF_GENERAL}),(?!.*(?:,|\bn?or\b))"
    rf"|(?:{_END_OF_FINDING}|{_END_OF_GENERAL}),\s*(?=(?:[\w-]+ ){{0,3}}{_NEVER_LISTED}\b)(?!.*(?:,|\b(?:n?or|and)\b))"
    rf"|,\s*+(?!(?:or|nor|and|with|if|which|that|{_VERB})\b)(?={_NO_LIST}\b{_VERB}\b)"
    rf"|,\s*not (?:well |clearly |definitely )?{_SEEN} (?:on|in) (?:the )?(?:lateral|frontal|pa|ap|other|opposite)\b"
    rf"|,\s*+(?!(?:or|nor|and|if|which|that)\b)(?={_NO_LIST}\b{_SEEN} (?:on|in|at) (?:the )?{_SIDE})"
    rf"|\band\b(?={_NO_LIST}\b(?:remains?|persists?|(?:is|are|has|have) (?:\w+ )?(?:{_AFFIRMED}|enlarged|prominent))\b)"
    rf"|(?:(?<= seen)|(?<= identified)|(?<= evident)|(?<= noted)|(?<= present))(?:,|\s+and\b)"
)
"""Starts another statement of the same sentence: "no pneumothorax, a small effusion is present".

So does what is said of another view: "a nodule on the frontal view, not seen on the lateral view".
"""

NEGATED_BEFORE = _any(
    "no", "non", "not", "without", "never", "nor", "neither", "absent", "absence of", "negative for", "free of",
    "clear of", "lack of", "denies", "ruled out", "excludes?", "resolved", "resolution of", "clearing of",
    "resolving of", "rather than", "instead of", "cleared of", "removal of", "removed", "unlikely", "no longer",
    "(?:discontinuation|discontinuance|explantation|extraction) of", "explanted", "discontinued", "nothing", "zero",
    "nil", "devoid of", "(?:argues?|speaks?) against", "cannot (?:see|identify|find|detect|make out)", "improbable",
    "(?:hardly|scarcely) any", "lack(?:s|ing)?", "excluding", "mimic(?:s|king|ked)?", "simulat(?:es?|ing|ed)",
    "(?:little|scant) (?:\\w+ )?(?:evidence|suspicion|concern|to (?:suggest|indicate|support))",
    "fail(?:s|ed|ure)?(?: of (?:\\w+ ){1,3})? ?to (?:show|demonstrate|reveal)",
)  # fmt: skip
"""These deny what follows them in the clause."""

NO_NEGATION = _any(
    "no (?:significant |interval |appreciable |definite |large |great )*(?:change|increase|improvement|progression|"
    "worsening|decrease|reduction|enlargement|growth|difference|resolution|clearing)",
    "not (?:significantly |appreciably )?(?:changed|improved|increased|only|certain(?:ly)?|"
    "excluded|ruled out|resolved)",
    f"not (?:yet |completely |entirely |fully )*{_GONE}",
    "without (?:significant |interval )*(?:change|improvement|resolution)",
    "(?:near|nearly|almost|partial|partially|incomplete|incompletely|largely|mostly)[ -]"
    "(?:complete(?:ly)? |total(?:ly)? )?(?:interval )?(?:resolution|resolved|resorption|clearing|cleared)(?: of)?",
    r"not (?:\w+ )?(?:clear(?:ed)?|aerated|expanded|inflated)(?! of)",
    f"no longer {_SEEN}", "not well (?:seen|evaluated|visualized)",
)  # fmt: skip
"""These have a negating word and deny nothing that follows."""

_REMOVED = (
    "(?:removed|explanted|discontinued|taken out|pulled(?! back| up)|extracted|"
    "withdrawn(?! back| slightly| by| to| into| approximately| \\d))"
)
"""A device that was pulled back is still there."""

NEGATED_AFTER = _any(
    f"(?:not|no longer|cannot|never)(?: be| been)?(?: \\w+)? (?:{_SEEN}|developed|recurred|occurred|reaccumulated)",
    "(?:not|no longer) in (?:place|situ)",
    f"{_LINK} (?:absent|ruled out|excluded|unlikely|improbable|(?:not|dis)(?: ?favou?red| likely))",
    "(?:unlikely|improbable|(?:not |dis)favou?red)$",
    f"(?:has|have|had)(?: now)? been (?:{_ADVERB} )?(?:ruled out|excluded)",
    f"(?:has|have|had)(?:(?! {_PARTLY}) \\w+){{0,2}} {_GONE}",
    f"(?:is|are)(?:(?! {_PARTLY})(?: \\w+))? resolved",
    f"(?:(?:has|have|had)(?: since)? been|is|are|was|were)(?: \\w+)? {_REMOVED}",
    "(?:is|are|has been|have been) (?:now |since )?(?:out|gone)(?! of)",
)
"""These deny what is before them in the clause."""

NEGATED_ENTRY = re.compile(
    r"^\w*(?:(?:,| and| or| &|/)? ?[\w-]+){0,3}\s*(?::|=|--?)\s*"
    r"(?:none|no|not|nil|absent|negative)\b(?! (?:\w+ )?(?:change|increase|improve))"
    rf"|^\w*\s+(?:(?:line|tube|catheter|drain|device|lead|wire)s? )?(?:now |since |interval )?{_REMOVED}"
)
"""An entry of a list or a note: "pneumothorax: none", "lines and tubes: none", "chest tube removed"."""

EXCLUDED_BEFORE = _any(
    "(?:cannot|could not|unable to|not (?:able|possible) to|no way to|impossible to|difficult to|hard to|"
    f"(?:do|does|did|may|might) not|to|without)(?: \\w+){{0,3}}? (?:{_EXCLUDED}|excluding)",
    "rule out",
    "(?:exclusion|ruling out)(?: of)?",
    "cannot be (?:sure|certain|confident)",
    "(?:less|not) likely",
    "(?:favou?red|preferred) over",
    r"(?:favou?rs?|prefers?)(?: \w+){1,4} over",
    "(?:more|most) likely than",
    "as opposed to",
)
"""To leave something open is a doubt, although its words are those of denials."""

UNCERTAIN_BEFORE = _any(
    "may", "might", "could", "possibl[ey]", "possibility of", "likely", "suspected",
    "questionable", "question(?: of)?", "concern(?:ing)?(?: for)?", "versus", "vs", "differential", "worrisome for",
    "suspects?", "suspicio(?:n|us) (?:of|for)", "query", "conceivabl[ey]",
    "evaluate for", "correlat(?:e|ion)", "appears? to",
    "presum(?:ed|ably)", "perhaps", "potential(?:ly)?", "equivocal", "(?<!age[ -])indeterminate",
    "if any", "in the (?:appropriate|proper) clinical", "doubtful", "dubious", "(?<!no )(?<!without )doubt",
)  # fmt: skip
"""These put what follows them in doubt. "Probable" and "suggestive of" do not: readers mean the finding."""

UNCERTAIN_AFTER = _any(
    f"(?:cannot|could not|may not|might not|can neither)(?: be| with certainty| neither| {_ADVERB})* {_EXCLUDED}",
    f"not (?:be )?(?:{_ADVERB} )?(?:excluded|ruled out)",
    f"(?:difficult|hard|impossible) to (?:{_ADVERB} )?(?:exclude|rule out)",
    f"{_LINK} (?:less )?"
    "(?:possible|suspected|questionable|doubtful|doubted|likely|conceivable|a (?:consideration|possibility))",
    "less likely$",
    "(?:may|might|could) (?:also )?be (?:hidden|obscured|masked|missed|overlooked|present)",
    "should be considered",
    "is in the differential",
    "among the (?:\\w+ ){0,2}(?:considerations|possibilities|differentials?)",
    "(?:is|are|was|were) (?:questioned|queried|raised)",
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

HISTORY = re.compile(
    r"(?:\b(?:history|h/o|p?m?hx|pmh|indications?|follow(?:ing)?[- ]?up|"
    r"reasons? for (?:the )?(?:exam\w*|study)|"
    r"clinical (?:questions?|information|details)|(?:hospitali[sz]|admitt)ed (?:for|with))\b(?: (?:of|for))?)"
    r"(?:(?: [\w-]+){0,5}|\s*[:-](?:,? [\w-]+)*,?)\s*$"
)
"""What follows is of the past, or only what somebody told."""

TREATED = re.compile(
    r"(?:\bstatus[- ]post|\bs/p|\bpost)"
    r"(?:(?! (?:with|and|now|without|has|have|had|is|are|there|shows?)\b) [\w-]+){0,6}\s*$"
    r"|\b(?:treated|treatment (?:for|of)|therapy for|recovered from)(?: [\w-]+){0,2}\s*$"
)
"""What follows was treated."""

HISTORY_AFTER = re.compile(
    r"^\w* history\b|(?<!since)(?<!than)(?<!to)(?<!from)(?<!with)(?<!over)(?<!the) "
    r"(?:last (?:year|month|week|spring|summer|autumn|fall|winter)|"
    r"(?!(?:since|than|to|from|with|over|the|and)\b)\w+ (?:years?|months?) ago|in (?:\w+ )?(?:19|20)\d\d|"
    r"(?:as|when) an? (?:child|teenager|infant|young)|in childhood|in the past)\b"
)
"""The time of a finding: "had pneumonia last year"."""

PRIOR = re.compile(
    r"\b(?:prior|previous|past|former|remote|recent)"
    r"(?! (?:stud|exam|radiograph|film|chest [xrf]|ct\b|x-?ray|imag|from|and))(?: [\w-]+){0,3}\s*$"
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

HEALED = re.compile(r"^\w*,? (?:(?:now|all|since|which|have|has) ){0,2}(?:healed|healing)\b")
"""An old fracture that is seen: "history of rib fractures, now healed"."""

NEW_SINCE = re.compile(
    rf"\b(?:(?:not|never)(?: been)?(?: {_ADVERB})? {_SEEN}|absent),? (?:previously|before|earlier|formerly|"
    rf"(?:on|in|at|from) (?:(?:the|any|a) )?(?:\w+ )?{_EARLIER})\b"
    rf"|\b(?:not|never)(?: been)? (?:previously|formerly|earlier|before) {_SEEN}"
)
"""A finding that an earlier examination did not show is new."""

STILL_THERE = _any(
    "unchanged", "persists?", "persistent", "remains?", "stable", "again", "increased", "decreased", "improved",
    "worse", "worsened", "larger", "smaller", "similar",
)  # fmt: skip
"""An earlier finding of which one of these is said is a present one."""

LASTING = frozenset({"fracture", "support devices", "other", "pleural other", "cardiomegaly"})
"""Findings that stay when their cause is over: a prior fracture is seen for years."""

NOT_REAL_AFTER = re.compile(
    r"^\w*(?: on the (?:left|right))? (?:represents?|is|are|was|corresponds? to|reflects?) (?:\w+ly )?(?:only )?"
    r"(?:an? |the )?(?:skin ?folds?|nipples?|artefacts?|artifacts?|scapula\w*|nutrient vessels?|breast tissue|clothing|"
    r"hair)\b"
)
"""What only looks like a finding: "an apparent pneumothorax represents a skin fold"."""

NO_LESION_AFTER = re.compile(
    r"^\w*(?:,? [\w-]+){0,4}?,? (?:likely|probably|may|could|which|is|are|represent\w*|reflect\w*|consistent with|"
    r"compatible with|due to|corresponds? to|related to|secondary to|from)(?: [\w-]+){0,3}? "
    r"(?:nipples?|artefacts?|artifacts?|vessels?|summation|superimpos\w+|overlapping|bone islands?|costochondral|"
    r"ekg|ecg|electrodes?|skin)\b"
)
"""A shadow with an explanation outside the lungs: "nodular opacity likely representing nipple shadow"."""

OTHER_PARTS = _any(
    "aort(?:a|ic)", "hil(?:a|ar|um)", "arter(?:y|ies)", "vasculature", "vascularity", "lungs?", "esophagus", "trachea"
)
"""Parts of the body whose size says nothing of the heart or the mediastinum."""

_OTHER_NOUN = (
    r"(?:effusions?|pneumothora\w+|hernias?|mass(?:es)?|vessels?|vascular\w*|opacit\w+|markings|densit\w+|volumes?|fat|"
    r"gas|air|hyperinflation|consolidations?|atelectasis|nodul\w+|pneumonia|infiltrates?|edema|fluid|collapse|"
    r"calcifications?|interstitium|lucenc\w+)"
)
_OF_ANOTHER = (
    r"(?! (?:(?!(?:with|and|but|in|of|or|by|for|due|from|since|than|as)\b)[\w-]+ ){0,3}" + _OTHER_NOUN + r"\b)"
)
"""Not an adjective of another noun: "heart size is normal with a large left effusion"."""

STILL_NORMAL = _any("(?:still|remains?) within (?:the )?(?:upper )?(?:limits? of )?normal", "(?:still|remains?) normal")
"""What grew, and is normal: "slightly larger than before but still normal"."""

ABNORMAL = re.compile(
    r"\b(?:(?:en)?larged?r?|enlargement|increased?|prominen(?:t|ce)|widen(?:ed|ing)|big|dilat(?:ed|ation)|"
    rf"borderline|abnormal|shifted|generous)\b{_OF_ANOTHER}"
)
"""One of these makes a finding of a part of the body."""

NORMAL = _any(
    "normal", "unremarkable", "within (?:\\w+ )?limits", "stable", "unchanged", "clear", "intact", "preserved", "not",
)  # fmt: skip
"""Where one of these is said of a part of the body, and none of ABNORMAL, the finding is denied."""
