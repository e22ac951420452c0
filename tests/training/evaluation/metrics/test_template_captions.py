"""Labels are read back from captions, scores are what a hand computes, and the model card states them."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prelim.archive.archive import WEIGHTS
from prelim.networks.model_folder import read_model_folder
from tests.training.conftest import CAPTIONS, LABELS
from training.datasets.formats.open_radiology import read_records, read_templates
from training.datasets.source import Source
from training.datasets.study import DatasetError
from training.datasets.templates import LabelReader, Labels
from training.datasets.trained_on import name_weights, read_trained_on
from training.evaluation.baselines import best_constant_report, most_frequent_report, pixel_vectors, retrieved_reports
from training.evaluation.data import EvaluationData, read_data
from training.evaluation.demo_card import (
    MEASURED,
    MEASUREMENTS,
    attributions,
    check_weights,
    collect,
    find_differences,
    write_card,
)
from training.evaluation.external import HANNOVER, read_known, read_laterals, score_covid
from training.evaluation.metrics.r2gen import Protocol
from training.evaluation.metrics.template_captions import MEASURES, NOT_A_TEMPLATE, TemplateScorer
from training.evaluation.model_run import ModelRunner
from training.evaluation.systems import baselines, evaluate
from training.evaluation.table import markdown
from training.network.wordpiece import BOS, EOS, make_tokenizer
from training.settings import Settings
from training.train import train

SHARED = Path(__file__).parents[5] / "shared" / "data" / "open_radiology"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared with the data set open_radiology")
TEMPLATES = dict(zip(LABELS, CAPTIONS, strict=True))
READER = LabelReader(TEMPLATES)


def test_captions_survive_the_tokenizer() -> None:
    """A caption comes back from its token ids in lower case, with its commas and hyphens as they were."""
    caption = "Frontal chest x-ray, T1-weighted, with COVID-19"
    tokenizer = make_tokenizer([caption], 400)
    ids = tokenizer.encode(caption).ids
    assert (ids[0], ids[-1]) == (BOS, EOS)
    assert tokenizer.decode(ids) == caption.lower()


def test_unknown_words_are_spelled() -> None:
    """A word that is not in the vocabulary is put together from its characters."""
    tokenizer = make_tokenizer(["chest"], 400)
    assert tokenizer.decode(tokenizer.encode("these").ids) == "these"


@needs_shared
def test_shared_templates_read_back_as_their_own_labels() -> None:
    """Every template caption, through the tokenizer and back, gives exactly its own four labels."""
    templates = read_templates(SHARED)
    reader = LabelReader(templates)
    tokenizer = make_tokenizer((text for captions in templates.values() for text in captions), 400)
    for labels, captions in templates.items():
        for caption in captions:
            assert reader.read(tokenizer.decode(tokenizer.encode(caption).ids)) == (labels, True)


def test_a_caption_that_is_no_template_is_read_as_the_nearest() -> None:
    """A caption that nearly is a template is read as that template and reported as not exact."""
    assert READER.read("frontal chest radiograph, quite normal") == (LABELS[0], False)
    assert READER.read("Frontal chest X - ray with viral  pneumonia.") == (LABELS[1], True)


@pytest.mark.parametrize(
    ("labels", "group"),
    [
        (("radiograph", "chest", "frontal", "COVID-19"), "pneumonia"),
        (("radiograph", "chest", "frontal", "atelectasis; pneumonia"), "pneumonia"),
        (("radiograph", "chest", "frontal", "cardiomegaly"), "cardiomegaly"),
        (("radiograph", "knee", "frontal", "doubtful osteoarthritis"), "grade 0-1"),
        (("radiograph", "knee", "frontal", "severe osteoarthritis"), "grade 2-4"),
        (("ultrasound", "breast", "unspecified", "malignant breast mass"), "malignant"),
        (("CT", "chest", "axial", "benign lung lesion"), "benign"),
        (("MRI", "brain", "axial", "glioma"), "glioma"),
    ],
)
def test_findings_are_scored_in_groups(labels: tuple[str, str, str, str], group: str) -> None:
    """Each finding belongs to the group that the issue scores it by."""
    assert Labels(*labels).finding_group == group


def evaluated(data: Path) -> EvaluationData:
    """The validation split of the tiny data set."""
    return read_data(Source("open_radiology", str(data)), "val")


def scorer(data: Path) -> TemplateScorer:
    """The scorer of the tiny data set."""
    split = evaluated(data)
    return TemplateScorer.of_folder(data, split.studies, split.train)


def test_the_constant_baseline_is_what_a_hand_computes(data: Path) -> None:
    """One caption for all: half of the findings are right, every place is right, and one caption is distinct."""
    split = evaluated(data)
    constant = most_frequent_report(split.train_texts)
    assert constant == "frontal chest x-ray with viral pneumonia"  # both occur four times; a space sorts before a comma
    overall, by_kind = scorer(data).measures({"constant": [constant] * 4})
    scores = {measure.name: measure.score() for measure in overall["constant"]}
    assert (scores["modality, anatomy"], scores["finding group"], scores["all labels"]) == (1.0, 0.5, 0.5)
    assert [(measure.name, measure.score()) for measure in by_kind["constant"]] == [("chest radiograph", 0.5)]
    assert scorer(data).counts([constant] * 4)[NOT_A_TEMPLATE] == 0


def test_a_finding_in_the_wrong_place_is_wrong(data: Path) -> None:
    """A normal breast is a wrong answer for a normal chest."""
    said = Labels("ultrasound", "breast", "unspecified", "normal")
    assert not any(MEASURES["finding_group"](said, record.labels) for record in read_records(data, "val"))


def test_cider_of_a_right_caption_is_ten(data: Path) -> None:
    """Captions equal to the given ones have the largest CIDEr there is."""
    split = evaluated(data)
    overall, _ = scorer(data).measures({"given": split.references})
    assert {m.name: m.score() for m in overall["given"]}["CIDEr, given caption"] == pytest.approx(10)


def test_retrieval_says_the_report_of_the_most_similar_image() -> None:
    """A query that is a scaled training vector gets that image's report."""
    assert retrieved_reports(3 * torch.eye(8)[[1, 0]], torch.eye(8), list("abcdefgh")) == ["b", "a"]


def test_an_image_is_nearest_to_itself(data: Path) -> None:
    """By pixels every training image finds its own report."""
    split = evaluated(data)
    vectors = pixel_vectors([study.images[0] for study in split.train])
    names = [study.study_id for study in split.train]
    assert retrieved_reports(vectors, vectors, names) == names


def test_the_best_constant_is_a_training_report_as_it_stands() -> None:
    """It is chosen by its tokens, and returned uncleaned."""
    train = ["Lungs are clear.", "No effusion, heart normal."]
    assert best_constant_report(train, ["no effusion heart normal"] * 2, Protocol([])) == train[1]


def test_a_missing_split_lists_those_there_are(data: Path) -> None:
    """A split that does not exist is an error that names those of the file."""
    with pytest.raises(DatasetError, match=r"'test'; its splits are train, val"):
        read_records(data, "test")
    with pytest.raises(DatasetError, match=r"'test'; it has: train 8, val 4, test 0"):
        read_data(Source("open_radiology", str(data)), "test")
    with pytest.raises(DatasetError, match=r"has findings; its sections are caption 1, caption 2, report"):
        read_data(Source("open_radiology", str(data), sections=("findings",)), "val")


def test_without_images_or_training_reports_the_table_says_so(data: Path) -> None:
    """Unavailable baselines are named with the reason, and the others are there."""
    split = evaluated(data)
    found = baselines(replace(split, inputs=(None,) * len(split.studies)), Protocol([]), None, None)
    assert len(found.systems) == 3
    assert "0 of 4 studies" in found.notes[-1]
    nothing = baselines(replace(split, train=(), train_texts=()), Protocol([]), None, None)
    assert (nothing.systems, len(nothing.notes)) == ({}, 1)


CONFIDENCE = {
    "sentences": 9,
    "wrong": 4,
    "patients": 5,
    "inputs": ["surprisal", "largest", "tokens"],
    "level": 0.9,
    "areas": {"confidence": [0.8, 0.7, 0.9], "mean log-probability": [0.7, 0.6, 0.8]},
    "better": [0.1, 0.0, 0.2],
    "splits": 9,
    "flagged_wrong": [0.9, 0.8, 1.0],
    "flagged_right": [0.4, 0.3, 0.5],
}


def test_the_card_states_the_scores_and_every_source(settings: Settings, data: Path) -> None:
    """The card has the measured table, the license and authors of each source, and its warning."""
    train(settings)
    model = read_model_folder(Path(settings.run.out))
    split, protocol, runner = evaluated(data), Protocol([]), ModelRunner(model)
    run = runner.run([study.images[0] for study in split.studies], split.references)
    others = baselines(split, protocol, runner, run)
    result = evaluate(
        "demo 1.0", run.reports, split, protocol=protocol, others=others, run=run, templates=scorer(data), draws=50
    )
    assert json.loads(json.dumps(result)) == result
    assert len(others.systems) == 5
    training = {"settings": settings.as_dict(), "seconds": 61}
    attribution = (data / "ATTRIBUTION.md").read_text(encoding="utf-8")
    covid = score_covid(
        [Labels("radiograph", "chest", "frontal", "normal")] * 3, ["normal", "pneumonia", "pneumonia"], "abb"
    )
    external = {
        "covid_chestxray": {**covid, "left_out": {"file name": 3, "picture": 1}},
        "iu_laterals": {"pictures": 2, "views": {"frontal": 2}, "left_out": 0},
    }
    gate = {"rate": 0.01, "train": 8, "val": 4, "rank": 2, "bytes": 9000, "kinds": {}}
    gate["false_refusals"] = {"mean": 0.01, "low": 0.0, "high": 0.02, "splits": 9}
    records = read_records(data, "train")
    measured = collect(
        evaluation={"weights": "0", **result}, external=external, gate=gate, confidence=CONFIDENCE,
        training=training, records=records, attribution=attribution,
    )  # fmt: skip
    card = write_card(model, measured)
    assert "| mean log-probability | 0.700 | 0.600 to 0.800 |" in card
    assert "not calibrated" in write_card(model, {**measured, "confidence": None})
    assert "is right for 1,\n33.3%" in card
    assert "always saying pneumonia is right for 66.7%" in card
    assert "1.00% of the images of the others are refused" in card
    for text in (markdown(result), "| noise | CC0 1.0 | 8 |", "UNVERIFIED", "not for clinical use", "DOI 10.0/0"):
        assert text in card
    assert attributions(attribution) == "1. **Noise: CC0 1.0.** Nobody, 2025, DOI 10.0/0."


def test_another_measurement_is_told() -> None:
    """With its place, whether a value changed, went or came."""
    said = {"a": {"b": [1, 2]}, "c": 1}
    assert find_differences(said, said) == []
    assert find_differences(said, {"a": {"b": [1, 3]}}) == ["a/b/1 is 2, measured: 3", "c is 1, measured: None"]


def test_figures_of_other_weights_are_no_figures_of_a_model(tmp_path: Path) -> None:
    """A card is not made of what an earlier training left in `out/evaluation`."""
    (tmp_path / WEIGHTS).write_bytes(b"new")
    check_weights({"evaluation": name_weights(tmp_path)}, tmp_path)
    for old in ({"weights": "0"}, {}):
        with pytest.raises(SystemExit, match="gate: not measured with the weights that are in"):
            check_weights({"evaluation": name_weights(tmp_path), "gate": old}, tmp_path)


def test_pictures_of_the_training_data_are_not_of_other_sources(tmp_path: Path) -> None:
    """By the file name at their source, by what they show, and with the repository that they come from."""
    noise = np.random.default_rng(3).integers(0, 255, (3, 8, 8), dtype=np.uint8)
    for folder in ("images", "other"):
        (tmp_path / folder).mkdir()
    files = (("images/os1.jpg", "other/copy.jpg"), ("other/scan7.jpg",), ("other/new.jpg",))
    for pixels, names in zip(noise, files, strict=True):
        for size, name in zip((256, 200), names, strict=False):
            Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(tmp_path / name)
    (tmp_path / "provenance.csv").write_text("id,original_file\nos1,images/scan7.png\n", encoding="utf-8")
    known, other = read_known(tmp_path), tmp_path / "other"
    assert known.find_reason(other / "copy.jpg") == "picture"
    assert known.find_reason(other / "scan7.jpg") == "file name"
    assert known.find_reason(other / "new.jpg") == ""
    assert known.find_reason(other / "new.jpg", f"https://github.com/{HANNOVER}") == "Hannover repository"


def test_the_demo_card_is_what_was_measured() -> None:
    """Every figure of the committed card is that of measurements.json, measured with the committed weights."""
    folder = Path(__file__).parents[4] / "models" / "demo"
    measured = json.loads((folder / MEASUREMENTS).read_text(encoding="utf-8"))
    check_weights({MEASUREMENTS: measured, **{name: measured[name] for name in MEASURED}}, folder)
    assert (folder / "MODEL_CARD.md").read_text(encoding="utf-8") == write_card(read_model_folder(folder), measured)


def test_shared_demo_measurements_are_those_of_the_model(shared: Path) -> None:
    """Measured again with the committed weights: the view that captions of lateral radiographs name."""
    folder = Path(__file__).parents[4] / "models" / "demo"
    measured = json.loads((folder / MEASUREMENTS).read_text(encoding="utf-8"))
    reader = LabelReader(read_templates(shared / "data" / "open_radiology"))
    images = read_laterals(shared / "data" / "iu_xray")
    reports = ModelRunner(read_model_folder(folder)).run(images, [""] * len(images)).reports
    views = Counter(reader.read(report)[0].view for report in reports)
    assert measured["external"]["iu_laterals"] == {"pictures": len(images), "views": dict(views), "left_out": 0}
    assert measured["pictures"] == len(read_records(shared / "data" / "open_radiology", "train"))


def test_shared_demo_model_is_not_scored_on_its_training(shared: Path) -> None:
    """Its folder says what it was trained on: all of the training split, nothing of the other."""
    source = Source("open_radiology", str(shared / "data" / "open_radiology"))
    record = read_trained_on(Path(__file__).parents[4] / "models" / "demo")
    assert record is not None
    assert len(read_data(source, "val", trained_on=record).studies) == 674
    with pytest.raises(DatasetError, match="was trained on 5394 of the 5394 studies"):
        read_data(source, "train", trained_on=record)
