"""A model that takes prompts is asked what the data set asks."""

import json
import sys
from pathlib import Path

import pytest

from prelim.networks.model_folder import read_model_folder
from tests.tiny_model import png
from tests.training.small_systems import small_run
from training.datasets.source import Source
from training.evaluate import main
from training.evaluation.data import read_data
from training.evaluation.model_run import ModelRunner
from training.train import train

QUESTIONS = ("is there an effusion", "heart", "which side is the tube on")
ANSWERS = ("no effusion seen", "the heart is large", "tube on the left side")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three questions about each of ten images, and a model trained on them."""
    folder = tmp_path_factory.mktemp("questions")
    rows = []
    for image, split in enumerate((*["train"] * 8, "val", "test")):
        (folder / f"{image}.png").write_bytes(png(image))
        for question, answer in zip(QUESTIONS, ANSWERS, strict=True):
            rows.append({"image": f"{image}.png", "prompt": question, "report": answer, "split": split})
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    dataset = {"format": "table", "path": str(folder / "t.jsonl"), "sections": ["report"], "images": "each"}
    steps = {"epochs": 12, "batch_size": 8, "learning_rate": 3e-3}
    train(small_run("densenet_disease_llama", folder, dataset=dataset, optimization=steps))
    return folder


def test_evaluation_asks_the_questions(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The references are as likely as after their questions, each by itself; the default gives others."""
    data = read_data(Source("table", str(trained / "t.jsonl"), sections=("report",)), "test")
    assert data.prompts == QUESTIONS
    runner = ModelRunner(read_model_folder(trained / "model"))
    images = [path for path in data.inputs if path is not None]
    together = runner.run(images, data.references, prompts=data.prompts)
    alone = [
        runner.run([image], [reference], prompts=[prompt])
        for image, reference, prompt in zip(images, data.references, data.prompts, strict=True)
    ]
    assert together.reports == tuple(run.reports[0] for run in alone)
    assert together.nats == pytest.approx([run.nats[0] for run in alone], rel=1e-4)
    unasked = runner.run(images, data.references)
    assert together.nats != pytest.approx(unasked.nats, rel=1e-3)
    monkeypatch.setattr(sys, "argv", ["evaluate", str(trained / "model"), "--out", str(tmp_path), "--draws", "20"])
    main()
    written = (tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[1] for line in written[1:]] == list(together.reports)
    assert len(set(together.reports)) > 1  # one image, several answers
    page = (tmp_path / "evaluation.md").read_text(encoding="utf-8")
    assert "| exact match |" in page
    assert "No clinical labels: most texts answer questions" in page


def test_the_first_prompt_of_the_settings_is_asked(trained: Path) -> None:
    """Where training draws one of several."""
    source = Source("table", str(trained / "t.jsonl"), sections=("report",), prompts=("Describe.", "Report."))
    assert read_data(source, "test").prompts == ("Describe.",) * 3
