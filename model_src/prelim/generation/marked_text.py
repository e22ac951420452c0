"""A text that has a report, and between marks what is not part of it: reasoning, and boxes of phrases.

What is decided of the report is what no later text changes, so a stream can be read by the same code as a whole text.
Marks are removed, with one space where words would otherwise be joined. Whatever a model writes is read: marks in a
wrong place cost themselves and a warning, never the words around them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from prelim.generation.output_config import OutputConfig
from prelim.generation.text_stages import begun

UNFINISHED = "reasoning_unfinished: the text ended in the model's reasoning, which is not part of the report"
MALFORMED = "malformed_marks: {count} marks of boxes or reasoning were not where they belong, and were left out"

_CLOSING = frozenset(".,;:!?)]}%")
"""Signs that follow a word without a space."""

_RUN = re.compile(r"\s+|\S+")


@dataclass(frozen=True)
class Box:
    """A box that a model wrote, and the part of the report that it belongs to.

    start, end : of the phrase, in characters of the report
    bins       : left, top, right, bottom, each the number of a part of the picture's side
    """

    start: int
    end: int
    bins: tuple[int, int, int, int]


@dataclass(frozen=True)
class TextParts:
    """What a text has.

    report    : without marks
    places    : for each character of the report, where it is in the text
    reasoning : what the model thought, None if it did not
    boxes     : in the order in which they were written
    thought   : beginnings and ends of the reasoning in the text, with its marks
    warnings  : what could not be read
    """

    report: str
    places: tuple[int, ...] = ()
    reasoning: str | None = None
    boxes: tuple[Box, ...] = ()
    thought: tuple[tuple[int, int], ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass
class _Phrase:
    """The phrase that is being written: its first character in the report once it has one, and its boxes so far."""

    start: int | None = None
    marked: bool = False
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)


class MarkedText:
    """Reads one text, piece by piece; a `Stage` of a stream, whose pieces are those of the report."""

    def __init__(self, config: OutputConfig) -> None:
        self._config = config
        self._mark, self._literal = _patterns(config)
        self._unread, self._read = "", 0
        self._mode = config.begins if config.has_reasoning else "report"
        self._characters: list[str] = []
        self._places: list[int] = []
        self._space: list[tuple[str, int]] = []
        self._gap = self._mode == "reasoning"
        self._reasoning: list[str] | None = [] if self._mode == "reasoning" else None
        self._thought: list[tuple[int, int]] = []
        self._thinks_from = 0
        self._phrase = _Phrase()
        self._numbers: list[tuple[str, int]] | None = None
        self._boxes: list[Box] = []
        self._malformed, self._unfinished = 0, False

    def feed(self, pieces: list[str]) -> list[str]:
        """Take the next pieces of text, and return what is newly decided of the report."""
        before = len(self._characters)
        self._unread += "".join(pieces)
        if self._mode != "either" or self._find_beginning():
            self._take(len(self._unread) - self._held())
        return ["".join(self._characters[before:])]

    def end(self) -> TextParts:
        """All that the text has, after its last piece."""
        if self._mode == "either":
            thought = self._config.reasoning_start in self._unread
            self._mode, self._reasoning = ("reasoning", []) if thought else ("report", None)
        self._take(len(self._unread))
        self._leave_box()
        if self._mode == "reasoning":
            self._unfinished = True
            self._thought.append((self._thinks_from, self._read))
        if not self._gap:
            self._write_space(self._space)
        self._end_phrase()
        warnings = [UNFINISHED] if self._unfinished else []
        if self._malformed:
            warnings.append(MALFORMED.format(count=self._malformed))
        reasoning = None if self._reasoning is None else "".join(self._reasoning).strip()
        return TextParts(
            "".join(self._characters),
            tuple(self._places),
            reasoning,
            tuple(self._boxes),
            tuple(self._thought),
            tuple(warnings),
        )

    def _find_beginning(self) -> bool:
        """Whether it is known what the text begins with; all before the end of reasoning is reasoning."""
        begin, end = self._config.reasoning_start, self._config.reasoning_end
        if self._unread.lstrip().startswith(begin):
            self._mode = "report"
        elif end in self._unread:
            self._mode, self._gap, self._reasoning = "reasoning", True, []
        return self._mode != "either"

    def _held(self) -> int:
        """How many characters at the end may be the beginning of a mark."""
        longest = max((begun(self._unread, mark) for mark in self._literal), default=0)
        number = re.search(r"<(?:[xy]\d*)?\Z", self._unread) if self._config.has_boxes else None
        return max(longest, len(number[0]) if number else 0)

    def _take(self, count: int) -> None:
        """Read so many characters, which end between marks."""
        text, self._unread = self._unread[:count], self._unread[count:]
        at = self._read
        self._read += count
        done = 0
        for mark in self._mark.finditer(text):
            self._take_words(text[done : mark.start()], at + done)
            self._take_mark(mark[0], at + mark.start())
            done = mark.end()
        self._take_words(text[done:], at + done)

    def _take_words(self, text: str, at: int) -> None:
        if self._mode == "reasoning":
            if self._reasoning is not None:
                self._reasoning.append(text)
            return
        for place, run in _runs(text):
            if run.isspace():
                if self._numbers is None:
                    self._space += [(character, at + place + i) for i, character in enumerate(run)]
                continue
            self._leave_box()
            if self._phrase.boxes and not self._phrase.marked:
                self._end_phrase()
            self._write_gap(run[0], at + place)
            if self._phrase.start is None:
                self._phrase.start = len(self._characters)
            self._characters += run
            self._places += range(at + place, at + place + len(run))

    def _write_gap(self, following: str, at: int) -> None:
        """The space between the words before and after marks, or the text's own."""
        space, self._space = self._space, []
        if not self._gap:
            self._write_space(space)
            return
        self._gap = False
        if self._characters and not self._characters[-1].isspace() and (space or following not in _CLOSING):
            own = next((character for character in space if character[0] == "\n"), space[0] if space else (" ", at))
            self._write_space([own])

    def _write_space(self, space: list[tuple[str, int]]) -> None:
        self._characters += [character for character, _ in space]
        self._places += [place for _, place in space]

    def _take_mark(self, mark: str, at: int) -> None:
        config = self._config
        if self._mode == "reasoning":
            if mark == config.reasoning_end:
                self._mode, self._gap = "report", True
                self._thought.append((self._thinks_from, at + len(mark)))
            elif self._reasoning is not None:
                self._reasoning.append(mark)
            return
        if mark == config.box_end:
            self._end_box()
        elif self._numbers is not None and mark[1] in "xy" and mark not in self._literal:
            self._numbers.append((mark[1], int(mark[2:-1])))
        else:
            self._leave_box()
            self._open(mark, at)
        self._gap = True

    def _open(self, mark: str, at: int) -> None:
        """Take a mark outside of boxes and of reasoning."""
        config = self._config
        if mark == config.reasoning_start:
            self._mode, self._thinks_from = "reasoning", at
            self._reasoning = self._reasoning or []
        elif mark == config.box_start:
            self._numbers = []
        elif mark == config.phrase_start:
            self._malformed += self._phrase.marked
            self._end_phrase()
            self._phrase.marked = True
        elif mark == config.phrase_end:
            self._malformed += not self._phrase.marked
            self._end_phrase()
        else:
            self._malformed += 1

    def _end_box(self) -> None:
        numbers, self._numbers = self._numbers, None
        sides = "".join(side for side, _ in numbers or ())
        bins = tuple(number for _, number in numbers or ())
        if sides != "xyxy" or max(bins) >= self._config.box_bins or bins[0] > bins[2] or bins[1] > bins[3]:
            self._malformed += 1
        else:
            self._phrase.boxes.append((bins[0], bins[1], bins[2], bins[3]))

    def _leave_box(self) -> None:
        """A box that something else interrupts is none."""
        self._malformed += self._numbers is not None
        self._numbers = None

    def _end_phrase(self) -> None:
        """Link the boxes to the phrase before; boxes without words belong to nothing."""
        start, end = self._phrase.start, len(self._characters)
        if start is not None:
            self._boxes += [Box(start, end, bins) for bins in self._phrase.boxes]
        else:
            self._malformed += len(self._phrase.boxes)
        self._phrase = _Phrase()


def _patterns(config: OutputConfig) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """The pattern of all marks, and those of them that are fixed texts."""
    reasoning = (config.reasoning_start, config.reasoning_end)
    boxes = (config.phrase_start, config.phrase_end, config.box_start, config.box_end)
    literal = tuple(mark for mark in (*reasoning, *boxes) if mark)
    numbers = [r"<[xy][0-9]{1,9}>"] if config.has_boxes else []
    return re.compile("|".join([*map(re.escape, literal), *numbers]) or r"(?!)"), literal


def _runs(text: str) -> Iterator[tuple[int, str]]:
    """Runs of white space and of other characters, with their places."""
    return ((run.start(), run[0]) for run in _RUN.finditer(text))
