"""What a model writes besides its report: section `output` of model.yaml."""

import re
from dataclasses import dataclass

from prelim.errors import ArchiveError

BEGINS = ("reasoning", "report", "either")


@dataclass(frozen=True)
class OutputConfig:
    """Section `output` of model.yaml; a model without it writes its report and nothing else.

    Marks are texts, such as "<think>". They and what they enclose are not part of the report.

    reasoning_start, reasoning_end : marks around what the model thinks before it reports; empty: it does not
    begins           : what a text begins with: "reasoning" where the prompt has opened it, "report" where it has closed
                       it, "either" otherwise; then a text that does not begin with the mark can be all reasoning until
                       it ends, so that a stream of it has nothing before
    phrase_start, phrase_end : marks around a phrase that boxes belong to; empty: boxes follow their phrase
    box_start, box_end : marks around a box, in which "<x1><y2><x3><y4>" are left, top, right, bottom; empty: no boxes
    return_reasoning : answers have the reasoning, also of requests that do not ask for it
    box_bins         : how many numbers there are for each side; n is the middle of the n-th part of the picture
    """

    reasoning_start: str = ""
    reasoning_end: str = ""
    begins: str = "either"
    phrase_start: str = ""
    phrase_end: str = ""
    box_start: str = ""
    box_end: str = ""
    box_bins: int = 100
    return_reasoning: bool = False

    def __post_init__(self) -> None:
        marks = {name: getattr(self, name) for name in MARKS}
        for name, mark in marks.items():
            if not isinstance(mark, str) or mark != mark.strip() or (mark and re.match(r"<[xy]\d+>", mark)):
                raise ArchiveError(f"output.{name} is {mark!r:.40}; allowed: a mark such as '<think>', or ''")
        for one, other in (MARKS[:2], MARKS[2:4], MARKS[4:]):
            if bool(marks[one]) != bool(marks[other]):
                raise ArchiveError(f"output.{one} is {marks[one]!r} and output.{other} {marks[other]!r}; give both")
        given = [mark for mark in marks.values() if mark]
        if any(one in other for i, one in enumerate(given) for j, other in enumerate(given) if i != j):
            raise ArchiveError(f"output has the marks {', '.join(given)}; none may be a part of another")
        if self.begins not in BEGINS:
            raise ArchiveError(f"output.begins is {self.begins!r:.40}; allowed: {', '.join(BEGINS)}")
        if not isinstance(self.box_bins, int) or isinstance(self.box_bins, bool) or not 1 <= self.box_bins <= 10_000:
            raise ArchiveError(f"output.box_bins is {self.box_bins!r:.40}; allowed: 1 to 10000")

    def sides_of(self, bins: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of a box, in parts of the side of the picture."""
        left, top, right, bottom = ((number + 0.5) / self.box_bins for number in bins)
        return left, top, right, bottom

    @property
    def has_boxes(self) -> bool:
        """Whether the model writes boxes."""
        return bool(self.box_start)

    @property
    def has_reasoning(self) -> bool:
        """Whether the model thinks before it reports."""
        return bool(self.reasoning_start)

    def is_mark(self, text: str) -> bool:
        """Whether a text is a mark, or a number of a box."""
        return bool(text) and (text in self.box_marks or text in (self.reasoning_start, self.reasoning_end))

    @property
    def box_marks(self) -> frozenset[str]:
        """The marks of phrases and boxes, and the numbers."""
        if not self.has_boxes:
            return frozenset()
        numbers = {f"<{side}{n}>" for side in "xy" for n in range(self.box_bins)}
        return frozenset({self.phrase_start, self.phrase_end, self.box_start, self.box_end, *numbers} - {""})


MARKS = ("reasoning_start", "reasoning_end", "phrase_start", "phrase_end", "box_start", "box_end")
