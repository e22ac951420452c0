import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bulk.errors import JobError
from bulk.storage import Location
from bulk.studies import BulkStudy, StudyList, check_unique


def source(path: Path, **options: str) -> StudyList:
    """A source on this machine."""
    return StudyList(Location.of(str(path)), **options)


def test_every_file_below_a_folder_is_a_study(pictures: Path) -> None:
    """Ids are paths below the folder; the order is that of the names."""
    studies = list(source(pictures).read())

    assert [study.study_id for study in studies] == [*(f"{n // 10}/{n:02d}.png" for n in range(70)), "9/broken.png"]
    assert studies[0].images == (f"{pictures}/0/00.png",)


def test_hidden_files_are_no_studies(tmp_path: Path) -> None:
    """Neither are files in hidden folders."""
    for name in (".DS_Store", ".cache/a.png", "b/.c.png", "b/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    assert [study.study_id for study in source(tmp_path).read()] == ["b/d.png"]


def test_name_that_is_not_utf_8_is_a_study_without_an_image(tmp_path: Path) -> None:
    """Parquet cannot hold it; the others of the folder get their reports. Hidden ones are left out, as others are."""
    for name in (b"a\xff.png", b".\xff", b"b.png"):
        (tmp_path / os.fsdecode(name)).touch()

    assert list(source(tmp_path).read()) == [
        BulkStudy("a\\xff.png", ()),
        BulkStudy("b.png", (f"{tmp_path}/b.png",)),
    ]


def test_columns_of_a_table_without_rows_are_checked(tmp_path: Path) -> None:
    """One that has them is an empty job; another is a mistake, as it is with rows. Unused columns may be doubled."""
    pq.write_table(pa.table({"n": pa.array([], pa.int64())}), tmp_path / "s.parquet")
    with pytest.raises(JobError, match="has no column study_id"):
        list(source(tmp_path / "s.parquet").read())
    (tmp_path / "s.csv").write_text("id,image,x,x\n", encoding="utf-8")
    assert list(source(tmp_path / "s.csv").read()) == []


def test_damaged_table_is_said(tmp_path: Path) -> None:
    """Whatever Arrow raises for it."""
    pq.write_table(pa.table({"id": ["a" * 50] * 40, "image": ["b"] * 40}), tmp_path / "s.parquet")
    contents = (tmp_path / "s.parquet").read_bytes()
    for at in range(4, len(contents) - 8, 40):
        (tmp_path / "s.parquet").write_bytes(contents[:at] + bytes(40) + contents[at + 40 :])
        with pytest.raises(JobError, match=r"s\.parquet") as error:
            check_unique(source(tmp_path / "s.parquet"))
        assert error.value.__cause__ is None or "cannot be read" in str(error.value)


def test_csv_keeps_ids_as_they_are_written(tmp_path: Path) -> None:
    """007 is not 7; image names are relative to the table, absolute, or URLs."""
    (tmp_path / "s.csv").write_text(
        'id,image\n007,a.png\n"x, y",/b.png\n1e3,s3://bucket/c.png\nNA,d\n', encoding="utf-8"
    )

    assert list(source(tmp_path / "s.csv").read()) == [
        BulkStudy("007", (f"{tmp_path}/a.png",)),
        BulkStudy("x, y", ("/b.png",)),
        BulkStudy("1e3", ("s3://bucket/c.png",)),
        BulkStudy("NA", (f"{tmp_path}/d",)),
    ]


def test_parquet_with_several_images(tmp_path: Path) -> None:
    """A list in a cell is a study of several images; columns can be named; numbers become ids."""
    pq.write_table(pa.table({"n": [1, 2], "views": [["a.png", "b.png"], ["c.png"]]}), tmp_path / "s.parquet")
    found = source(tmp_path / "s.parquet", id_column="n", image_column="views").read()

    assert [(study.study_id, len(study.images)) for study in found] == [("1", 2), ("2", 1)]


def test_rexrank_takes_the_key_image_first(tmp_path: Path) -> None:
    """The others follow in their order."""
    entries = {"s1": {"image_path": ["a.png", "b.png"], "key_image_path": "b.png"}, "s2": {"image_path": ["c.png"]}}
    (tmp_path / "s.json").write_text(json.dumps(entries), encoding="utf-8")
    (images := tmp_path / "images").mkdir()
    found = list(StudyList(Location.of(f"{tmp_path}/s.json"), images=Location.of(str(images))).read())

    assert found == [BulkStudy("s1", (f"{images}/b.png", f"{images}/a.png")), BulkStudy("s2", (f"{images}/c.png",))]


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("s.csv", "id,image\na,\nb,1.png\n"),
        ("s.json", '{"a": {}, "b": {"image_path": "1.png"}}'),
        ("s.json", '{"a": {"image_path": [3]}, "b": {"image_path": ["1.png"]}}'),
        ("s.json", '{"a": {"image_path": "\\ud800.png"}, "b": {"image_path": "1.png"}}'),
        ("s.csv", "id,image\na,x\0.png\nb,1.png\n"),
    ],
)
def test_study_without_an_image_is_a_study(name: str, contents: str, tmp_path: Path) -> None:
    """It gets an error of its own, and does not end the job."""
    (tmp_path / name).write_text(contents, encoding="utf-8")

    assert list(source(tmp_path / name).read()) == [BulkStudy("a", ()), BulkStudy("b", (f"{tmp_path}/1.png",))]


@pytest.mark.parametrize(
    ("name", "contents", "reason"),
    [
        ("s.csv", "id,image\na,b.png\n,c.png\n", "row 2: the id is empty"),
        (
            "s.csv",
            "name,image\na,b.png\n",
            "has no column study_id or id or uid; it has name, image: name one with --id",
        ),
        ("s.csv", "id,scan\na,b.png\n", "name one with --image-column"),
        ("s.csv", "id,image\na,b.png,c.png\n", "cannot be read"),
        ("s.csv", "", "cannot be read"),
        ("s.csv", "scan,name\n", "has no column study_id"),
        ("s.csv", "id,image,image\na,b.png,c.png\n", "has two columns 'image'; rename one.*--image-column"),
        ("s.csv", "id,id,image\na,b,c.png\n", "has two columns 'id'; rename one.*--id-column"),
        ("s.parquet", "PAR1", "cannot be read"),
        ("s.json", "[]", "not ReXrank's JSON"),
        ("s.json", "{", "not JSON"),
        ("s.json", '{"a": ' + 100_000 * "[", "not JSON: objects or lists are nested too deeply"),
        ("s.json", '{"\\ud800": {"image_path": "a.png"}}', "half of a surrogate pair"),
        ("s.json", '{"a": {"image_path": "1.png"}, "a": {"image_path": "2.png"}}', "'a' occurs twice"),
        ("s.json", '{"": {"image_path": "a.png"}}', "the id is empty"),
        ("s.xlsx", "", "expected a folder, or a .csv, .parquet or .json file"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, contents: str, reason: str, tmp_path: Path) -> None:
    """One line that names the file and the row."""
    (tmp_path / name).write_text(contents, encoding="utf-8")

    with pytest.raises(JobError, match=f"{name}.*{reason}"):
        list(source(tmp_path / name).read())


def test_ids_are_unique(tmp_path: Path) -> None:
    """A second study of the same id would be one without a report of its own."""
    (tmp_path / "s.csv").write_text("id,image\na,1.png\nb,2.png\na,3.png\n", encoding="utf-8")

    with pytest.raises(JobError, match="the id 'a' occurs twice"):
        check_unique(source(tmp_path / "s.csv"))


def test_missing_input_is_said(tmp_path: Path) -> None:
    """With what is expected: also a folder of tables, a folder without files, and no folder of the images."""
    with pytest.raises(JobError, match="does not exist; give a folder"):
        source(tmp_path / "nothing").read()
    (tmp_path / "s.parquet" / ".hidden").mkdir(parents=True)
    with pytest.raises(JobError, match=r"s\.parquet is a folder; give one of its files"):
        source(tmp_path / "s.parquet").read()
    (tmp_path / "s.parquet" / ".hidden" / "a.png").touch()
    with pytest.raises(JobError, match="has no files; give a folder with images"):
        list(source(tmp_path).read())
    (tmp_path / "s.csv").write_text("id,image\n", encoding="utf-8")
    with pytest.raises(JobError, match=r"nothing, which the names of images start at, is not a folder"):
        StudyList(Location.of(f"{tmp_path}/s.csv"), images=Location.of(f"{tmp_path}/nothing")).read()


@pytest.mark.parametrize(
    "ids", [[1.0, float("nan")], [b"a", b"b"], [datetime(2026, 1, 1, tzinfo=UTC), None]], ids=["float", "bytes", "time"]
)
def test_ids_are_text_or_whole_numbers(ids: list[Any], tmp_path: Path) -> None:
    """What pandas makes of a column in which one is missing is not an id: 1.0 was 1, and NaN nothing."""
    pq.write_table(pa.table({"id": ids, "image": ["a.png", "b.png"]}), tmp_path / "s.parquet")
    with pytest.raises(JobError, match=r"s\.parquet, row 1: the id is .*; write ids as text or whole numbers"):
        list(source(tmp_path / "s.parquet").read())
