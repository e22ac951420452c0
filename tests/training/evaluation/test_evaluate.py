"""The command: model folders, predictions of other systems, ReXrank's files."""

import csv
import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import WhitespaceSplit

from prelim.generation.options import GenerationOptions
from prelim.images.preprocess import preprocess
from prelim.images.radiograph import read_radiograph
from prelim.networks.model_folder import read_model_folder
from tests.tiny_model import png
from training.datasets.formats import rexrank
from training.datasets.source import Source
from training.datasets.study import DatasetError, Study
from training.evaluate import main
from training.evaluation.data import EvaluationData, read_data
from training.evaluation.examples_figure import plot_examples
from training.evaluation.metrics.measure import Bootstrap
from training.evaluation.metrics.optional import EXTRAS, extra_measures
from training.evaluation.metrics.perplexity import perplexity_measure
from training.evaluation.model_run import ModelRunner, Run
from training.evaluation.predictions import read_predictions, sort_predictions
from training.evaluation.systems import rounded

REPORTS = (
    "the heart is not enlarged .",
    "no effusion . the heart is normal .",
    "findings : normal chest . no effusion .",
)


@pytest.fixture
def model_folder(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with a tokenizer that knows where words end."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Three pictures."""
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        path.write_bytes(png(i))
    return paths


@pytest.fixture
def annotation(tmp_path: Path, images: list[Path]) -> Path:
    """A file like R2Gen's with the three pictures in each split; its test list is named by four spaces."""
    path = tmp_path / "annotation.json"
    parts = {
        key: [
            {"id": f"{key.strip()}{i}_x", "report": text, "image_path": [image.name]}
            for i, (text, image) in enumerate(zip(REPORTS, images, strict=True))
        ]
        for key in ("train", "val", "    ")
    }
    path.write_text(json.dumps(parts), encoding="utf-8")
    return path


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    """The command line, with few bootstrap draws."""
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments), "--draws", "20", "--min-count", "1"])
    main()


def test_likelihoods_are_those_of_teacher_forcing(model_folder: Path, images: list[Path]) -> None:
    """Batched and padded, in the decoder that is served, a reference is as likely as in the one that is trained."""
    model = read_model_folder(model_folder)
    run = ModelRunner(model, slots=2).run(images, REPORTS, GenerationOptions(max_new_tokens=2))
    for i, (image, text) in enumerate(zip(images, REPORTS, strict=True)):
        ids = torch.tensor([[2, *model.tokenizer.encode(text, add_special_tokens=False).ids, 3]])
        pixels = preprocess(read_radiograph(image.read_bytes(), model.config.input), model.config.preprocess)
        image_embeds = model.network.connector(model.network.vision(torch.from_numpy(pixels)[None]))
        logits = model.network.decoder.teacher_forcing(image_embeds, ids[:, :1], ids[:, 1:])
        expected = torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum")
        assert run.nats[i] == pytest.approx(float(expected), rel=1e-4)
        assert run.tokens[i] == ids.shape[1] - 1
    assert run.cut == 0


def test_reports_do_not_depend_on_the_batch(model_folder: Path, images: list[Path]) -> None:
    """Three images together get the reports that each gets alone."""
    model = read_model_folder(model_folder)
    together = ModelRunner(model, slots=3).run(images, REPORTS)
    alone = ModelRunner(model, slots=1).run(images, REPORTS)
    assert together.reports == alone.reports
    torch.testing.assert_close(ModelRunner(model).features(images), together.features)


def test_a_word_that_cannot_be_written_has_no_finite_perplexity() -> None:
    """JSON has no infinity: the figure is absent, and the table says so."""
    run = Run(("",), torch.zeros(1, 1), (1e5,), (1,), 0)
    assert rounded(Bootstrap(["a"]).interval(perplexity_measure(run))) == [None, None, None]


def test_perplexity_of_even_odds_is_their_number() -> None:
    """Where each of 4 tokens is as likely as 7 others, perplexity per token is 8."""
    run = Run(("",), torch.zeros(1, 1), (4 * float(np.log(8)),), (4,), 0)
    assert perplexity_measure(run).score() == pytest.approx(8)


def test_a_model_is_scored_beside_its_baselines(
    model_folder: Path, annotation: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files are written; the table has every baseline, and who retrieves its own image is perfect."""
    out = tmp_path / "out"
    run_command(
        monkeypatch, model_folder, annotation, "--format", "r2gen", "--images", images[0].parent, "--out", out,
        "--rexrank", out / "sent.json",
    )  # fmt: skip
    result = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    first = result["sections"][0]["figures"]
    assert len(first) == 6
    assert first["nearest image, 32 x 32 pixels"]["BLEU-4"] == [1, 1, 1]
    assert first["nearest image, encoder features"]["BLEU-4"] == [1, 1, 1]
    page = (out / "evaluation.md").read_text(encoding="utf-8")
    assert "perplexity, token" in page
    assert f"weights with the sha256 {result['weights']}" in page
    assert result["weights"] == hashlib.sha256((model_folder / "model.safetensors").read_bytes()).hexdigest()
    assert (out / "examples.png").stat().st_size > 5000
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sent = read_predictions(out / "sent.json")
    assert [row["text"] for row in rows] == [sent[row["id"]] for row in rows]


def test_predictions_of_others_are_scored_alike(
    annotation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """References written to CSV as predictions are perfect; a study without prediction is named."""
    path = tmp_path / "theirs.csv"
    lines = [f"{i}_x,{text}" for i, text in enumerate(REPORTS)]
    path.write_text("\n".join(["id,text", *lines]), encoding="utf-8")
    run_command(monkeypatch, path, annotation, "--format", "r2gen", "--sections", "report", "--out", tmp_path)
    assert "| BLEU-4 | 1.000 (1.000 to 1.000) |" in capsys.readouterr().out
    path.write_text("\n".join(["id,text", *lines[1:]]), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"no text for 1 of 3 studies, the first being '0_x'"):
        run_command(monkeypatch, path, annotation, "--format", "r2gen", "--out", tmp_path)


def test_baselines_can_stand_alone(
    annotation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a model the constant comes first, and the missing images are told of."""
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "examples.png").write_bytes(b"of another evaluation")
    run_command(monkeypatch, "baselines", annotation, "--format", "r2gen", "--images", empty, "--out", tmp_path)
    assert not (tmp_path / "examples.png").exists()
    text = capsys.readouterr().out
    assert text.startswith("|  | constant, best BLEU-4 on val | constant, most frequent | random training report |")
    assert "0 of 3 studies and 0 of 3 training studies" in text
    assert "no examples.png" in text


def test_rexrank_round_trip(tmp_path: Path) -> None:
    """Studies that were written are read as they were, key image first, and their predictions with them."""
    study = Study(
        "s1", (tmp_path / "a.png", tmp_path / "b.png"), {"findings": "Clear.", "report": "Findings: Clear."}, "p1",
        ("frontal", "lateral"), "file", "test", {"context": "Age:50"},
    )  # fmt: skip
    path = tmp_path / "file.json"
    rexrank.write(path, [study], ["Lungs clear."])
    assert list(rexrank.read(path, tmp_path)) == [study]
    assert read_predictions(path) == {"s1": "Lungs clear."}


def test_rexrank_entries_are_kept(tmp_path: Path) -> None:
    """Entries of ReXrank's own file come back unchanged, with the prediction added."""
    given = {"s1": {"image_path": ["a.png"], "key_image_path": "a.png", "report": "x", "extra": [1, 2]}}
    source, path = tmp_path / "in.json", tmp_path / "out.json"
    source.write_text(json.dumps(given), encoding="utf-8")
    rexrank.write(path, list(rexrank.read(source)), ["y"], source)
    assert json.loads(path.read_text(encoding="utf-8")) == {"s1": {**given["s1"], "model_prediction": "y"}}


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    """The message names the file and what is expected."""
    path = tmp_path / "list.json"
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"list.json is not ReXrank's JSON"):
        read_predictions(path)
    with pytest.raises(DatasetError, match=r"predictions are .json \(ReXrank\) or .csv"):
        read_predictions(tmp_path / "theirs.txt")
    assert sort_predictions({"b": "2", "a": "1"}, [], path) == []


def test_extras_say_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric whose package is absent is left out, and the remark names package and weights."""
    monkeypatch.setattr("training.evaluation.metrics.optional.find_spec", lambda _: None)
    measures, lacking = extra_measures(list(EXTRAS), {"x": ["a"]}, ["a"])
    assert measures == {"x": []}
    assert len(lacking) == 4
    assert "package radgraph is not installed" in lacking[0]
    assert "RRG_scorers" in lacking[0]


def test_subgroups_are_scored_where_the_data_name_them(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By sex, age band, view and source, with the number of studies and intervals; small ones are left out."""
    rows = [
        {
            "file": images[i % 3].name,
            "uid": str(i),
            "patient": f"p{i}",
            "report": REPORTS[i % 3],
            "sex": "FM"[i % 2],
            "age": str(20 + i),
            "view": "PA" if i < 45 else "AP",
            "split": "train" if i >= 50 else "val" if i >= 48 else "test",
        }
        for i in range(60)
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    run_command(monkeypatch, "baselines", tmp_path, "--format", "pairs", "--images", tmp_path, "--out", tmp_path)
    groups = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))["subgroups"]
    assert {value: scores["studies"] for value, scores in groups["sex"].items()} == {"female": 24, "male": 24}
    assert {value: scores["studies"] for value, scores in groups["age"].items()} == {"18-39": 20, "40-64": 25}
    assert "view" not in groups  # one of its values has three studies
    low, high = groups["sex"]["male"]["figures"]["BLEU-4"][1:]
    assert low <= groups["sex"]["male"]["figures"]["BLEU-4"][0] <= high
    shown = capsys.readouterr()
    assert "| sex: male | 24 |" in shown.out
    assert "reading the data" in shown.err
    assert "scoring" in shown.err


def test_reports_of_another_language_get_no_clinical_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The English rules would call wrong reports right; the remark says why they are missing."""
    texts = ("Silueta cardíaca normal, sin derrame pleural.", "Derrame pleural izquierdo y cardiomegalia leve.")
    rows = [{"file": f"{i}.png", "report": texts[i % 2], "split": ("train", "val", "test")[i % 3]} for i in range(30)]
    (tmp_path / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    run_command(monkeypatch, "baselines", tmp_path, "--format", "pairs", "--out", tmp_path)
    text = capsys.readouterr().out
    assert "micro F1" not in text
    assert "No clinical labels: the rules read English, and most references are" in text
    assert "an unknown number of patients" in text


def test_chinese_reports_are_scored_by_their_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command: no clinical scores, no METEOR, sacreBLEU with its own tokenizer, and a perfect score."""
    texts = ("心影大小正常，双肺清晰，未见胸腔积液。", "左侧胸腔积液，心影轻度增大，未见气胸。")
    rows = [{"file": f"{i}.png", "report": texts[i % 2], "split": ("train", "val", "test")[i % 3]} for i in range(30)]
    (tmp_path / "pairs.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    said = tmp_path / "said.csv"
    lines = [f"{i}.png,{texts[i % 2]}" for i in range(2, 30, 3)]
    said.write_text("\n".join(["id,text", *lines]), encoding="utf-8")
    run_command(monkeypatch, said, tmp_path, "--format", "pairs", "--out", tmp_path)
    text = capsys.readouterr().out
    assert "micro F1" not in text
    assert "No clinical labels: the rules read English, and most references are in another language (zh)" in text
    assert "sacreBLEU zh" in text
    assert "| METEOR |" not in text
    figures = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))["sections"][0]["figures"]
    assert figures["said"]["BLEU-4"][0] == pytest.approx(1)


def test_a_split_of_which_no_image_is_here_is_no_score(tmp_path: Path) -> None:
    """Also where all images may be missing."""
    rows = [{"file": f"{i}.png", "report": REPORTS[i % 3], "split": "test"} for i in range(3)]
    (tmp_path / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    source = Source("pairs", str(tmp_path), missing_images=1.0)
    with pytest.raises(
        DatasetError, match=r"no study of 'test' has an image that can be used: 3 images are not on this"
    ):
        read_data(source, "test", with_images=True)


def test_a_model_sees_the_view_that_is_asked_for(
    model_folder: Path, tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the first image of a study, which may be lateral; what a model was trained on is said to be unknown."""
    rows = [
        {"file": images[k].name, "uid": str(i), "view": view, "report": REPORTS[i], "split": split}
        for i, split in enumerate(("train", "val", "test"))
        for k, view in ((0, "LATERAL"), (1, "PA"))
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    seen: list[Path] = []
    run = ModelRunner.run

    def spy(self: ModelRunner, paths: list[Path], *rest: object, **named: object) -> Run:
        seen.extend(paths)
        return run(self, paths, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelRunner, "run", spy)
    words = (model_folder, tmp_path, "--format", "pairs", "--images", tmp_path, "--views", "PA", "--out", tmp_path)
    run_command(monkeypatch, *words)
    assert seen == [images[1]]
    assert "does not say what it was trained on" in (tmp_path / "evaluation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_examples_show_no_study_twice(
    images: list[Path], tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer studies than places give fewer examples."""
    studies = tuple(Study(str(i), (images[i % 3],), {}, None, ("",), "", None, {}) for i in range(count))
    inputs = tuple(study.images[0] for study in studies)
    texts = ("text",) * count
    data = EvaluationData("test", studies, texts, inputs, (), (), (), (), 0)
    titles: list[str] = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda _, title, **__: titles.append(title))
    assert plot_examples(tmp_path / "examples.png", data, texts) == min(count, 6)
    assert len(titles) == len(set(titles)) == min(count, 6)


def test_one_patient_has_no_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A test split of one patient: figures without intervals, and the page says why."""
    studies = [
        {"file": f"{i}.png", "patient": "p" if i < 4 else "q", "split": "test" if i < 4 else "train", "report": text}
        for i, text in enumerate(REPORTS * 3)
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(studies), encoding="utf-8")
    path = tmp_path / "pairs.json"
    run_command(monkeypatch, "baselines", path, "--format", "pairs", "--out", tmp_path / "out")
    page = capsys.readouterr().out
    assert "All studies are of one patient: the figures have no intervals" in page
    assert " to " not in "".join(line for line in page.splitlines() if line.startswith("| BLEU"))


@pytest.mark.parametrize(
    ("count", "said"), [(1, "There is one study, or studies of one"), (3, "The studies are of 3 known")]
)
def test_few_studies_of_unknown_patients_are_not_called_patients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], count: int, said: str
) -> None:
    """Nobody knows how many patients three studies are of."""
    studies = [
        {"file": f"{i}.png", "split": "test" if i < count else "train", "report": text}
        for i, text in enumerate(REPORTS * 3)
    ]
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(studies), encoding="utf-8")
    run_command(monkeypatch, "baselines", path, "--format", "pairs", "--out", tmp_path / "out")
    page = capsys.readouterr().out
    assert said in page
    assert f"of {count} patient" not in page


def test_references_that_are_equal_as_prepared_are_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two distinct texts can be equal without case and punctuation: the remark says how they are equal."""
    studies = [
        {"file": f"{i}.png", "patient": f"p{i}", "split": "test" if i < 4 else "train", "report": text}
        for i, text in enumerate(("No effusion.", "no effusion") * 4)
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(studies), encoding="utf-8")
    run_command(monkeypatch, "baselines", tmp_path / "pairs.json", "--format", "pairs", "--out", tmp_path / "out")
    page = capsys.readouterr().out
    assert "Of the references 2 are distinct" in page
    assert "All references are equal as R2Gen's protocol prepares them" in page
    assert "The studies are of 4 patients: with so few, the intervals are too narrow." in page
