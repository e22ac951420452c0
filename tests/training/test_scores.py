"""Labels are read back from captions, and scores are what a hand computes."""

import json
from pathlib import Path

import pytest
import torch

from tests.training.conftest import CAPTIONS, LABELS
from training.baselines import most_frequent_caption, retrieved_captions
from training.datasets.open_radiology import DatasetError, read_records, read_templates
from training.evaluate import evaluate, markdown, score
from training.labels import LabelReader, Labels
from training.model_card import attributions, write_card
from training.scores import by_kind, cider, intervals, label_scores
from training.settings import Settings
from training.train import train
from training.wordpiece import BOS, EOS, make_tokenizer

SHARED = Path(__file__).parents[3] / "shared" / "data" / "open_radiology"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data set open_radiology beside the project")
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


def test_the_constant_baseline_is_what_a_hand_computes(data: Path) -> None:
    """One caption for all: half of the findings are right, every place is right, and one caption is distinct."""
    train_records, records = read_records(data, "train"), read_records(data, "val")
    constant = most_frequent_caption(train_records)
    assert constant == "frontal chest x-ray with viral pneumonia"  # both occur four times; a space sorts before a comma
    scores = score([constant] * 4, records, TEMPLATES, set(LABELS))
    assert (scores["modality_anatomy"], scores["finding_group"], scores["all_labels"]) == (1.0, 0.5, 0.5)
    assert (scores["distinct"], scores["not_a_template"]) == (1, 0)
    assert scores["by_kind"] == {"chest radiograph": {"images": 4, "finding_group": 0.5}}


def test_a_finding_in_the_wrong_place_is_wrong(data: Path) -> None:
    """A normal breast is no right answer for a normal chest."""
    records = read_records(data, "val")
    said = [Labels("ultrasound", "breast", "unspecified", "normal")] * 4
    assert label_scores(said, records)["finding_group"] == 0
    assert by_kind(said, records)["chest radiograph"]["finding_group"] == 0


def test_a_patient_counts_once(data: Path) -> None:
    """Where everything is right the bootstrap interval has no width."""
    records = read_records(data, "val")
    assert intervals([record.labels for record in records], records)["all_labels"] == [1.0, 1.0]


def test_cider_of_equal_captions_is_ten() -> None:
    """Captions equal to their only references, all different, have the largest CIDEr there is, commas or not."""
    captions = ["a chest x-ray of a child", "the knee, frontal view, of an adult"]
    assert cider(captions, [[caption.replace(",", "")] for caption in captions]) == pytest.approx(10)


def test_retrieval_says_the_caption_of_the_most_similar_picture(data: Path) -> None:
    """A query that is a scaled training vector gets that picture's caption."""
    records = read_records(data, "train")
    assert retrieved_captions(3 * torch.eye(8)[[1, 0]], torch.eye(8), records) == [
        records[1].caption,
        records[0].caption,
    ]


def test_a_missing_split_lists_those_there_are(data: Path) -> None:
    """A split that does not exist is an error that names the splits of the file."""
    with pytest.raises(DatasetError, match=r"'test'; its splits are train, val"):
        read_records(data, "test")


def test_the_card_states_the_scores_and_every_source(settings: Settings, data: Path) -> None:
    """The card has the measured table, the licence and authors of each source, and its warning."""
    from model_src.model_folder import read_model_folder

    train(settings)
    model = read_model_folder(Path(settings.run.out))
    records = read_records(data, "train")
    result, systems = evaluate(model, records, read_records(data, "val"), read_templates(data))
    result["split"] = "val"
    assert len(systems["model"]) == 4
    assert json.loads(json.dumps(result)) == result
    training = {"settings": {"threads": 1, "epochs": 2, "seed": 0}, "seconds": 61}
    attribution = (data / "ATTRIBUTION.md").read_text(encoding="utf-8")
    card = write_card(model, records, result, training, attribution)
    for text in (markdown(result), "| noise | CC0 1.0 | 8 |", "UNVERIFIED", "not for clinical use", "DOI 10.0/0"):
        assert text in card
    assert attributions(attribution) == "1. **Noise: CC0 1.0.** Nobody, 2025, DOI 10.0/0."
