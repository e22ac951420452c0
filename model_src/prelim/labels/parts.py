"""What is said of a part of the body, such as the heart: regular expressions on one sentence in lower case."""

import re

from prelim.labels.rules import any_of

OTHER_PARTS = any_of(
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

STILL_NORMAL = any_of(
    "(?:still|remains?) within (?:the )?(?:upper )?(?:limits? of )?normal", "(?:still|remains?) normal"
)
"""What grew, and is normal: "slightly larger than before but still normal"."""

ABNORMAL = re.compile(
    r"\b(?:(?:en)?larged?r?|enlargement|increased?|prominen(?:t|ce)|widen(?:ed|ing)|big|dilat(?:ed|ation)|"
    rf"borderline|abnormal|shifted|generous)\b{_OF_ANOTHER}"
)
"""One of these makes a finding of a part of the body."""

NORMAL = any_of(
    "normal", "unremarkable", "within (?:\\w+ )?limits", "stable", "unchanged", "clear", "intact", "preserved", "not",
)  # fmt: skip
"""Where one of these is said of a part of the body, and none of ABNORMAL, the finding is denied."""
