"""The confidence of a sentence: what it is made of, and what share of wrong sentences is below a level."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from prelim.archive.archive import CONFIDENCE
from prelim.archive.manifest import write_manifest
from prelim.errors import ArchiveError
from prelim.generation.confidence import Confidence, read_confidence, read_sentences
from prelim.generation.hypothesis import Hypothesis
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.tiny_model import png

INPUTS = ("surprisal", "largest", "tokens")
PIECES = ("Doctor: ", "The heart", " is large", ".", " A nodule", " of 1.5 cm", ". No", " effusion", "", "")


def detokenize(ids: object) -> str:
    """Tokens are numbers of PIECES."""
    return "".join(PIECES[i] for i in ids)  # type: ignore[attr-defined]


def calibration(wrong: tuple[float, ...], weights: tuple[float, ...] = (-1.0, 0.0, 0.0)) -> Confidence:
    """Scores are minus the surprisal unless other weights are given."""
    return Confidence("0" * 64, INPUTS, (0.0,) * 3, (1.0,) * 3, weights, wrong)


def test_sentences_have_the_tokens_that_end_in_them() -> None:
    """Marks and what follows the last sentence included; numbers are not cut."""
    logprobs = tuple(-float(i + 1) for i in range(len(PIECES)))
    hypothesis = Hypothesis(tuple(range(len(PIECES))), logprobs, "eos")

    found = read_sentences("The heart is large. A nodule of 1.5 cm. No effusion", hypothesis, detokenize, 0.5)

    assert [text for text, _ in found] == ["The heart is large.", "A nodule of 1.5 cm.", "No effusion"]
    assert [inputs["tokens"] for _, inputs in found] == [3, 3, 3]
    assert [np.exp(inputs["surprisal"]) for _, inputs in found] == pytest.approx([2 + 3 + 4, 5 + 6 + 7, 8 + 9 + 10])
    assert [np.exp(inputs["largest"]) for _, inputs in found] == pytest.approx([4, 7, 10])
    assert {inputs["distance"] for _, inputs in found} == {0.5}
    assert "distance" not in read_sentences("A", hypothesis, detokenize, None)[0][1]
    assert read_sentences("", hypothesis, detokenize, None) == []


def test_every_token_is_in_one_sentence() -> None:
    """However the text is cut, and where a token ends several sentences."""
    pieces = ["a. b. c", ". d\n", "\n", " e! ", "f", "。g", "? h"]
    hypothesis = Hypothesis(tuple(range(len(pieces))), (-1.0,) * len(pieces), "length")
    text = "".join(pieces)

    found = read_sentences(text, hypothesis, lambda ids: "".join(pieces[i] for i in ids), None)

    assert [sentence for sentence, _ in found] == ["a.", "b.", "c.", "d", "e!", "f。", "g?", "h"]
    assert all(inputs["tokens"] >= 1 for _, inputs in found)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_share_of_wrong_sentences_below_the_level(level: float) -> None:
    """It is the level, on average over many calibrations, whatever the distribution of the scores."""
    draw = np.random.default_rng(0)
    shares = []
    for _ in range(300):
        known = calibration(tuple(sorted(draw.gamma(2.0, size=40))), (1.0, 0.0, 0.0))
        new = draw.gamma(2.0, size=200)
        read = [("", {"surprisal": score, "largest": 0.0, "tokens": 1.0}) for score in new]
        shares.append(np.mean([sentence.confirm for sentence in known.sentences(read, level)]))
    assert np.mean(shares) == pytest.approx(level, abs=0.015)


def test_confidence_is_the_share_of_lower_scores() -> None:
    """Between the scores of wrong sentences by interpolation, never 0 or 1."""
    known = calibration((1.0, 2.0, 4.0), (1.0, 0.0, 0.0))

    def of(score: float) -> float:
        return known.of({"surprisal": score, "largest": 7.0, "tokens": 3.0})

    assert [of(score) for score in (-9.0, 1.0, 2.0, 3.0, 4.0, 99.0)] == [0.25, 0.25, 0.5, 0.625, 0.75, 0.75]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ["temperature", "largest", "tokens"]}, "known: surprisal"),
        ({"inputs": []}, "known: surprisal"),
        ({"weights": [1.0]}, "weights must have a number for each input"),
        ({"weights": [1.0, float("nan"), 0.0]}, "weights must be"),
        ({"centers": [True, 0, 0]}, "centers must be"),
        ({"scales": [1.0, 0.0, 1.0]}, "scales must be above 0"),
        ({"wrong": []}, "ascending and not empty"),
        ({"wrong": [2.0, 1.0]}, "ascending"),
        ({"model": 7}, "must have model, inputs"),
        ({"more": 1}, "must have model, inputs"),
    ],
)
def test_a_damaged_file_is_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    """With what is wrong in it."""
    path = tmp_path / CONFIDENCE
    calibration((1.0, 2.0)).write(path)
    assert read_confidence(path) == calibration((1.0, 2.0))
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(ArchiveError, match=message) as refused:
        read_confidence(path)
    assert str(path) in str(refused.value)


def generator(archive: Path, folder: Path, known: Confidence) -> ReportGenerator:
    """A generator of a copy of an archive with a calibration."""
    shutil.copytree(archive, folder)
    known.write(folder / CONFIDENCE)
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    return ReportGenerator.load(folder, slots=2)


def test_reports_of_a_calibrated_model_have_sentences(tiny_archive: Path, tmp_path: Path) -> None:
    """Of the whole text, to be confirmed below 0.9; a model that is not calibrated says nothing."""
    calibrated = generator(tiny_archive, tmp_path / "sure", calibration(tuple(np.linspace(-6.0, 0.0, 40).tolist())))
    requests = [ReportRequest(image=png(seed)) for seed in range(8)]
    plain = ReportGenerator.load(tiny_archive, slots=2).generate(requests[:1])[0]
    reports = calibrated.generate(requests)

    assert isinstance(plain, Report)
    assert plain.sentences is None
    seen = set()
    for report in reports:
        assert isinstance(report, Report)
        assert report.sentences
        assert " ".join(sentence.text for sentence in report.sentences) == " ".join(report.text.split())
        assert all(sentence.confirm == (sentence.confidence < 0.9) for sentence in report.sentences)
        seen |= {sentence.confidence for sentence in report.sentences}
    assert len(seen) > 3


def test_distance_needs_a_gate(tiny_archive: Path, tmp_path: Path) -> None:
    """An archive without one cannot use such a calibration."""
    known = Confidence("0" * 64, ("distance",), (0.0,), (1.0,), (1.0,), (0.0,))
    with pytest.raises(ArchiveError, match="the archive has no gate"):
        generator(tiny_archive, tmp_path / "far", known)
