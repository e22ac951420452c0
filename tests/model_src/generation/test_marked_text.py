"""Reports between marks: a stream never takes text back, no mark is in a report, no sequence of marks is fatal."""

import random

import pytest

from prelim.errors import ArchiveError
from prelim.generation.marked_text import MALFORMED, UNFINISHED, Box, MarkedText, TextParts
from prelim.generation.output_config import BEGINS, OutputConfig

BOXES = OutputConfig(phrase_start="<obj>", phrase_end="</obj>", box_start="<box>", box_end="</box>")
THINKING = OutputConfig(reasoning_start="<think>", reasoning_end="</think>")
PIECES = (
    *("<obj>", "</obj>", "<box>", "</box>", "<x5>", "<y7>", "<x99>", "<y100>", "<think>", "</think>"),
    *("Heart", " big", ".", " ", "\n", "<", "<x", "<b", ">", "</", "effusion ", ", "),
)


def read(config: OutputConfig, text: str) -> TextParts:
    """What a text has."""
    marked = MarkedText(config)
    marked.feed([text])
    return marked.end()


def warning(count: int) -> tuple[str, ...]:
    """The warning of so many marks."""
    return (MALFORMED.format(count=count),) if count else ()


@pytest.mark.parametrize("begins", BEGINS)
@pytest.mark.parametrize("boxes", [False, True])
def test_a_stream_gives_the_beginning_of_the_report(begins: str, boxes: bool) -> None:
    """Whatever the pieces of the text are; each character of a report is one of the text, or a space between."""
    marks = ("<obj>", "</obj>", "<box>", "</box>") if boxes else ("",) * 4
    config = OutputConfig("<think>", "</think>", begins, *marks)
    rng = random.Random(f"{begins} {boxes}")
    for _ in range(400):
        pieces = rng.choices(PIECES, k=rng.randrange(14))
        text, marked, streamed = "".join(pieces), MarkedText(config), ""
        for piece in pieces:
            streamed += "".join(marked.feed([piece]))
        reading = marked.end()
        assert reading == read(config, text)
        assert reading.report.startswith(streamed), text
        assert not any(mark in reading.report for mark in (*marks, "<think>", "</think>") if mark), text
        assert list(reading.places) == sorted(reading.places)
        assert all(text[place] == c or c == " " for place, c in zip(reading.places, reading.report, strict=True))
        assert all(0 <= box.start < box.end <= len(reading.report) for box in reading.boxes)
        assert all(reading.report[box.start : box.end].strip() for box in reading.boxes)


def test_a_text_without_marks_is_its_own_report() -> None:
    """Every character, white space at both ends too."""
    for text in ("", " A  b.\n\n c \n", "5 < 6, <x", "<box", "a<b>c"):
        for config in (BOXES, THINKING, OutputConfig()):
            assert read(config, text) == TextParts(text, tuple(range(len(text))))


@pytest.mark.parametrize(
    ("text", "report", "boxes", "malformed"),
    [
        ("<obj>A.<box><x1><y2><x3><y4></box></obj><obj>B.</obj>", "A. B.", [("A.", (1, 2, 3, 4))], 0),
        (
            "<obj> A. <box><x1><y2><x3><y4></box><box><x0><y0><x0><y0></box></obj>",
            "A.",
            [("A.", (1, 2, 3, 4)), ("A.", (0, 0, 0, 0))],
            0,
        ),
        ("an <obj>effusion<box> <x1> <y2> <x3> <y4> </box></obj>, small", "an effusion, small", [("effusion", 0)], 0),
        ("A<box><x1><y2><x3><y4></box>\n B<box><x5><y6><x7><y8></box>", "A\nB", [("A", 0), ("B", (5, 6, 7, 8))], 0),
        ("<obj>A<box><x3><y4><x1><y2></box></obj>", "A", [], 1),
        ("<obj>A<box><x1><y2><x3></box></obj>", "A", [], 1),
        ("<obj>A<box><y1><x2><y3><x4></box></obj>", "A", [], 1),
        ("<obj>A<box><x1><y2><x3><y100></box></obj>", "A", [], 1),
        ("<obj>A<box><x1><y2>B</obj>", "A B", [], 1),
        ("<obj>A<box><x1><y2><x3><y4></obj>", "A", [], 1),
        ("<box><x1><y2><x3><y4></box>", "", [], 1),
        ("A<x1></box></obj>B", "A B", [], 3),
        ("<obj>A<obj>B<box><x1><y2><x3><y4></box></obj>", "A B", [("B", 0)], 1),
        ("<obj>A<box><x1><y2><x3><y4></box>", "A", [("A", 0)], 0),
        ("<obj>A<box><x1><y2>", "A", [], 1),
        ("A<box><x999999999><y2><x3><y4></box>", "A", [], 1),
    ],
)
def test_boxes_belong_to_their_phrases(text: str, report: str, boxes: list[tuple[str, object]], malformed: int) -> None:
    """One that cannot be read costs a warning, and no word."""
    reading = read(BOXES, text)
    assert reading.report == report
    found = [(reading.report[box.start : box.end], box.bins) for box in reading.boxes]
    assert found == [(phrase, bins or (1, 2, 3, 4)) for phrase, bins in boxes]
    assert reading.warnings == warning(malformed)


@pytest.mark.parametrize(
    ("begins", "text", "report", "reasoning", "warnings"),
    [
        ("either", "<think>\nSo.\n</think>\n\nA.\n\nB", "A.\n\nB", "So.", ()),
        ("either", "So. </think> A", "A", "So.", ()),
        ("either", "Hm <think>so</think>A", "A", "Hm <think>so", ()),
        ("either", "<think>so", "", "so", (UNFINISHED,)),
        ("either", "Hm <think>so", "", "Hm <think>so", (UNFINISHED,)),
        ("either", "A. B.", "A. B.", None, ()),
        ("either", "", "", None, ()),
        ("reasoning", "So.</think>A", "A", "So.", ()),
        ("reasoning", "So. A.", "", "So. A.", (UNFINISHED,)),
        ("reasoning", "<think>So</think>A", "A", "<think>So", ()),
        ("report", "A <think>so</think> B", "A B", "so", ()),
        ("report", "A </think> B", "A B", None, warning(1)),
        ("report", "A <think>so", "A", "so", (UNFINISHED,)),
        ("report", "A</thi", "A</thi", None, ()),
    ],
)
def test_reasoning_is_not_part_of_the_report(
    begins: str, text: str, report: str, reasoning: str | None, warnings: tuple[str, ...]
) -> None:
    """What may be reasoning is, as long as no mark says that it has ended."""
    reading = read(OutputConfig("<think>", "</think>", begins), text)
    assert (reading.report, reading.reasoning, reading.warnings) == (report, reasoning, warnings)
    outside = [i for i in range(len(text)) if not any(begin <= i < end for begin, end in reading.thought)]
    assert set(reading.places) <= set(outside)


def test_marks_of_boxes_in_reasoning_are_text_of_it() -> None:
    """A box that is only thought of does not become a region."""
    config = OutputConfig("<think>", "</think>", "either", "<obj>", "</obj>", "<box>", "</box>")
    reading = read(config, "<think><obj>A<box><x1><y2><x3><y4></box></obj></think>B")
    assert (reading.report, reading.boxes, reading.warnings) == ("B", (), ())
    assert reading.reasoning == "<obj>A<box><x1><y2><x3><y4></box></obj>"


def test_the_middle_of_a_part_is_its_place() -> None:
    """MAIRA-2: number n of 100 is at (n + 0.5) / 100."""
    assert BOXES.sides_of((55, 45, 70, 56)) == (0.555, 0.455, 0.705, 0.565)
    assert Box(0, 1, (1, 2, 3, 4)).bins == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reasoning_end": ""}, "give both"),
        ({"box_start": "<box>"}, "give both"),
        ({"reasoning_end": "<think>"}, "part of another"),
        ({"box_start": "<x1>", "box_end": "</x1>"}, "allowed: a mark"),
        ({"reasoning_start": " <think>"}, "allowed: a mark"),
        ({"begins": "thinking"}, "allowed: reasoning, report, either"),
        ({"box_bins": 0}, "allowed: 1 to 10000"),
    ],
)
def test_settings_that_cannot_be_read_are_refused(change: dict[str, object], message: str) -> None:
    """By their name."""
    given: dict[str, object] = {"reasoning_start": "<think>", "reasoning_end": "</think>"}
    with pytest.raises(ArchiveError, match=rf"^output.*{message}"):
        OutputConfig(**(given | change))  # type: ignore[arg-type]
