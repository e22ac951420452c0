"""Words that turn a finding into its absence, or into a doubt: written here, after the ideas of NegEx and NegBio.

Sources: Chapman et al., "A Simple Algorithm for Identifying Negated Findings and Diseases in Discharge Summaries", J
Biomed Inform 2001; Peng et al., "NegBio: a High-performance Tool for Negation and Uncertainty Detection in Radiology
Reports", AMIA 2018. Everything is a regular expression on one sentence in lower case.
"""

import re


def any_of(*patterns: str) -> re.Pattern[str]:
    """Any of these, as whole words."""
    return re.compile(r"\b(?:" + "|".join(patterns) + r")\b")


_SIDE = "(?:left|right)(?:[ -]sided)?"
_SIZE = (
    "(?:small|tiny|trace|mild|moderate|minimal|minor|slight|large|massive|stable|unchanged|persist(?:ent|ing)|residual|"
    "increas(?:ed|ing)|worsen(?:ed|ing)|new|moderate to large|small to moderate)"
)
_OLD_ONE = r"the (?:other|old|older|known|existing|previous|prior) one\b"
_REST = (
    rf"(?:and |but |there is )?(?:an? )?{_SIZE}(?:[- ]sized)?(?: ones?)? (?:(?:is |are )?(?:seen |noted )?(?:on|at|in) "
    rf"(?:the )?{_SIDE}(?: side| base| lung)?|{_SIDE})(?=\s*(?:[.;,]|$))"
)
"""The other side, without the finding: "no effusion on the left; moderate on the right"."""

_OTHER_ONE = (
    rf"(?:the {_SIDE}(?: one| side)?|"
    rf"(?:that|the one) (?:on|in|at) the {_SIDE}(?: side| base| apex| lung| (?:upper|middle|lower) lobe)?|"
    rf"the other(?: side)?|{_OLD_ONE}) "
    r"(?:(?:still|only) )?(?:remains?|persists?|is (?:still )?(?:unchanged|stable|present|there|larger|smaller)|"
    rf"has (?:increased|decreased|enlarged|worsened|grown|an? (?:{_SIZE} )?one)|"
    r"(?:has|does|is) not(?=\s*(?:[.,;]|$)))(?! clear| normal)"
)
_ONE_THERE = (
    rf"there (?:is|are|remains?|persists?) (?:still |now )?(?:one|some|(?:an? )?{_SIZE} (?:one|amount)) "
    rf"(?:on|at|in) (?:the )?{_SIDE}"
)
_BOTH_THERE = r"(?:both|all) (?:remain|persist|are (?:still )?(?:present|seen|noted|there|visible))(?! normal| clear)"
"""The other side, with the finding left out: "but the left remains", "but there is one on the right"."""

SEEN = (
    "(?:seen|identified|present|evident|demonstrated|redemonstrated|visuali[sz]ed|visible|appreciated|appreciable|detected|"
    "detectable|discern(?:ed|ible)|noted|suspected|observed|apparent|found|shown|recogni[sz](?:ed|able)|there)"
)
NOT_SEEN = (
    r"(?:(?:is|are|was|were|has|have|can|could|do|does) )?(?:not|no longer|never|cannot)(?: be| been)?(?: \w+)? "
    rf"(?:{SEEN}|confirmed|reproduced|replicated|duplicated)"
    r"(?! (?:on|in) (?:the )?(?:lateral|frontal|pa|ap|other|opposite)\b)"
)
"""Words of denial, but for what only one of two views shows."""

SENTENCE_END = re.compile(
    r"(?<!\bvs)(?<!\bVS)(?<!\be\.g)(?<!\bi\.e)(?<!\bDr)[.!?;]+(?=\s|$|(?<=[a-z][.!?;])[A-Z])"
    rf"(?!(?i:\s+(?:{_REST}|{_OLD_ONE}|(?:it|this|they) {NOT_SEEN}\b)))|\n\s*\n"
)
"""Decimal points and abbreviations end nothing; a full stop before a capital does, also where the space is missing.

What is said of the other side without the finding belongs to the sentence before, as does "it is not seen".
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

_GONE = (
    "(?:resolved|cleared|disappeared|subsided|vanished|dissipated|abated|(?:re|re?ab)sorbed|faded|"
    "gone(?: away)?|melted away)"
)
_EXCLUDED = "(?:excluded?|ruled? (?:in or )?out|confirm(?:ed)?|guarantee(?:d)?|discount(?:ed)?|dismiss(?:ed)?)"
_LEFT_OPEN = rf"(?:{_EXCLUDED}(?<=d)|ruled (?:in or )?out|{_EXCLUDED}(?= (?:with|on|at|by|in|here)\\b|\\s*$))"
"""After a finding: "atelectasis, cannot exclude pneumonia" leaves only pneumonia open."""
_HARD_TO_TELL = (
    "(?:difficult|hard|impossible|cannot|unable) (?:to )?(?:be )?"
    r"(?:separated?|distinguish(?:ed)?|differentiated?|tell|told)(?: \w+)?"
)
ADVERB = r"(?:\w+ly|very|quite|rather|also|most|now)"
_LINK = (
    "(?:is|are|was|were|seems?|appears?|looks?|remains?)"
    f"(?: (?:thought|felt|considered|believed|deemed|judged))?(?: to be)?(?: {ADVERB}){{0,2}}"
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

CLAUSE_END = any_of(
    "but", "however", "although", "though", "except", "otherwise", "aside from", "apart from", "yet", "while",
    "whereas", "despite", "in spite of",
)  # fmt: skip
"""Neither a denial nor a doubt reaches beyond these."""

_BESIDE = (
    "(?:accompan(?:y|ies|ying)|surround(?:s|ing)?|overl(?:ies|ying)|underl(?:ies|ying)|within|around|beneath|"
    "adjacent to)"
)
_THING = (
    r"(?:opacit\w+|mass(?:es)?|nodules?|lesions?|consolidations?|effusions?|pneumothora\w+|fractures?|pneumonia|"
    "atelectasis)"
)
"""What is denied next to a thing leaves the thing: "no effusion accompanies the opacity"."""

NEW_STATEMENT = re.compile(
    rf"(?:,|\band\b|\bwith\b)\s*(?:and |with )?(?:there (?:is|are|has|have)|now|the)\b"
    r"(?!(?: [\w-]+){1,3} (?:(?:have|were)(?: been)? removed|(?:are|have) (?:not|resolved|cleared)))"
    rf"|(?:,|\band\b|\bwith\b)\s*(?:and |with )?(?:an? )?{_AFFIRMED}\b(?!.*\bn?or\b)"
    rf"|\band\s+(?:an? )?{_SIZE} {_SIDE}\b(?!.*\bn?or\b)"
    r"|,?\s*\b(?:leaving|revealing|unmasking|replaced by|followed by|"
    r"(?:after|following)(?=(?: [\w-]+){1,5} (?:placement|insertion)))\b"
    rf"|\b{_BESIDE} (?:the|this|that|these|those)\b(?=(?: [\w-]+){{0,4}} {_THING}\b)(?!.*(?:,|\bn?or\b))"
    rf"|,\s*(?:no|without)\b"
    r"|(?:,|\band\b)\s*(?:the )?(?:persistence|progression|worsening|recurrence|development|appearance) (?:of|in)\b"
    r"(?!.*\bn?or\b)"
    r"|(?:,|\band\b)\s*+(?!(?:n?or|and|with)\b)(?=(?:[\w-]+ ){1,5}(?:placed|inserted|introduced|positioned)\b)"
    rf"|(?:{_END_OF_GENERAL}),(?!.*(?:,|\bn?or\b))"
    rf"|(?:{_END_OF_FINDING}|{_END_OF_GENERAL}),\s*(?=(?:[\w-]+ ){{0,3}}{_NEVER_LISTED}\b)(?!.*(?:,|\b(?:n?or|and)\b))"
    rf"|,\s*+(?!(?:or|nor|and|with|if|which|that|{_VERB})\b)(?={_NO_LIST}\b{_VERB}\b)"
    rf"|,\s*not (?:well |clearly |definitely )?{SEEN} (?:on|in) (?:the )?(?:lateral|frontal|pa|ap|other|opposite)\b"
    rf"|,\s*+(?!(?:or|nor|and|if|which|that)\b)(?={_NO_LIST}\b{SEEN} (?:on|in|at) (?:the )?{_SIDE})"
    rf"|\band\b(?={_NO_LIST}\b(?:remains?|persists?|(?:is|are|has|have) (?:\w+ )?(?:{_AFFIRMED}|enlarged|prominent))\b)"
    rf"|(?:(?<= seen)|(?<= identified)|(?<= evident)|(?<= noted)|(?<= present))(?:,|\s+and\b)"
)
"""Starts another statement of the same sentence: "no pneumothorax, a small effusion is present".

So does what is said of another view: "a nodule on the frontal view, not seen on the lateral view".
"""

NEGATED_BEFORE = any_of(
    "no", "non", "not", "without", "never", "nor", "neither", "absent", "absence of", "negative for", "free of",
    "clear of", "lack of", "denies", "ruled out", "excludes?", "resolved", "resolution of", "clearing of",
    "resolving of", "rather than", "instead of", "cleared of", "removal of", "removed", "unlikely", "no longer",
    "(?:discontinuation|discontinuance|explantation|extraction) of", "explanted", "discontinued", "nothing", "zero",
    "nil", "devoid of", "(?:argu(?:es?|ing)|speak(?:s|ing)?) against", "improbable",
    "cannot (?:see|identify|find|detect|make out)", "(?:hardly|scarcely) any", "lack(?:s|ing)?", "excluding",
    "mimic(?:s|king|ked)?", "simulat(?:es?|ing|ed)",
    "(?:little|scant) (?:\\w+ )?(?:evidence|suspicion|concern|to (?:suggest|indicate|support))",
    "fail(?:s|ed|ure)?(?: of (?:\\w+ ){1,3})? ?to (?:show|demonstrate|reveal)",
    "(?:low|little|negligible) (?:likelihood|probability|chance|suspicion) (?:of|for|that)",
)  # fmt: skip
"""These deny what follows them in the clause."""

NO_NEGATION = any_of(
    "no (?:significant |interval |appreciable |definite |large |great )*(?:change|increase|improvement|progression|"
    "worsening|decrease|reduction|enlargement|growth|difference|resolution|clearing)",
    "not (?:significantly |appreciably )?(?:changed|improved|increased|only|certain(?:ly)?|"
    "excluded|ruled out|resolved)",
    f"not (?:yet |completely |entirely |fully )*{_GONE}",
    "without (?:significant |interval )*(?:change|improvement|resolution)",
    "(?:near|nearly|almost|partial|partially|incomplete|incompletely|largely|mostly)[ -]"
    "(?:complete(?:ly)? |total(?:ly)? )?(?:interval )?(?:resolution|resolved|resorption|clearing|cleared)(?: of)?",
    r"not (?:\w+ )?(?:clear(?:ed)?|aerated|expanded|inflated)(?! of)",
    f"no longer {SEEN}", "not well (?:seen|evaluated|visualized)",
    "(?:no|without) (?:doubt|question)(?: about| of| that| as to)?",
    "(?:no|without)(?: evidence of)?(?: \\w+){0,2} (?:component|element|mass effect|shift|tension|cavitation|"
    "loculation|complication)s? (?:to|of|from|in|within|associated with|related to)",
)  # fmt: skip
"""These have a negating word and deny nothing that follows."""

_REMOVED = (
    "(?:removed|explanted|discontinued|taken out|pulled(?! back| up)|extracted|"
    "withdrawn(?! back| slightly| by| to| into| approximately| \\d))"
)
"""A device that was pulled back is still there."""

NEGATED_AFTER = any_of(
    f"(?:not|no longer|cannot|never)(?: be| been)?(?: \\w+)? (?:{SEEN}|developed|recurred|occurred|reaccumulated)",
    "(?:not|no longer) in (?:place|situ)",
    f"{_LINK} (?:absent|ruled out|excluded|unlikely|improbable|(?:not|dis)(?: ?favou?red| likely))",
    "(?:unlikely|improbable|(?:not |dis)favou?red)$",
    f"(?:has|have|had)(?: now)? been (?:{ADVERB} )?(?:ruled out|excluded)",
    f"(?:has|have|had)(?:(?! {_PARTLY}) \\w+){{0,2}} {_GONE}",
    f"(?:is|are)(?:(?! {_PARTLY})(?: \\w+))? resolved",
    f"(?:(?:has|have|had)(?: since)? been|is|are|was|were)(?: \\w+)? {_REMOVED}",
    "(?:is|are|has been|have been) (?:now |since )?(?:out|gone)(?! of)",
    "(?:has|have) (?:\\w+ )?(?:come|fallen|slipped) out(?! of the)",
    "(?<!not )out of the question",
)
"""These deny what is before them in the clause."""

NEGATED_ENTRY = re.compile(
    r"^\w*+(?:-\w++)*+(?:(?:,| and| or| &|/)? ?\w++(?:-\w++)*+){0,3}\s*(?::|=|--?)\s*"
    r"(?:none|no|not|nil|absent|negative)\b(?! (?:\w+ )?(?:change|increase|improve))"
    rf"|^\w*\s+(?:(?:line|tube|catheter|drain|device|lead|wire)s? )?(?:now |since |interval )?{_REMOVED}"
)
"""An entry of a list or a note: "pneumothorax: none", "lines and tubes: none", "chest tube removed"."""

EXCLUDED_BEFORE = any_of(
    "(?:cannot|could not|unable to|not (?:able|possible) to|no way to|impossible to|difficult to|hard to|"
    f"(?:do|does|did|may|might) not|to|without)(?: \\w+){{0,3}}? (?:{_EXCLUDED}|excluding)",
    "rule out",
    "(?:exclusion|ruling out)(?: of)?",
    f"{_HARD_TO_TELL} from",
    "(?:not |in)distinguishable from",
    "cannot be (?:sure|certain|confident)",
    "(?:less|not) likely",
    "(?:favou?red|preferred) over",
    r"(?:favou?rs?|prefers?)(?: \w+){1,4} over",
    "(?:more|most) likely than",
    "as opposed to|with(?:out)? or with(?:out)?",
    "(?<=^)(?:please |clinically )?exclude",
    "(?:please|clinically) exclude",
)
"""To leave something open is a doubt, although its words are those of denials."""

UNCERTAIN_BEFORE = any_of(
    "may", "might", "could", "possibl[ey]", "possibility of", "likely", "suspected",
    "questionable", "question(?: of)?", "concern(?:ing)?(?: for)?", "versus", "vs", "differential", "worrisome for",
    "suspects?", "suspicio(?:n|us) (?:of|for)", "query", "conceivabl[ey]",
    "evaluate for", "correlat(?:e|ion)", "appears? to",
    "presum(?:ed|ably)", "perhaps", "potential(?:ly)?", "equivocal", "(?<!age[ -])indeterminate",
    "if any", "whether", "in the (?:appropriate|proper) clinical", "doubtful", "dubious", "(?<!no )(?<!without )doubt",
)  # fmt: skip
"""These put what follows them in doubt. "Probable" and "suggestive of" do not: readers mean the finding."""

UNCERTAIN_AFTER = any_of(
    f"(?:cannot|could not|may not|might not|can neither)(?: be| with certainty| neither| {ADVERB})* {_LEFT_OPEN}",
    f"not (?:be )?(?:{ADVERB} )?(?:excluded|ruled out)",
    f"(?:difficult|hard|impossible) to (?:{ADVERB} )?(?:exclude|rule out|dismiss|discount)",
    f"{_HARD_TO_TELL} (?:from|apart)",
    "not out of the question",
    f"{_LINK} (?:less )?"
    "(?:possible|suspected|questionable|doubtful|doubted|likely|conceivable|a (?:consideration|possibility))",
    "less likely$",
    "(?:may|might|could|would) (?:also |easily )?be (?:easily )?(?:hidden|obscured|masked|missed|overlooked|present|"
    "(?:hard|difficult|impossible) to (?:see|detect|appreciate|identify|recognize))",
    "should be considered",
    "(?:is|are|remains?) (?:with)?in the (?:\\w+ )?differential",
    "among the (?:\\w+ ){0,2}(?:considerations|possibilities|differentials?)",
    "(?:is|are|was|were) (?:questioned|queried|raised)",
    "if (?:any|present)",
)
"""These put what is before them in doubt."""

DOUBTED_AFTER = re.compile(
    r"^\w*,? (?:suspected|questioned|queried|possible)\b"
    r"|^\w*,?\s*\(?(?:versus|vs\.?|or) (?:an? |the )?(?:\w+ ){0,2}(?:skin ?folds?|artefacts?|artifacts?|vessels?|"
    r"nipples?|summation|superimposition|overlap|shadows?|soft tissues?)\b"
)
"""These put what is directly before them in doubt, unless it is denied: "nodule suspected", "no nodule suspected"."""

ASIDE = re.compile(r"^\w*,? (?:al)?though (?:\w+ )?(?:unlikely|improbable)\b")
"""A denial between commas: "pneumonia, although unlikely, was asked for"."""

ONE_IN_DOUBT = re.compile(
    r"\b(?:but|although|though|however),? (?:an? )?(?:[\w-]+ ){0,3}one(?: \w+){0,2}? "
    r"(?:(?:cannot|could not|may not|would not|is not)"
    rf"(?: \w+){{0,3}}? {_EXCLUDED}|(?:may|might|could) (?:be|have been)\b)"
)
"""A smaller one than what is denied: "no large pneumothorax, but a tiny one cannot be excluded"."""

_FINDING = (
    r"(?:atelecta\w*|consolidati\w+|pneumonia|pneumonitis|edema|effusions?|infiltrat\w+|infection|aspiration|collapse|"
    r"pneumothora\w+|fluid|thickening|hemorrhage|contusion)"
)
ALTERNATIVE_AFTER = re.compile(rf"^\w*\s*(?:\b(?:or|versus|vs)\b|/)\.?\s*(?:\w+ ){{0,3}}?{_FINDING}\b")
ALTERNATIVE_BEFORE = re.compile(rf"\b{_FINDING}\s*(?:\b(?:or|versus|vs)\b|/)\.?\s*(?=(?:\w+ ){{0,3}}$)")
"""Of two findings joined by "or" or "versus" one is there, and which of them is in doubt.

Words that follow the "or" are not a part of it: "atelectasis or possibly pneumonia" doubts pneumonia more.
"""

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
