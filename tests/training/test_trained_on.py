"""A model is never scored on what it was trained on, whatever the settings of its splits."""

import argparse
import csv
import io
import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.training.small_systems import small_run
from training import evaluate as command
from training.data.examples import read_examples
from training.datasets.source import Source, load_studies
from training.datasets.study import DatasetError, Study
from training.datasets.trained_on import (
    TRAINED_ON,
    TrainedOn,
    hash_pictures,
    mark_patient,
    mark_texts,
    read_trained_on,
    split_known,
)
from training.evaluate import make_source
from training.evaluation.data import read_data
from training.settings import DatasetSettings, Settings, make_dataset_settings
from training.train import train

FRACTIONS = ((0.1, 0.1), (0.3, 0.0), (0.0, 0.3), (0.25, 0.25), (0.4, 0.1))


def write_data(folder: Path, fixed: str, count: int = 40) -> Path:
    """Studies of 20 patients: without splits, with splits for all, for some, or with patients in two of them."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for i in range(count):
        row: dict[str, Any] = {"file": f"{i}.png", "patient": f"p{i // 2}", "report": f"Finding {i} of the lung."}
        if fixed == "all" or (fixed == "some" and i % 4 < 2):
            row["split"] = ("train", "train", "val", "test")[i // 2 % 4]
        if fixed == "leaking":
            row["split"] = ("train", "test")[i % 2] if i < 10 else ("train", "val", "test")[i // 2 % 3]
        (folder / "images" / f"{i}.png").write_bytes(picture(i))
        rows.append(row)
    (folder / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def picture(number: int) -> bytes:
    """A small image that differs from those of other numbers."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 40), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def marks(settings: DatasetSettings) -> set[str]:
    """Of all examples that are trained on."""
    return {mark for example in read_examples(settings).train for mark in example.marks}


def train_in_parts(settings: Settings, sessions: int) -> TrainedOn:
    """Train one step a session, the last session to the end; what the model folder says then."""
    for session in range(sessions):
        last = session == sessions - 1
        run = replace(settings.run, resume=session > 0, stop_after=0 if last else 1)
        assert train(replace(settings, run=run)) is last
    record = read_trained_on(Path(settings.run.out))
    assert record is not None
    return record


@pytest.mark.parametrize("fixed", ["none", "some", "all", "leaking"])
@pytest.mark.parametrize("number", range(5))
def test_no_split_setting_scores_what_was_trained_on(tmp_path: Path, fixed: str, number: int) -> None:
    """20 combinations of fractions, seeds, fixed splits and resumed runs share no study and no patient with scores.

    Each is a real run of a tiny model in one, two or three sessions; every other run is made longer afterwards. With
    any other seed or fractions, trained studies and their patients are left out.
    """
    path = write_data(tmp_path / "data", fixed, count=24)
    val, test = FRACTIONS[number]
    values = {"format": "pairs", "path": str(path), "val_fraction": val, "test_fraction": test, "split_seed": number}
    values["splits"] = ("disjoint", "drawn")[number % 2] if fixed == "leaking" else "fixed"
    values["images"], values["sections"] = "each", ["report"]
    short = {"epochs": 2, "batch_size": 2, "max_steps": 3}
    run = small_run("xreport", tmp_path, dataset=values, optimization=short)
    record = train_in_parts(run, 1 + number % 3)
    if number % 2:
        longer = replace(run.optimization, max_steps=4)
        assert train(replace(run, optimization=longer, run=replace(run.run, resume=True)))
        assert read_trained_on(Path(run.run.out)) == record
    settings, learned = run.dataset, record.studies
    assert learned == marks(settings)
    patients = {study.patient_id for study in load_studies(settings) if record.knows(study, settings)}
    for split in ("val", "test"):
        try:
            data = read_data(make_dataset_settings(record.dataset), split, trained_on=record)
        except DatasetError as error:
            assert "has no studies of split" in str(error)  # noqa: PT017 - which of two errors it is
            continue
        assert not patients & {study.patient_id for study in data.studies}
    with pytest.raises(DatasetError, match="was trained on"):
        read_data(settings, "train", trained_on=record)
    other = replace(settings, split_seed=number + 100, splits="drawn", val_fraction=0.5, test_fraction=0.0)
    try:
        data = read_data(other, "val", trained_on=record)
    except DatasetError as error:
        assert "was trained on" in str(error)  # noqa: PT017 - nothing is left
    else:
        assert not patients & {study.patient_id for study in data.studies}
        assert "were left out: the model was trained on" in data.remarks[0]


def write_table(path: Path, rows: list[dict[str, str]]) -> Source:
    """A table of studies without splits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return Source("table", str(path), val_fraction=0.0, test_fraction=0.3)


def remember(source: Source) -> TrainedOn:
    """What a model that was trained on the training split of a source would say."""
    settings = make_dataset_settings(asdict(source))
    return TrainedOn(asdict(settings), frozenset(marks(settings)))


@pytest.fixture
def table(tmp_path: Path) -> tuple[Source, list[dict[str, str]]]:
    """50 studies with images, all normal but for their number, and two columns of patients."""
    rows = []
    for i in range(50):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
        row = {"id": f"s{i}", "image": f"{i}.png", "report": f"Clear lungs, {i}.", "patient": f"p{i // 2}"}
        rows.append({**row, "who": f"w{(i * 7) % 25}"})
    return write_table(tmp_path / "t.csv", rows), rows


@pytest.mark.parametrize(
    "change",
    [
        "nothing",
        "columns",
        "blank",
        "case",
        "indication",
        "patients",
        "ids",
        "images",
        "ids and texts",
        "texts and images",
        "pairs",
    ],
)
def test_a_trained_study_is_recognized_in_whatever_form_it_comes(
    tmp_path: Path, table: tuple[Source, list[dict[str, str]]], change: str
) -> None:
    """Another column, format, id, text or image: one of id, id with text, and image is enough; no study slips through.

    The training split is refused; what is left of another split has no patient of it, and the page says what is not.
    """
    source, rows = table
    record = remember(source)
    trained = {study.images[0].name for study in load_studies(source) if study.split == "train"}
    assert 25 < len(trained) < 50
    changed = [dict(row) for row in rows]
    for number, row in enumerate(changed):
        if change in ("blank", "case", "ids and texts", "texts and images"):
            row["report"] = {"blank": row["report"] + " ", "case": row["report"].upper()}.get(change, "Other words.")
        if change == "indication":
            row["indication"] = "Cough."
        if change == "patients":
            row["patient"] = f"q{number}"
        if change in ("ids", "ids and texts"):
            row["id"] = f"t{number}"
        if change in ("images", "texts and images"):
            row["image"] = f"new{number}.png"
            (tmp_path / row["image"]).write_bytes(picture(100 + number))
    numbers = {Path(row["image"]).name: f"{number}.png" for number, row in enumerate(changed)}
    other = write_table(tmp_path / "u.csv", changed)
    if change == "columns":
        other = replace(source, columns={"id": "image", "patient": "who"})
    if change == "pairs":
        renamed = [{**row, "file": row["image"], "uid": row["id"], "findings": row["report"]} for row in changed]
        kept = ("file", "uid", "findings", "patient")
        (tmp_path / "pairs.json").write_text(json.dumps([{key: row[key] for key in kept} for row in renamed]))
        for number in range(50):  # the same pictures in other files
            (tmp_path / f"{number}.png").write_bytes(picture(200 + number))
        other = replace(source, format="pairs", path=str(tmp_path / "pairs.json"), image_folder=str(tmp_path))
    with pytest.raises(DatasetError, match="the model was trained on"):
        read_data(other, "train", with_images=True, trained_on=record)
    data = read_data(other, "test", with_images=True, trained_on=record)
    assert not trained & {numbers[study.images[0].name] for study in data.studies}
    assert bool(data.remarks) == (change in ("columns", "patients"))


def test_the_same_words_of_other_studies_are_scored(tmp_path: Path, table: tuple[Source, list[dict[str, str]]]) -> None:
    """Reports of normal studies are often the same: another id and image with a text that was trained on is scored."""
    source, rows = table
    record = remember(source)
    for number in range(50):
        (tmp_path / f"new{number}.png").write_bytes(picture(100 + number))
    others = [{**row, "id": f"t{i}", "image": f"new{i}.png"} for i, row in enumerate(rows)]
    other = replace(write_table(tmp_path / "u.csv", others), test_fraction=0.9)
    data = read_data(other, "test", with_images=True, trained_on=record)
    assert len(data.studies) == sum(study.split == "test" for study in load_studies(other)) > 25
    assert not data.remarks


def make_study(name: str, text: str = "The lungs are clear.", image: Path | None = None, **values: Any) -> Study:
    """A study of one report and at most one image."""
    images = (image,) if image else ()
    common = {"patient_id": None, "views": ("",) * len(images), "source": "", "split": None, "labels": {}}
    return Study(name, images, {"report": text}, **{**common, **values})


def learn(study: Study, source: Source) -> TrainedOn:
    """What a model that was trained on one study would say."""
    patient = mark_patient(study, source)
    pictures = hash_pictures(study.images)
    learned = frozenset([*mark_texts(study, source), *([patient] if patient else [])])
    return TrainedOn({"format": source.format, "path": source.path}, learned, pictures=pictures)


FORMATS_OF_ONE = [
    (("indiana_csv", "12", ""), ("r2gen", "CXR12_IM-0133", ""), ("r2gen", "CXR13_IM-0133", "")),
    (("openi_xml", "CXR12", ""), ("indiana_csv", "12", ""), ("indiana_csv", "120", "")),
    (("r2gen", "CXR12_IM-0133", ""), ("table", "12", "images/12_IM-0133-1001.dcm.png"), ("table", "12", "12.png")),
    (
        ("mimic_cxr", "50414267", ""),
        ("rexrank", "p10_p10000032_s50414267", ""),
        ("rexrank", "p10_p10000032_s50414268", ""),
    ),
    (
        ("mimic_cxr", "50414267", ""),
        ("r2gen", "02aa804e", "p10/p10000032/s50414267/02aa804e.jpg"),
        ("r2gen", "174413ec", "p10/p10000032/s53189527/174413ec.jpg"),
    ),
    (
        ("chexpert_plus", "train/patient42142/study5", ""),
        ("rexrank", "patient42142_study5", ""),
        ("rexrank", "patient42142_study6", ""),
    ),
    (("table", "train\\patient7\\study5", ""), ("rexrank", "patient7_study5", ""), ("rexrank", "patient7_study6", "")),
    (
        ("rexgradient", "pGRDN004ABC_aGRDN00DEF_s1.2", ""),
        ("table", "GRDN004ABC_GRDN00DEF", ""),
        ("table", "GRDN004ABC_GRDN00DEA", ""),
    ),
    (("table", "S1", ""), ("table", "s1", ""), ("table", "s2", "")),
    (("table", "1.2.840.113619.2", ""), ("pairs", "1.2.840.113619.2", ""), ("pairs", "1.2.840.113619.3", "")),
]


@pytest.mark.parametrize("cases", FORMATS_OF_ONE)
def test_a_study_of_a_published_data_set_is_recognized_in_each_of_its_formats(
    cases: tuple[tuple[str, str, str], ...],
) -> None:
    """Whichever of two formats is trained on: same study, other text; another study of the set is not it."""
    first, second, other = (
        (make_study(name, f"Words {number}.", Path(image) if image else None), Source(form, "."))
        for number, (form, name, image) in enumerate(cases)
    )
    assert learn(*first).knows(*second)
    assert learn(*second).knows(*first)
    assert not learn(*first).knows(*other)


def test_a_patient_of_a_published_data_set_is_recognized_in_each_of_its_formats() -> None:
    """Another study of a patient that was trained on is left out, not one of a number that is anybody's."""
    trained = learn(make_study("50414267", patient_id="10000032"), Source("mimic_cxr", "."))
    named = make_study("p10_p10000032_s59999999"), Source("rexrank", ".")
    assert not trained.knows(*named)
    assert trained.knows_patient(*named)
    parts: dict[str, list[Study]] = {"train": [], "val": [], "test": [named[0]]}
    assert split_known(parts, "test", named[1], trained) == ([], 0, 1)
    anybody = learn(make_study("a", patient_id="7"), Source("table", "."))
    assert not anybody.knows_patient(make_study("b", patient_id="7"), Source("pairs", "."))


def test_a_number_with_the_text_is_enough_for_an_id() -> None:
    """`1` is `CXR1` where the text is the same; a year that all ids begin with makes nothing known."""
    text = "Small left pleural effusion, and no consolidation or pneumothorax."
    record = learn(make_study("1", text), Source("table", "."))
    assert record.knows(make_study("No. 001", text), Source("pairs", "."))
    assert not record.knows(make_study("No. 001", "Other words."), Source("pairs", "."))
    years = learn(make_study("2020-0001", text), Source("table", "."))
    assert not years.knows(make_study("2020-0002", text), Source("table", "."))


def test_a_picture_is_recognized_in_other_bytes(tmp_path: Path) -> None:
    """Another id, text, file type and size, in any data set; flat images do not count."""
    noise = np.random.default_rng(3).integers(0, 255, (8, 8), dtype=np.uint8)
    whole = Image.fromarray(noise).resize((256, 256), Image.Resampling.BICUBIC)
    files = [tmp_path / name for name in ("a.png", "b.jpg", "c.png")]
    whole.save(files[0])
    whole.resize((180, 180)).save(files[1], quality=80)
    whole.transpose(Image.Transpose.ROTATE_90).save(files[2])
    record = learn(make_study("a1", image=files[0]), Source("table", "x.csv"))
    other = Source("pairs", "y.json")
    studies = [make_study(f"b{number}", "Other.", file) for number, file in enumerate(files[1:])]
    assert record.find_pictures(studies, other) == {"b0"}
    assert record.find_pictures(studies, Source("table", "x.csv")) == {"b0"}  # a copy in another split
    assert split_known({"test": studies}, "test", other, record) == ([studies[1]], 1, 0)
    Image.new("L", (64, 64), 128).save(tmp_path / "flat.png")
    assert hash_pictures([tmp_path / "flat.png", tmp_path / "none.png"]) == frozenset()


def test_a_split_that_the_weights_were_chosen_on_is_named(
    trained: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores on the validation split say so; those on the test split do not."""
    settings = trained("run")
    train(settings)
    for split in ("val", "test"):
        out = tmp_path / split
        evaluate(monkeypatch, Path(settings.run.out), "--split", split, "--out", out)
        notes = " ".join(json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["notes"])
        assert ("weights were chosen on" in notes) == (split == "val")


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., Settings]:
    """Trains a small system 1 for one epoch on drawn splits."""

    def run(name: str, **changed: Any) -> Settings:
        data = tmp_path / "data"
        path = data if data.exists() else write_data(data, "none")
        dataset = {"path": str(path), "sections": ["report"], "images": "each", "val_fraction": 0.2, "split_seed": 5}
        return small_run(
            "mobilenet_graph",
            tmp_path / name,
            dataset=dataset | changed.pop("dataset", {}) | {"test_fraction": 0.2},
            optimization={"epochs": 1} | changed.pop("optimization", {}),
            **changed,
        )

    return run


def evaluate(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> None:
    """The command line, with few bootstrap draws."""
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, words), "--draws", "20", "--min-count", "1"])
    command.main()


def test_a_resumed_run_keeps_what_it_learned_from(
    trained: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run that is stopped and resumed writes the studies of a whole one, and refuses data that changed in between.

    The model folder alone names the data set, its splits and images for evaluation; another seed is refused.
    """
    settings = trained("run")
    assert not train(replace(settings, run=replace(settings.run, stop_after=1)))
    assert train(replace(settings, run=replace(settings.run, resume=True)))
    folder = Path(settings.run.out)
    record = read_trained_on(folder)
    assert record is not None
    assert record.studies == marks(settings.dataset)
    out = tmp_path / "out"
    evaluate(monkeypatch, folder, "--split", "val", "--out", out)
    result = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert result["val"] == result["studies"]
    for words, message in (
        (("--seed", "6"), "split_seed is 6, the model was trained with 5"),
        (("--split", "train"), "was trained on"),
    ):
        with pytest.raises(SystemExit, match=message):
            evaluate(monkeypatch, folder, *words, "--out", out)
    rows = json.loads((Path(settings.dataset.path) / "pairs.json").read_text(encoding="utf-8"))
    rows[0]["report"] = "Another text."
    random.Random(0).shuffle(rows)
    (Path(settings.dataset.path) / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(Exception, match=r"has other studies, texts or splits"):
        train(replace(settings, run=replace(settings.run, resume=True)))
    capsys.readouterr()


def test_a_model_remembers_what_it_began_with(trained: Callable[..., Settings]) -> None:
    """A second training with other splits adds to the studies of the first: neither can be scored."""
    first = trained("first")
    train(first)
    second = trained("second", dataset={"split_seed": 9}, model={}, start={"weights": first.run.out})
    train(replace(second, model={}))
    one, both = read_trained_on(Path(first.run.out)), read_trained_on(Path(second.run.out))
    assert one is not None
    assert both is not None
    assert one.studies < both.studies
    known = {study.patient_id for study in load_studies(second.dataset) if both.knows(study, second.dataset)}
    try:
        left = read_data(second.dataset, "val", trained_on=both).studies
    except DatasetError as error:
        assert "was trained on" in str(error)  # noqa: PT017 - nothing is left
    else:
        assert not known & {study.patient_id for study in left}


def make_arguments(**given: Any) -> argparse.Namespace:
    """A command line of `training.evaluate` without what is not given."""
    names = ("data", "format", "config", "images", "sections", "views", "seed", "frame")
    return argparse.Namespace(**{**dict.fromkeys(names), **given})


def write_config(config: Path, **dataset: Any) -> Path:
    """A configuration with this section `dataset`."""
    config.write_text(yaml.safe_dump({"dataset": dataset}), encoding="utf-8")
    return config


def test_a_configuration_does_not_change_the_splits_of_the_training(tmp_path: Path) -> None:
    """`--config` of the trained data set keeps the splits of the model; that of another one counts as it is."""
    data = write_data(tmp_path / "data", "none")
    trained_with = {"format": "pairs", "path": str(data), "split_seed": 5, "val_fraction": 0.3}
    record = TrainedOn(asdict(make_dataset_settings(trained_with)), frozenset())
    drawn = {"split_seed": 6, "val_fraction": 0.4, "splits": "drawn", "sections": ["findings"]}
    same = write_config(tmp_path / "same.yaml", format="pairs", path=str(data), **drawn)
    source = make_source(make_arguments(config=same), record)
    assert (source.split_seed, source.val_fraction, source.splits) == (5, 0.3, "fixed")
    assert source.sections == ("findings",)
    other = write_config(tmp_path / "other.yaml", format="pairs", path=str(tmp_path / "elsewhere"), **drawn)
    source = make_source(make_arguments(config=other), record)
    assert (source.split_seed, source.val_fraction, source.splits) == (6, 0.4, "drawn")


def test_images_of_another_data_set_are_not_sought_among_those_of_the_training(tmp_path: Path) -> None:
    """The folder of the training's images counts for its own data only."""
    data, other = write_data(tmp_path / "data", "none"), write_data(tmp_path / "other", "none")
    record = TrainedOn({"format": "pairs", "path": str(data), "image_folder": str(tmp_path / "images")}, frozenset())

    assert make_source(make_arguments(), record).image_folder == str(tmp_path / "images")
    assert make_source(make_arguments(data=data), record).image_folder == str(tmp_path / "images")
    assert make_source(make_arguments(data=other), record).image_folder == ""
    assert make_source(make_arguments(data=other, images=tmp_path / "b"), record).image_folder == str(tmp_path / "b")


@pytest.mark.parametrize("spelling", ["dot", "up", "link", "relative", "linked file"])
def test_the_data_of_a_training_are_known_however_their_path_is_written(
    tmp_path: Path, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration with another spelling of the path is one of the same data set, whose splits are fixed."""
    data = write_data(tmp_path / "data", "none", count=2)
    (tmp_path / "link").symlink_to(data)
    (data / "other.json").hardlink_to(data / "pairs.json")  # as on a disk that does not tell A from a
    monkeypatch.chdir(tmp_path)
    path, other = {
        "dot": (data, f"{tmp_path}/./data"),
        "up": (data, f"{tmp_path}/link/../data"),
        "link": (data, tmp_path / "link"),
        "relative": ("data", data),
        "linked file": (data / "pairs.json", data / "other.json"),
    }[spelling]
    record = TrainedOn({"format": "pairs", "path": str(path)}, frozenset())
    assert record.is_of(Source("pairs", str(other)))
    assert not record.is_of(Source("table", str(other)))
    assert not record.is_of(Source("pairs", str(tmp_path)))
    assert not record.is_of(Source("pairs", str(tmp_path / "none")))


def test_a_damaged_record_names_the_file(tmp_path: Path) -> None:
    """An imported model has none; half of one is not taken for none."""
    assert read_trained_on(tmp_path) is None
    (tmp_path / TRAINED_ON).write_text("{", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"trained_on.json cannot be read"):
        read_trained_on(tmp_path)
    (tmp_path / TRAINED_ON).write_text('{"dataset": {}, "studies": ["0123456789ab"]}', encoding="utf-8")
    with pytest.raises(DatasetError, match=r"trained_on.json cannot be read"):
        read_trained_on(tmp_path)
