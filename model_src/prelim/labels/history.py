"""Words that make a finding one of the past, or one that somebody told: regular expressions on one sentence."""

import re

from prelim.labels.rules import ADVERB, NOT_SEEN, SEEN, any_of

_TOLD = (
    r"history|h/o|p?m?hx|pmh|indications?|reasons? for (?:the )?(?:exam\w*|study)|"
    r"clinical (?:history|questions?|information|details)"
)
TOLD = re.compile(
    rf"^(?:{_TOLD})\s*[:-](?!.*\b(?:findings|impression|conclusion)\s*:)"
    r"|(?:^|,\s*)(?:please )?(?:evaluate|assess|check|eval|look) for(?: [\w-]+){0,4}\s*$"
)
"""A sentence of what was told or asked, not seen; searched up to the finding."""

HISTORY = re.compile(
    rf"(?:\b(?:{_TOLD}|follow(?:ing)?[- ]?up|(?:hospitali[sz]|admitt)ed (?:for|with))\b(?: (?:of|for))?)"
    r"(?:(?: [\w-]+){0,5}|\s*[:-](?:,? [\w-]+)*,?)\s*$"
    r"|\b(?:patient|he|she|who|man|woman) (?:\w+ly )?had(?: an?)?(?: [\w-]+){0,3}\s*$"
)
"""What follows is of the past, or only what somebody told."""

TREATED = re.compile(
    r"(?:\bstatus[- ]post|\bs/p|\bpost)"
    r"(?:(?! (?:with|and|now|without|has|have|had|is|are|there|shows?)\b) [\w-]+){0,6}\s*$"
    r"|\b(?:treated|treatment (?:for|of)|therapy for|recover(?:ed|ing|y) from)(?: [\w-]+){0,2}\s*$"
)
"""What follows was treated."""

HISTORY_AFTER = re.compile(
    r"^\w* history\b|(?<!since)(?<!than)(?<!to)(?<!from)(?<!with)(?<!over)(?<!the) "
    r"(?:last (?:year|month|week|spring|summer|autumn|fall|winter)|"
    r"(?!(?:since|than|to|from|with|over|the|and)\b)\w+ (?:years?|months?) ago|in (?:\w+ )?(?:19|20)\d\d|"
    r"in (?:january|february|march|april|may|june|july|august|september|october|november|december)|"
    r"(?:as|when) an? (?:child|teenager|infant|young)|in childhood|in the past)\b"
)
"""The time of a finding: "had pneumonia last year"."""

PRIOR = re.compile(
    r"\b(?:prior|previous|past|former|remote|recent)"
    r"(?! (?:stud|exam|radiograph|film|chest [xrf]|ct\b|x-?ray|imag|from|and))(?: [\w-]+){0,3}\s*$"
)
_EXAMINATION = r"(?:stud(?:y|ies)|exam\w*|radiographs?|films?|ct|x-?rays?|images?|imaging|report)"
_EARLIER = r"(?:prior|previous|earlier|old|outside|last|yesterday's)"
_ELSEWHERE = (
    r"(?:(?:outside|transferring|referring|other) (?:hospital|institution|facility|clinic|radiologist|physician))"
)
EARLIER_EXAMINATION_BEFORE = re.compile(
    rf"\b(?:{_EARLIER} (?:\w+ ){{0,2}}{_EXAMINATION}|{_ELSEWHERE}) (?:\w+ )?"
    r"(?:showed|mentioned|mentions|demonstrated|revealed|described|reported|had|noted|suggested)(?: [\w-]+){0,6}\s*$"
)
EARLIER_EXAMINATION_AFTER = re.compile(
    rf"^\w* (?:was|were) (?:\w+ )?{SEEN} (?:on|in|at) (?:the )?(?:\w+ )?{_EARLIER}\b"
)
"""What an earlier examination showed."""

OTHER_EXAMINATION = any_of(
    f"(?:outside|prior|previous|earlier|old|last|comparison|recent|scout|yesterday's) (?:\\w+ )?{_EXAMINATION}",
    "cts?", "tomogra\\w+", "mri", "pet", "ultrasound", "sonogra\\w+",
    _ELSEWHERE, "elsewhere", "on the (?:prior|previous)",
)  # fmt: skip
_AND_NOW = (
    r"(?:[.;,]|\b(?:but|however|yet|although|though|and|which|that)\b)(?: (?:but|and|however|which|now|today),?)*"
)
NOT_HERE = re.compile(
    rf"{_AND_NOW}(?: (?:it|this|these|they|that|we))? {NOT_SEEN}"
    rf"|{_AND_NOW} none (?:(?:is|are) )?(?:\w+ )?{SEEN}\b"
    rf"|{_AND_NOW} (?:we|i) (?:do |did |can |could )?(?:not|cannot) (?:\w+ )?(?:see|find|identify|detect|confirm) "
    r"(?:it|them|this|one|any)\b"
    rf"|{_AND_NOW} not (?:(?:on|in) (?:this|these|the (?:current|present|new)|today's)|here|now|today)\b"
    r"|\b(?:(?:has|have|with) no|without an?) (?:\w+ ){0,2}correlate"
    r"|\b(?:not|never|cannot be) (?:\w+ )?(?:reproduced|replicated|duplicated)\b"
)
"""A finding of another examination that this one does not show; the words after the mention."""

REMOVAL = re.compile(
    r"^\w*\s+(?:(?:line|tube|catheter|drain|device|lead|wire)s? )?(?:removal|extraction|explantation|withdrawal)\b"
)
TO_COME = re.compile(
    r"\b(?:before|prior to|until|await(?:ing)?|for|consider|recommend\w*|request\w*|plan(?:ned)?)(?: [\w-]+){0,3}\s*$"
)
"""A device is gone after "chest tube removal", unless that is still to come."""

HEALED = re.compile(r"^\w*,? (?:(?:now|all|since|which|have|has) ){0,2}(?:healed|healing)\b")
"""An old fracture that is seen: "history of rib fractures, now healed"."""

NEW_SINCE = re.compile(
    rf"\b(?:(?:not|never)(?: been)?(?: {ADVERB})? {SEEN}|absent),? (?:previously|before|earlier|formerly|"
    rf"(?:on|in|at|from) (?:(?:the|any|a) )?(?:\w+ )?{_EARLIER})\b"
    rf"|\b(?:not|never)(?: been)? (?:previously|formerly|earlier|before) {SEEN}"
)
"""A finding that an earlier examination did not show is new."""

STILL_THERE = any_of(
    "unchanged", "persists?", "persistent", "remains?", "stable", "again", "increased", "decreased", "improved",
    "worse", "worsened", "larger", "smaller", "similar",
)  # fmt: skip
"""An earlier finding of which one of these is said is a present one."""

LASTING = frozenset({"fracture", "support devices", "other", "pleural other", "cardiomegaly"})
"""Findings that stay when their cause is over: a prior fracture is seen for years."""
