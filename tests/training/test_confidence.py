"""A calibration is fitted to held-out sentences and flags the share of wrong ones that it says."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from prelim.archive.archive import CONFIDENCE, WEIGHTS
from prelim.decoders.weights_file import read_weights, write_weights
from prelim.errors import ArchiveError
from prelim.labels.labeler import Labeler
from prelim.networks.model_folder import MODEL_CARD, read_model_folder
from training import confidence
from training.datasets.study import DatasetError
from training.evaluation.confidence import Sentences, by_labeler, fit, markdown, mean_logprob, measure
from training.settings import Settings
from training.train import train


def draw(count: int, seed: int = 0, *, gate: bool = False) -> Sentences:
    """Sentences, a fifth of them wrong, whose surprisal tells something and whose length tells nothing."""
    random = np.random.default_rng(seed)
    wrong = random.random(count) < 0.2
    surprisal = random.normal(wrong * 1.5, 1.0)
    read = [{"surprisal": s, "largest": s - 1, "tokens": float(random.integers(5, 12))} for s in surprisal]
    if gate:
        read = [inputs | {"distance": random.random()} for inputs in read]
    return Sentences(read, wrong.tolist(), [f"{i // 3}" for i in range(count)])


def test_figures_of_a_known_distribution() -> None:
    """Coverage is the level, the area is that of two normal distributions, and length tells nothing."""
    sentences = draw(900)
    measured = measure(sentences, [-float(x) for x in sentences.values[:, 0]])

    assert measured["flagged_wrong"][0] == pytest.approx(0.9, abs=0.015)
    assert measured["areas"]["confidence"][0] == pytest.approx(0.856, abs=0.04)
    assert measured["areas"]["length"][0] == pytest.approx(0.5, abs=0.07)
    low, high = measured["areas"]["confidence"][1:]
    assert low < measured["areas"]["confidence"][0] < high
    assert measured["better"][0] == pytest.approx(0.0, abs=0.01)
    assert json.loads(json.dumps(measured)) == measured
    assert "90% (`confirm_below`" in markdown(measured)
    assert "distance of the input gate" not in markdown(measured)


def test_the_score_is_of_what_tells() -> None:
    """Wrong sentences are surprising, so that surprisal has a negative weight, and length nearly none."""
    sentences = draw(900, gate=True)
    found = fit(sentences, np.arange(900), "0" * 64)
    weights = dict(zip(found.inputs, found.weights, strict=True))

    assert found.inputs == ("surprisal", "largest", "tokens", "distance")
    assert weights["surprisal"] + weights["largest"] < -1
    assert abs(weights["tokens"]) < 0.3
    assert list(found.wrong) == sorted(found.wrong)
    assert len(found.wrong) == sentences.wrong.sum()


def test_mean_logprob_is_that_of_the_tokens() -> None:
    """From the inputs."""
    assert mean_logprob({"surprisal": float(np.log(6.0)), "tokens": 4.0}) == pytest.approx(-1.5)


@pytest.mark.parametrize(
    ("sentence", "wrong"),
    [
        ("There is a pleural effusion.", False),
        ("No pleural effusion.", True),
        ("There is a pneumothorax.", True),
        ("No pneumothorax.", False),
        ("Possible pneumonia.", False),
        ("Thank you.", None),
    ],
)
def test_findings_are_compared_with_the_reference(sentence: str, wrong: bool | None) -> None:
    """Findings and denied findings; a sentence with neither is not judged."""
    judge = by_labeler(Labeler(), "Small left pleural effusion. The heart is not enlarged. No pneumothorax.")
    assert judge(sentence) is wrong


@pytest.mark.parametrize(
    ("count", "units", "message"), [(60, 60, "sentences are wrong"), (900, 3, "are of 3 patients")]
)
def test_too_few_sentences_are_refused(count: int, units: int, message: str) -> None:
    """With how many are needed."""
    drawn = draw(count)
    names = drawn.inputs
    read = [dict(zip(names, values, strict=True)) for values in drawn.values.tolist()]
    with pytest.raises(DatasetError, match=message):
        Sentences(read, drawn.wrong.tolist(), [f"{i % units}" for i in range(count)]).check()


def test_the_command_calibrates_a_model(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures go into confidence.json and the card; measured again they are the same; other weights are noticed."""
    train(settings)
    model, out = Path(settings.run.out), tmp_path / "out"
    assert "not calibrated" in (model / MODEL_CARD).read_text(encoding="utf-8")
    monkeypatch.setattr(confidence, "read", lambda *_: draw(900))

    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["confidence", str(model), *map(str, words), "--out", str(out)])
        confidence.main()

    run("--measure")
    measured = json.loads((out / "confidence.json").read_text(encoding="utf-8"))
    assert not (model / CONFIDENCE).exists()
    run()
    assert json.loads((out / "confidence.json").read_text(encoding="utf-8")) == measured
    assert read_model_folder(model).confidence is not None
    card = (model / MODEL_CARD).read_text(encoding="utf-8")
    assert markdown(measured) in card
    assert "not calibrated" not in card
    assert markdown(measured) in capsys.readouterr().out

    weights = {name: tensor.clone() for name, tensor in read_weights(model / WEIGHTS).items()}
    next(iter(weights.values())).add_(1)
    write_weights(model / WEIGHTS, weights)
    with pytest.raises(ArchiveError, match="is of other weights"):
        read_model_folder(model)
    run()
    assert read_model_folder(model).confidence is not None
