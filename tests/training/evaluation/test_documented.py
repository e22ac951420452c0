"""What README, docs/evaluate.md and the demo card say is what was measured, or what the code does."""

import csv
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prelim.networks.model_folder import read_model_folder
from tests.training.evaluation.claims import CAPTIONS, RARE
from training.datasets.delimited import read_rows
from training.datasets.formats.open_radiology import read_templates
from training.datasets.source import Source
from training.datasets.study import DatasetError
from training.evaluation import demo_card, external
from training.evaluation.data import read_data
from training.evaluation.demo_card import MEASUREMENTS
from training.evaluation.documented import PAGE, PARTS, find_differences, find_part
from training.evaluation.metrics.template_captions import GROUP_TITLE, TemplateScorer
from training.evaluation.model_run import ModelRunner

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "models" / "demo"


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_the_page_says_what_shared_data_give(shared: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part of docs/evaluate.md, measured again; but for METEOR, which needs minutes (`--check` has it)."""
    monkeypatch.setattr("training.evaluation.metrics.overlap.meteor_counts", lambda pairs: np.zeros((len(pairs), 23)))
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert find_differences(page, part, PARTS[part](shared / "data"), without=("METEOR",)) == []


def test_a_wrong_figure_is_found() -> None:
    """In a cell, in a sentence, and a row that is missing."""
    page = "<!-- x -->\n| | a |\n|---|---|\n| b | 0.1 |\n| c | 0.2 |\n\n3 of 4.\n<!-- end of x -->"
    measured = "| | a |\n|---|---|\n| b | 0.3 |\n\n3 of 5."
    assert find_differences(page, "x", find_part(page, "x").group()) == []
    assert find_differences(page, "x", measured.replace("5", "4"), without=("b", "c")) == []
    told = "\n".join(find_differences(page, "x", measured))
    assert "x: b / a is '0.1', measured: '0.3'" in told
    assert "x: c / a is '0.2', measured: 'nothing'" in told
    assert "'3 of 4.'" in told
    with pytest.raises(ValueError, match="0 parts <!-- y -->"):
        find_part(page, "y")


def test_files_of_figures_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that an interruption cut, and one that is not there; terminal.program shows the message in one line."""
    (tmp_path / "cut.json").write_text('{"weights": ', encoding="utf-8")
    for name, message in (("cut.json", "cut.json is not JSON"), ("absent.json", "absent.json cannot be read: No such")):
        file = str(tmp_path / name)
        monkeypatch.setattr(sys, "argv", ["card", str(DEMO), "--check", "--data", str(tmp_path), "--evaluation", file])
        with pytest.raises(DatasetError, match=message):
            demo_card.main()


def test_what_the_card_says_of_data_and_recipe_is_compared(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is changed in measurements.json but for the minutes of the training, which are said to be unchecked."""
    data, run = shared / "data" / "open_radiology", Path("absent.json")
    kept = json.loads((DEMO / MEASUREMENTS).read_text(encoding="utf-8"))
    assert demo_card.check_record(kept, data, run) == []
    assert demo_card.UNCHECKED in capsys.readouterr().out
    changed = {
        "training/epochs": {"training": {**kept["training"], "epochs": 15}},
        "training/threads": {"training": {**kept["training"], "threads": 4}},
        "training/wordings/0": {"training": {**kept["training"], "wordings": ["report"]}},
        "sources/0/2": {"sources": [[*kept["sources"][0][:2], 1], *kept["sources"][1:]]},
        "pictures": {"pictures": 5395},
        "changes": {"changes": "none"},
        "attributions": {"attributions": ""},
        "more": {"more": 1},
    }
    for place, values in changed.items():
        [told] = demo_card.check_record({**kept, **values}, data, run)
        assert told.startswith(f"{place} is ")


def test_the_minutes_of_the_training_are_those_of_its_run(shared: Path, tmp_path: Path) -> None:
    """Where training.json is still there, and gave these weights."""
    data, run = shared / "data" / "open_radiology", tmp_path / "training.json"
    kept = json.loads((DEMO / MEASUREMENTS).read_text(encoding="utf-8"))
    for weights, found in ((kept["weights"], ["training/minutes is 50, measured: 7"]), ("0", [])):
        run.write_text(json.dumps({"weights": weights, "seconds": 420}), encoding="utf-8")
        assert demo_card.check_record(kept, data, run) == found


def test_the_readme_says_that_the_demo_is_mostly_wrong_elsewhere() -> None:
    """On pictures of other sources the finding group is wrong for more than half."""
    assert "it is mostly wrong" in (ROOT / "README.md").read_text(encoding="utf-8")
    measured = json.loads((DEMO / MEASUREMENTS).read_text(encoding="utf-8"))
    assert measured["external"]["covid_chestxray"]["finding_group"][0] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("every", [20, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_the_card_says_what_the_model_gives_on_shared_pictures_of_other_sources(
    shared: Path, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The external part of the card, measured again; copies are looked for in every twentieth picture of its data."""
    monkeypatch.setattr(external, "read_rows", lambda *arguments: list(read_rows(*arguments))[::every])
    data = shared / "data"
    measured = json.loads((DEMO / MEASUREMENTS).read_text(encoding="utf-8"))["external"]
    found = external.measure(DEMO, data / "open_radiology", data / "covid_chestxray", data / "iu_xray")
    assert found == measured


@pytest.mark.slow
def test_the_card_says_what_the_model_gives_on_shared_pictures(shared: Path) -> None:
    """Finding groups of the sagittal pictures, measured again; all figures take minutes (`make check-figures`)."""
    path = shared / "data" / "open_radiology"
    measured = json.loads((DEMO / MEASUREMENTS).read_text(encoding="utf-8"))["evaluation"]["subgroups"]["view"]
    data = read_data(Source(path=str(path), sections=("report",)), "val")
    chosen = [i for i, study in enumerate(data.studies) if study.views == ("sagittal",)]
    images = [image for i in chosen if (image := data.inputs[i]) is not None]
    reports = ModelRunner(read_model_folder(DEMO)).run(images, [data.references[i] for i in chosen]).reports
    templates = TemplateScorer.of_folder(path, [data.studies[i] for i in chosen], data.train)
    overall, _ = templates.measures({"model": reports})
    [group] = [one.score() for one in overall["model"] if one.name == GROUP_TITLE]
    assert len(chosen) == measured["sagittal"]["studies"]
    assert group == pytest.approx(measured["sagittal"]["figures"][GROUP_TITLE][0], abs=1e-6)


def test_shared_pictures_are_what_the_card_says_of_them(shared: Path) -> None:
    """Its limits: sources of COVID-19 and of normal chests, kinds of pictures, lost proportions, rare findings."""
    path = shared / "data" / "open_radiology"
    assert {len(captions) for captions in read_templates(path).values()} == {CAPTIONS}
    assert "children of one to five years" in (path / "ATTRIBUTION.md").read_text(encoding="utf-8").lower()
    with (path / "captions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    chests = [row for row in rows if (row["modality"], row["anatomy"]) == ("radiograph", "chest")]
    assert {row["source"] for row in rows if "COVID-19" in row["finding"]} == {"Hannover COVID-19 image repository"}
    normal = [row["source"] for row in chests if row["finding"] == "normal"]
    assert normal.count("Kermany pediatric chest X-ray") > 0.9 * len(normal)
    kinds = {
        ("radiograph", "chest"),
        ("radiograph", "knee"),
        ("MRI", "brain"),
        ("ultrasound", "breast"),
        ("CT", "chest"),
    }
    assert sum((row["modality"], row["anatomy"]) in kinds for row in rows) > 0.98 * len(rows)

    def is_square(row: dict[str, str]) -> bool:
        with Image.open(path / "images" / f"{row['id']}.jpg") as image:
            return image.width == image.height

    assert all(is_square(row) for row in rows if row["anatomy"] == "breast")
    assert sum(map(is_square, chests)) / len(chests) == pytest.approx(0.5, abs=0.05)
    rare = Counter(
        (row["anatomy"], finding) for row in rows if row["split"] == "train" for finding in row["finding"].split("; ")
    )
    words = ("cardiomegaly", "effusion", "nodule", "pneumothorax", "hemorrhage", "infarct")
    few = {key: count for key, count in rare.items() if key[0] == "abdomen" or any(word in key[1] for word in words)}
    assert len(few) > len(words)
    assert max(few.values()) <= RARE
