"""Tables in parts, as Hugging Face publishes them, and questions in tables."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.tiny_model import png
from training.datasets.source import Source, load_studies, read_source
from training.datasets.study import DatasetError


def shard(folder: Path, name: str, numbers: range, **further: Any) -> None:
    """A part of a table in parquet, with the bytes of its images."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"image": {"bytes": png(i), "path": f"{i}.png"}, "report": f"Finding {i}.", **further} for i in numbers]
    parquet.write_table(pa.Table.from_pylist(rows), folder / name)


def test_shards_of_several_splits_are_one_data_set(tmp_path: Path) -> None:
    """Splits are those of the names; images are written next to the shards, or into the folder that is given."""
    data = tmp_path / "data"
    shard(data, "train-00000-of-00002.parquet", range(3))
    shard(data, "train-00001-of-00002.parquet", range(3, 5))
    shard(data, "validation-00000-of-00001.parquet", range(5, 7))
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "old.parquet").write_bytes(b"damaged")
    studies = read_source(Source("table", str(tmp_path)))
    assert [study.split for study in studies] == ["train"] * 5 + ["val"] * 2
    assert [study.sections["report"] for study in studies] == [f"Finding {i}." for i in range(7)]
    assert all(study.images[0].read_bytes() == png(i) for i, study in enumerate(studies))
    written = read_source(Source("table", str(data), image_folder=str(tmp_path / "images")))
    assert all(study.images[0].parent == tmp_path / "images" for study in written)
    [alone] = {study.split for study in read_source(Source("table", str(data / "train-00000-of-00002.parquet")))}
    assert alone is None


def test_shards_of_no_split_are_drawn(tmp_path: Path) -> None:
    """Parts of one table."""
    for part in range(2):
        shard(tmp_path, f"data-0000{part}-of-00002.parquet", range(part * 2, part * 2 + 2))
    assert [study.split for study in read_source(Source("table", str(tmp_path)))] == [None] * 4


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    """Half a data set is not trained on in silence."""
    shard(tmp_path, "train-00001-of-00002.parquet", range(2))
    with pytest.raises(DatasetError, match=r"1 of 2 parts of train; missing: train-00000-of-00002"):
        read_source(Source("table", str(tmp_path)))


def test_an_image_in_two_splits_is_shown(tmp_path: Path) -> None:
    """The same picture in the shards of training and test is a leak."""
    shard(tmp_path, "train-00000-of-00001.parquet", range(3))
    shard(tmp_path, "test-00000-of-00001.parquet", range(2, 4))
    assert len(read_source(Source("table", str(tmp_path)))) == 5
    with pytest.raises(DatasetError, match="1 patients are in more than one split"):
        load_studies(Source("table", str(tmp_path)))


def test_tables_in_the_folders_of_their_images(tmp_path: Path) -> None:
    """Both folders have a 0.png, each row the one next to it."""
    for number, split in enumerate(("train", "test")):
        folder = tmp_path / split
        folder.mkdir()
        (folder / "0.png").write_bytes(png(number))
        row = {"file_name": "0.png", "text": f"Finding {number}."}
        (folder / "metadata.jsonl").write_text(json.dumps(row), encoding="utf-8")
    studies = read_source(
        Source("table", str(tmp_path), columns={"image": "file_name", "report": "text"}, sections=("report",))
    )
    assert {study.split: study.images[0].read_bytes() for study in studies} == {"train": png(0), "test": png(1)}


@pytest.mark.parametrize("names", [("a.csv", "b.csv"), ("train.csv", "test.jsonl"), ("train.csv", "labels.csv")])
def test_tables_that_are_not_parts_of_one_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    """Which one is meant is not guessed."""
    for name in names:
        (tmp_path / name).write_text("image,report\na.png,Clear.\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="has several tables"):
        read_source(Source("table", str(tmp_path)))


QUESTIONS = [
    {"image": "a.png", "question": "Is it clear?", "answer": "yes"},
    {"image": "a.png", "question": "Which side?", "answer": "None"},
]


@pytest.mark.parametrize("form", ["table", "pairs"])
def test_columns_of_questions_and_answers(tmp_path: Path, form: str) -> None:
    """Two questions are two studies of one image, not two references; "None" is an answer."""
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)), encoding="utf-8")
    rows = [{"file": row["image"], **row} for row in QUESTIONS]
    (tmp_path / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    path = tmp_path / ("t.jsonl" if form == "table" else "pairs.json")
    studies = read_source(Source(form, str(path), image_folder=str(tmp_path)))
    assert [(s.labels["prompt"], s.sections["report"], s.further) for s in studies] == [
        ("Is it clear?", "yes", ()),
        ("Which side?", "None", ()),
    ]
    assert {study.unit for study in studies} == {"a.png"}


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (r"FINDINGS:\nClear lungs.\n\nIMPRESSION:\nNormal.", "Clear lungs. Normal."),
        (r"Findings: Clear.\r\nImpression: Normal.", "Clear. Normal."),
        (r"Findings: Clear.\\nImpression: Normal.", "Clear. Normal."),
        ("Findings: Clear._x000D_\nImpression: Normal._x000D_", "Clear. Normal."),
        (r"Findings:\tClear.", "Clear."),
        (r"Findings: attenuation \nu of 2.", r"attenuation \nu of 2."),
    ],
)
def test_escaped_line_ends_are_line_ends(tmp_path: Path, written: str, text: str) -> None:
    """Of programs that wrote a text as a literal, and of Excel."""
    (tmp_path / "t.jsonl").write_text(json.dumps({"image": "a.png", "report": written}), encoding="utf-8")
    source = Source("table", str(tmp_path / "t.jsonl"))
    [study] = read_source(source)
    assert study.text(source.sections) == text


def test_json_lists_of_questions_by_split(tmp_path: Path) -> None:
    """SLAKE's layout, with other JSON files next to it; and LLaVA's conversations, turn by turn."""
    for number, split in enumerate(("train", "validate", "test")):
        row = {
            "img_name": f"x{number}/source.jpg",
            "question": "Is it clear?",
            "answer": "Yes",
            "answer_type": "CLOSED",
        }
        (tmp_path / f"{split}.json").write_text(json.dumps([row]), encoding="utf-8")
    (tmp_path / "mask.json").write_text('{"lung": 1}', encoding="utf-8")
    studies = read_source(Source("table", str(tmp_path), columns={"image": "img_name"}))
    assert {study.split: study.sections["report"] for study in studies} == dict.fromkeys(
        ("train", "val", "test"), "Yes"
    )
    turns = [("human", "<image>\nDescribe it."), ("gpt", "Clear lungs."), ("human", "Is it normal?"), ("gpt", "Yes.")]
    conversation = [{"from": who, "value": text} for who, text in turns]
    rows = [{"id": "7", "image": "a.png", "conversations": conversation}]
    (tmp_path / "llava.json").write_text(json.dumps(rows), encoding="utf-8")
    first, second = read_source(Source("table", str(tmp_path / "llava.json")))
    assert (first.study_id, first.labels["prompt"], first.sections["report"]) == ("7#1", "Describe it.", "Clear lungs.")
    assert (second.study_id, second.labels["prompt"], second.sections["report"]) == ("7#2", "Is it normal?", "Yes.")


def test_images_in_numbered_folders_and_by_names_of_windows(tmp_path: Path) -> None:
    """NIH's archives unpack to images_001/images; a study's own folder is not one of them."""
    for number, folder in enumerate(("images_001/images", "images_002/images", "12", "files")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{number}.png").write_bytes(png(number))
    names = ["0.png", "1.png", "2.png", "files\\3.png", "files/0.png"]
    rows = [json.dumps({"image": name, "report": "Clear."}) for name in names]
    (tmp_path / "t.jsonl").write_text("\n".join(rows), encoding="utf-8")
    found = [study.images[0].is_file() for study in read_source(Source("table", str(tmp_path / "t.jsonl")))]
    assert found == [True, True, False, True, False]


def test_images_of_one_name_in_two_splits_of_coco(tmp_path: Path) -> None:
    """Roboflow counts the images of each split from 1; other names stay what they are."""
    for number, split in enumerate(("train", "valid")):
        (tmp_path / split).mkdir()
        names = ("0001.png", f"{split}.png")
        contents = {
            "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
            "annotations": [{"image_id": i, "caption": f"Finding {number}{i}."} for i in range(2)],
        }
        (tmp_path / split / "0001.png").write_bytes(png(number))
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(contents), encoding="utf-8")
    studies = {study.study_id: study for study in read_source(Source("coco", str(tmp_path)))}
    assert list(studies) == ["train/0001", "train", "val/0001", "valid"]
    assert studies["val/0001"].images[0].read_bytes() == png(1)
    assert studies["val/0001"].sections["report"] == "Finding 10."
