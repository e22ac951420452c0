"""Properties of the straight line from bytes to report."""

from pathlib import Path

import numpy as np
import pytest

from prelim.errors import InputError, InvalidOption, NotAnImage
from prelim.generation.options import GenerationOptions
from prelim.report import Report, cut_at_stop, sections
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.tiny_model import png


@pytest.fixture(scope="module")
def generator(tiny_archive: Path) -> ReportGenerator:
    """A generator of the tiny model with four slots."""
    return ReportGenerator.load(tiny_archive, slots=4)


def one(generator: ReportGenerator, request: ReportRequest) -> Report:
    """The report of one request that must succeed."""
    (report,) = generator.generate([request])
    assert isinstance(report, Report), report
    return report


def test_reports_depend_on_the_image(generator: ReportGenerator) -> None:
    """Different images get different reports, the same image the same report."""
    reports = [one(generator, ReportRequest(image=png(seed))) for seed in (0, 1, 2, 3, 0)]

    assert reports[0].token_ids == reports[4].token_ids
    assert len({report.token_ids for report in reports}) > 2


def test_batch_equals_alone(generator: ReportGenerator) -> None:
    """More requests than slots, with different options, get the reports that each gets alone."""
    requests = [
        ReportRequest(image=png(i), options=GenerationOptions(max_new_tokens=10 + i, num_beams=1 + i % 3))
        for i in range(9)
    ]

    together = generator.generate(requests)

    alone = [one(generator, request) for request in requests]
    assert [report.token_ids for report in alone] == [report.token_ids for report in together]


def test_broken_file_leaves_its_neighbours_unchanged(generator: ReportGenerator) -> None:
    """A file that cannot be read fails alone, wherever it stands in the batch."""
    good = [ReportRequest(image=png(i)) for i in range(3)]
    expected = [one(generator, request).token_ids for request in good]
    for place in range(4):
        requests = [*good[:place], ReportRequest(image=b"%PDF-1.7 broken"), *good[place:]]

        answers = generator.generate(requests)

        assert isinstance(answers.pop(place), NotAnImage)
        assert [report.token_ids for report in answers] == expected


def test_features_stand_for_the_image(generator: ReportGenerator, tiny_archive: Path) -> None:
    """image_features that the encoder gave for an image get that image's report."""
    from prelim.archive.archive import VISION
    from prelim.encoding.onnx_session import OnnxSession
    from prelim.images.preprocess import preprocess
    from prelim.images.radiograph import read_radiograph

    pixel_values = preprocess(read_radiograph(png(5), generator.config.input), generator.config.preprocess)
    features = OnnxSession(tiny_archive / VISION).run(pixel_values[None])[0]

    by_features = one(generator, ReportRequest(image_features=features))

    assert by_features.token_ids == one(generator, ReportRequest(image=png(5))).token_ids


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ReportRequest(), "neither image nor image_features"),
        (ReportRequest(image=png(), image_features=np.zeros((4, 576), np.float32)), "both image and image_features"),
        (
            ReportRequest(image_features=np.zeros((3, 576), np.float32)),
            r"shape \(3, 576\); this model takes \(4, 576\)",
        ),
        (ReportRequest(image_features=np.full((4, 576), np.nan, np.float32)), "not finite"),
        (ReportRequest(image=png(), prompt="What is seen?"), "prompt is set, but tiny takes none"),
        (ReportRequest(image=png(), options=GenerationOptions(max_new_tokens=49)), "at most 48 are possible"),
    ],
)
def test_wrong_request_is_explained(generator: ReportGenerator, request_: ReportRequest, message: str) -> None:
    """A request that cannot be answered gets an error that says what is wrong with it."""
    (error,) = generator.generate([request_])

    assert isinstance(error, InvalidOption)
    with pytest.raises(InputError, match=message):
        raise error


def test_partial_text_grows_into_the_report(generator: ReportGenerator) -> None:
    """With greedy search the text so far is always a beginning of the report."""
    generator.admit({"a": ReportRequest(image=png(1))})
    texts, reports = [], {}
    while not reports:
        texts.append(generator.partial_text("a"))
        reports = generator.step()

    assert len(texts) > 3
    for text in texts:
        assert reports["a"].text.startswith(text.rstrip(" ."))


def test_cancelled_request_leaves_no_trace(generator: ReportGenerator) -> None:
    """A cancelled request is gone, and its slot is free."""
    generator.admit({"a": ReportRequest(image=png(0)), "b": ReportRequest(image=png(1))})
    generator.step(2)

    generator.cancel("a")

    assert set(generator.active) == {"b"}
    assert generator.free_slots == 3
    generator.reset()
    assert generator.free_slots == 4


def test_alternatives_are_the_other_beams(generator: ReportGenerator) -> None:
    """num_return_sequences gives one report and the rest as alternatives, all different."""
    options = GenerationOptions(max_new_tokens=12, num_beams=4, num_return_sequences=4)

    report = one(generator, ReportRequest(image=png(2), options=options))

    assert len({report.text, *(a.text for a in report.alternatives)}) > 1
    assert len(report.alternatives) == 3


def test_reports_are_unverified(generator: ReportGenerator) -> None:
    """Every report says that nobody has verified it, and how long each part took."""
    report = one(generator, ReportRequest(image=png()))

    assert report.status == "UNVERIFIED"
    assert set(report.timing_ms) == {"queue", "preprocess", "vision", "decode"}
    assert all(value >= 0 for value in report.timing_ms.values())


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        ("no headings at all", None, None),
        ("Findings: clear lungs. Impression: normal chest.", "clear lungs.", "normal chest."),
        ("IMPRESSION : normal", None, "normal"),
        ("findings: a findings: b", "a", None),
    ],
)
def test_sections_are_found_by_their_headings(text: str, findings: str | None, impression: str | None) -> None:
    """Sections are what follows their heading; without a heading there is none."""
    assert sections(text) == (findings, impression)


def test_text_is_cut_before_the_first_stop() -> None:
    """What a stop text ends is the text before it."""
    assert cut_at_stop("clear lungs ### doctor: ###", ("doctor", "###")) == "clear lungs"
    assert cut_at_stop("clear lungs", ("###",)) == "clear lungs"
