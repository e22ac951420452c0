"""Clinical labels of a report by rules: CheXpert's phrases for the findings, and our own rules for what is denied.

The phrases in chexpert_phrases/ are those of Irvin et al., "CheXpert: A Large Chest Radiograph Dataset with Uncertainty
Labels and Expert Comparison", AAAI 2019 (MIT license, in the same folder). How reliable the labels are was measured:

$ python -m training.evaluation.metrics.labeler_check
"""

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from prelim.labels import history, mentions, parts, rules

PHRASES = Path(__file__).parent / "chexpert_phrases"

FINDINGS = (
    "enlarged cardiomediastinum", "cardiomegaly", "lung opacity", "lung lesion", "edema", "consolidation", "pneumonia",
    "atelectasis", "pneumothorax", "pleural effusion", "pleural other", "fracture", "support devices",
)  # fmt: skip
NO_FINDING = "no finding"
LABELS = (NO_FINDING, *FINDINGS)
"""The 14 labels of CheXpert."""

OTHER = "other"
"""CheXpert's phrases for findings outside its labels, which still forbid "no finding"."""

_ANSWER = "(?:none|no|not seen|nil|absent|negative)"

MAX_SENTENCE = 1000
"""Characters. The rules take time in proportion to the square of a sentence's length: 0.1 s for this one."""

SPELLINGS = (
    (re.compile("[\u2018\u2019\u02bc]"), "'"),
    (re.compile(r"(?i)\b(?:can't|can not)\b"), "cannot"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"(?i)n't\b"), " not"),
    (re.compile(r"(?i)\band ?/ ?or\b"), "or"),
    (re.compile(r"\+ ?/ ?-|\u00b1"), " with or without "),
    (re.compile(rf"(?i)\?\s*({_ANSWER})(?=\s*(?:[.,;]|$))"), r": \1"),
    (re.compile(rf"(?i)[(\[]\s*({_ANSWER})\s*[)\]]"), r": \1"),
    (re.compile(r"(?:^|(?<=[\s(,:]))\?\s*(?=[a-z])"), "query "),
)
"""Different spellings of the same words: the rules know only the second."""


class State(IntEnum):
    """What a report says of a finding; of several statements the largest counts."""

    NEGATIVE = 0
    UNCERTAIN = 1
    POSITIVE = 2


@dataclass(frozen=True)
class _Phrases:
    """How a finding is mentioned, and where the same letters mean something else."""

    mentions: re.Pattern[str]
    others: re.Pattern[str] | None

    def places(self, sentence: str) -> Iterator[re.Match[str]]:
        """The mentions in a sentence."""
        others = [] if self.others is None else [match.span() for match in self.others.finditer(sentence)]
        for match in self.mentions.finditer(sentence):
            if not any(match.start() < end and start < match.end() for start, end in others):
                yield match


class Labeler:
    """Reads reports."""

    def __init__(self) -> None:
        names = {finding: finding.replace(" ", "_") for finding in FINDINGS} | {OTHER: "no_finding"}
        self._phrases = {
            finding: _Phrases(
                _pattern([*_lines(PHRASES / "mention" / f"{name}.txt"), *mentions.MENTIONS.get(finding, ())]),
                _pattern([*_lines(PHRASES / "unmention" / f"{name}.txt"), *mentions.NO_MENTIONS.get(finding, ())]),
            )
            for finding, name in names.items()
        }

    def read(self, report: str, alternatives: State = State.UNCERTAIN) -> dict[str, State]:
        """What a report says of the findings that it mentions, and of `no finding`.

        No finding: nothing is there or in doubt, support devices left aside; CheXpert's definition.

        alternatives : what both findings of "atelectasis or pneumonia" are
        """
        said: dict[str, State] = {}
        for finding, state, _ in self.statements(report, alternatives):
            said[finding] = max(state, said.get(finding, State.NEGATIVE))
        found = any(state > State.NEGATIVE for finding, state in said.items() if finding != "support devices")
        said.pop(OTHER, None)
        return {NO_FINDING: State.NEGATIVE if found else State.POSITIVE, **said}

    def statements(
        self, report: str, alternatives: State = State.UNCERTAIN
    ) -> Iterator[tuple[str, State, tuple[str, str]]]:
        """Everything that a report says: a finding or OTHER, what is said of it, and the words around it in its clause.

        alternatives : as in `read`
        """
        for sentence in sentences(report):
            for finding, phrases in self._phrases.items():
                for match in phrases.places(sentence):
                    if history.TOLD.search(sentence[: match.start()]):
                        continue
                    clause = _cut_out_clause(sentence, match, rules.CLAUSE_END)
                    state: State | None = State.NEGATIVE
                    if not _is_only_elsewhere(sentence, match):
                        state = _state(sentence, match, clause, finding, alternatives)
                    if state is not None:
                        yield finding, state, clause

    def find(self, report: str) -> frozenset[str]:
        """The labels that scores count: those present and alternatives, which the gold set counts too."""
        return positive(self.read(report, alternatives=State.POSITIVE))


def positive(said: Mapping[str, State]) -> frozenset[str]:
    """The labels that are certainly present. These were measured; uncertain ones fit the gold set worse."""
    return frozenset(label for label, state in said.items() if state is State.POSITIVE)


def sentences(report: str) -> list[str]:
    """The sentences of a report in lower case, single spaces, contractions written out ("isn't": "is not").

    One of more than MAX_SENTENCE characters is cut, so that time grows in proportion to the length of a report.
    """
    for spelling, written in SPELLINGS:
        report = spelling.sub(written, report)
    whole = [" ".join(part.lower().split()) for part in rules.SENTENCE_END.split(report)]
    return [text for sentence in whole for text in textwrap.wrap(sentence, MAX_SENTENCE, break_on_hyphens=False)]


def _state(
    sentence: str, match: re.Match[str], clause: tuple[str, str], finding: str, alternatives: State
) -> State | None:
    """What a sentence says of the finding that it mentions; None where it says nothing of it.

    clause : the words around the mention up to the ends of its clause
    """
    before, after = _cut_out_clause(sentence, match, rules.CLAUSE_END, rules.NEW_STATEMENT)
    if match.group() in mentions.PARTS:
        normal = parts.STILL_NORMAL.search(sentence[match.end() :])
        return State.NEGATIVE if normal else _state_of_part(finding, before, after)
    if _is_left_open(sentence, match, before, after):
        return State.UNCERTAIN
    if _is_there_after_all(sentence, match, before, after):
        return State.POSITIVE
    if not history.HEALED.search(clause[1]) and _is_past(finding, before, after):
        return State.NEGATIVE if rules.NEGATED_AFTER.search(after) else None
    if _is_denied(finding, before, after) or rules.ASIDE.search(sentence[match.end() :]):
        return State.NEGATIVE
    # A doubt reaches further than a denial: "differential considerations include infection and mild edema".
    alone = rules.ALTERNATIVE_BEFORE.sub(" ", clause[0])
    doubted = (
        match.group() in mentions.SIGNS or rules.UNCERTAIN_BEFORE.search(alone) or rules.DOUBTED_AFTER.search(after)
    )
    alternative = alone != clause[0] or rules.ALTERNATIVE_AFTER.search(after)
    return State.UNCERTAIN if doubted else alternatives if alternative else State.POSITIVE


def _is_only_elsewhere(sentence: str, match: re.Match[str]) -> bool:
    """Whether another examination showed a finding that this one does not: "described on CT, but is not seen here"."""
    rest = sentence[match.end() :]
    here = history.NOT_HERE.search(rest)
    if not here or history.NEW_SINCE.search(rest):
        return False
    return bool(history.OTHER_EXAMINATION.search(f"{sentence[: match.start()]} {rest[: here.start()]}"))


def _is_left_open(sentence: str, match: re.Match[str], before: str, after: str) -> bool:
    """Whether a finding, or a smaller one than the one denied, is left open in words of denial."""
    if rules.ONE_IN_DOUBT.search(sentence[match.end() :]) and rules.NEGATED_BEFORE.search(before):
        return True
    return bool(rules.UNCERTAIN_AFTER.search(after) or rules.EXCLUDED_BEFORE.search(before))


def _is_there_after_all(sentence: str, match: re.Match[str], before: str, after: str) -> bool:
    """Whether a denial is one of the other side, or of the past: "new effusion, not seen previously"."""
    if history.NEW_SINCE.search(after) and not rules.NEGATED_BEFORE.search(before):
        return True
    other_side = rules.OTHER_SIDE_BEFORE.search(sentence[: match.start()])
    return bool(other_side or rules.OTHER_SIDE_AFTER.search(sentence[match.end() :]))


def _is_denied(finding: str, before: str, after: str) -> bool:
    """Whether a finding is said to be absent, or a shadow to be something else."""
    if rules.NEGATED_BEFORE.search(before):
        return True
    if history.REMOVAL.search(after) and not history.TO_COME.search(before):
        return True
    rest = [
        rules.NEGATED_AFTER,
        rules.NEGATED_ENTRY,
        rules.NOT_REAL_AFTER,
        *([rules.NO_LESION_AFTER] if finding == "lung lesion" else []),
    ]
    return any(rule.search(after) for rule in rest)


def _cut_out_clause(sentence: str, match: re.Match[str], *ends: re.Pattern[str]) -> tuple[str, str]:
    """The words before and after a mention, up to the nearest ends, without phrases that only look like denials."""
    start, end = 0, len(sentence)
    for found in (found for pattern in ends for found in pattern.finditer(sentence)):
        if found.start() < match.start():
            start = max(start, found.start())
        elif found.start() >= match.end():
            end = min(end, found.start())
    return rules.NO_NEGATION.sub(" ", sentence[start : match.start()]), sentence[match.end() : end]


def _is_past(finding: str, before: str, after: str) -> bool:
    """Whether the finding is one of the past."""
    if history.HISTORY.search(before):
        return True
    if finding in history.LASTING or history.STILL_THERE.search(after):
        return False
    if history.HISTORY_AFTER.search(after):
        return True
    past = (history.PRIOR, history.TREATED, history.EARLIER_EXAMINATION_BEFORE)
    return any(rule.search(before) for rule in past) or bool(history.EARLIER_EXAMINATION_AFTER.search(after))


def _state_of_part(finding: str, before: str, after: str) -> State | None:
    """What is said of a part of the body, such as the heart, whose mention alone is not a finding.

    Words about another part do not count as abnormal: "heart size is normal with a dilated aorta". A heart that is
    shifted is not large.
    """
    others = [*parts.OTHER_PARTS.finditer(before)]
    own_before = before[others[-1].end() :] if others else before
    first = parts.OTHER_PARTS.search(after)
    own_after = re.split(r"\b(?:with|and)\b", after[: first.start()], maxsplit=1)[0] if first else after
    own = f"{own_before} {own_after}"
    if finding == "cardiomegaly":
        own = own.replace("shifted", "")
    abnormal = parts.ABNORMAL.search(own)
    if abnormal:
        return State.NEGATIVE if rules.NEGATED_BEFORE.search(own[: abnormal.start()]) else State.POSITIVE
    return State.NEGATIVE if parts.NORMAL.search(f"{before} {after}") else None


def _lines(path: Path) -> list[str]:
    """Phrases of a file, of which "_" is the edge of a word; no file has none."""
    if not path.is_file():
        return []
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [re.escape(line).replace("_", r"\b") for line in lines if line]


def _pattern(alternatives: list[str]) -> re.Pattern[str]:
    """Any of them, the longest first; none of them matches nothing."""
    longest_first = sorted(alternatives, key=lambda text: (-len(text), text))
    return re.compile("|".join(longest_first) or r"(?!)")
