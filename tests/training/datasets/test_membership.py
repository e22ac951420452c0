"""Patients and splits that a data set names are read in every format that can hold them, and are never ignored."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.tiny_model import png
from training.datasets import read_studies

Write = Callable[[Path, dict[str, str]], Path]


def as_json(name: str, make: Callable[[dict[str, str]], Any]) -> Write:
    """Writes a JSON file that has the keys in each of two entries."""

    def write(folder: Path, own: dict[str, str]) -> Path:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(make(own)), encoding="utf-8")
        return folder

    return write


def as_csv(name: str, row: dict[str, str], delimiter: str = ",") -> Write:
    """Writes a table whose last columns are the keys."""

    def write(folder: Path, own: dict[str, str]) -> Path:
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=delimiter).writerows([[*row, *own], [*row.values(), *own.values()]])
        return folder

    return write


def write_caption_folder(folder: Path, own: dict[str, str]) -> Path:
    """One sample."""
    (folder / "1").mkdir()
    (folder / "1" / "a.png").write_bytes(png(1))
    (folder / "1" / "caption.json").write_text(json.dumps({"caption": "Clear.", **own}), encoding="utf-8")
    return folder


def write_radimagenet(folder: Path, own: dict[str, str]) -> Path:
    """One row whose metadata has the keys."""
    turns = [{"from": "human", "value": "Is it clear?"}, {"from": "gpt", "value": "Yes."}]
    rows = [{"image": {"bytes": png(1), "path": "a.png"}, "conversations": turns, "metadata": own}]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    return folder


QUESTION = {"qid": "1", "image_name": "a.jpg", "image_case_url": "", "question": "Clear?", "answer": "Yes"}
FORMATS: dict[str, Write] = {
    "caption_folders": write_caption_folder,
    "coco": as_json(
        "annotations.json",
        lambda own: {
            "images": [{"id": 1, "file_name": "a.png", **own}],
            "annotations": [{"image_id": 1, "caption": "Clear."}],
        },
    ),
    "feature_json": as_json("1.json", lambda own: {"embedding": [0.5], "report": "Clear.", **own}),
    "medgen": as_csv(
        "final_dataset_latest.csv",
        {"image_path": "a.png", "diagnostic_prompt": "Describe.", "target_report": "Clear."},
    ),
    "medicalgpt": as_json(
        "filter_cap.json", lambda own: [{"image": "a.png", "caption": "Clear.", "prompt": "Report.", **own}]
    ),
    "pairs": as_json("pairs.json", lambda own: [{"file": "a.png", "report": "Clear.", **own}]),
    "r2gen": as_json(
        "annotation.json", lambda own: {"train": [{"id": 1, "image_path": [], "report": "Clear.", **own}]}
    ),
    "radimagenet_vqa": write_radimagenet,
    "rexgradient": as_json(
        "train_metadata.json",
        lambda own: {
            "a": {"ImagePath": ["a.png"], **dict.fromkeys(("Indication", "Comparison", "Findings"))}
            | {"Impression": "Clear.", **own}
        },
    ),
    "rexrank": as_json("r.json", lambda own: {"a": {"image_path": ["a.png"], "report": "Clear.", **own}}),
    "roco": as_csv("test_captions.csv", {"ID": "ROCOv2_1", "Caption": "Clear."}),
    "vqa_rad": as_json("qa_chest.json", lambda own: [{**QUESTION, **own}]),
    "xraygpt": as_json("filter_cap.json", lambda own: {"annotations": [{"image_id": "7", "caption": "Clear.", **own}]}),
    "xreport": as_csv("XREPORT_dataset.csv", {"id": "1", "text": "Clear."}, ";"),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("patient", "split"), [("patient_id", "split"), ("Subject ID", "Split")])
def test_patient_and_split_are_read_however_they_are_written(
    tmp_path: Path, form: str, patient: str, split: str
) -> None:
    """They decide where a study goes; its labels do not have them."""
    path = FORMATS[form](tmp_path, {patient: "p7", split: "validation", "site": "A"})
    path = path / "r.json" if form == "rexrank" else path
    [study] = read_studies(form, path, tmp_path / "written" if form == "radimagenet_vqa" else None)
    assert (study.patient_id, study.split) == ("p7", "val")
    assert not {patient, split} & study.labels.keys() or form == "radimagenet_vqa"


@pytest.mark.parametrize(("own", "patient"), [({"split": "test"}, "1"), ({"split": "test", "patient_id": "p7"}, "p7")])
def test_a_split_is_read_from_the_reports_of_indiana(tmp_path: Path, own: dict[str, str], patient: str) -> None:
    """The patient is the report, unless a column names another."""
    (tmp_path / "indiana_projections.csv").write_text("uid,filename,projection\n1,a.png,Frontal\n", encoding="utf-8")
    row = {"uid": "1", "MeSH": "normal", "Problems": "normal", "indication": "", "comparison": ""}
    write = as_csv("indiana_reports.csv", {**row, "findings": "Clear.", "impression": ""})
    [study] = read_studies("indiana_csv", write(tmp_path, own))
    assert (study.patient_id, study.split) == (patient, "test")
