"""Tables as spreadsheets and data frames write them: the same studies, or an error that says what was lost."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from openpyxl import Workbook
from pyarrow import parquet

from training.datasets import read_studies
from training.datasets.delimited import find_delimiter, read_rows
from training.datasets.source import Source, read_source
from training.datasets.study import DatasetError, Study
from training.evaluation.predictions import read_predictions, sort_predictions


def read_table(path: Path, text: str, encoding: str = "utf-8") -> list[Study]:
    """The studies of a table with this text."""
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return read_studies("table", path)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("first", ["sep=;\r\n", '"sep=;"\n', "SEP=;\n", "sep=;;;\r\n", ""])
def test_a_first_line_for_excel_is_no_header(tmp_path: Path, name: str, encoding: str, first: str) -> None:
    """With and without a byte order mark; commas and line ends in a text do not end it; lines are counted from 1."""
    header = "id;image;report\r\n"
    text = '1;a.png;"Clear, dry;\r\nno effusion."\r\n2;b.png;Edema.\r\n'
    one, two = read_table(tmp_path / name, first + header + text, encoding)
    assert one.sections == {"report": "Clear, dry;\r\nno effusion."}
    assert two.place.endswith(f"line {4 + bool(first)}")
    with pytest.raises(DatasetError, match=rf"line {2 + bool(first)} has 2 fields for 3 columns"):
        read_table(tmp_path / name, f"{first}{header}1;a.png\n", encoding)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_header_tells_what_separates(tmp_path: Path, separator: str) -> None:
    """Whatever other signs its quoted names have; a declared separator is that of every format."""
    header = separator.join(["id", "image", "report", '"side (left, right; both|none)"'])
    [study] = read_table(tmp_path / "t.csv", f"{header}\n{separator.join(['7', 'a.png', 'Clear.', 'left'])}\n")
    assert (study.study_id, study.sections) == ("7", {"report": "Clear."})
    (tmp_path / "said.csv").write_text(f"sep={separator}\nid{separator}text\n7{separator}Clear.\n", encoding="utf-8")
    assert find_delimiter(tmp_path / "said.csv") == separator
    assert [row for _, row in read_rows(tmp_path / "said.csv", ("id", "text"))] == [{"id": "7", "text": "Clear."}]
    assert read_predictions(tmp_path / "said.csv") == {"7": "Clear."}


def test_cleared_cells_are_passed_over(tmp_path: Path) -> None:
    """Columns without a name at the end, and blank rows, which a spreadsheet writes where cells were cleared."""
    [study] = read_table(tmp_path / "t.csv", "id,image,report,,\n1,a.png,Clear.,,\n,,,,\n ,,,,\n")
    assert (study.study_id, study.labels) == ("1", {})


@pytest.mark.parametrize(("first", "second"), [("Report", "report "), ("report", "REPORT"), ("Image", "image")])
def test_two_columns_of_one_name_but_for_the_case_are_refused(tmp_path: Path, first: str, second: str) -> None:
    """Unless `dataset.columns` names one of them."""
    other = "report" if first == "Image" else "image"
    text = f"id,{first},{second},{other}\n1,a,b,c\n"
    with pytest.raises(DatasetError, match=rf"has the columns '{first}' and '{second}'; name one with dataset.columns"):
        read_table(tmp_path / "t.csv", text)
    [study] = read_studies("table", tmp_path / "t.csv", columns={first.lower(): second})
    assert "b" in (study.images[0].name, study.sections.get("report"))


@pytest.mark.parametrize(
    ("written", "read"), [("12.0", "12"), ("0.0", "0"), ("01.0", "01.0"), ("007", "007"), ("1.1", "1.1")]
)
def test_an_id_keeps_its_zeros(tmp_path: Path, written: str, read: str) -> None:
    """A column of numbers is written with points and without zeros before them: `01.0` is a name."""
    [study] = read_table(tmp_path / "t.csv", f"id,image,report,patient\n{written},a.png,Clear.,{written}\n")
    assert (study.study_id, study.patient_id) == (read, read)


@pytest.mark.parametrize("value", ["1.23457E+12", "1,23457E+12", "2.02311e+17", "5E+07"])
@pytest.mark.parametrize("column", ["id", "patient"])
def test_an_id_that_lost_its_digits_is_refused(tmp_path: Path, value: str, column: str) -> None:
    """A spreadsheet shows and saves long numbers so; several of them are then one."""
    row = {"id": "1", "patient": "p1", column: f'"{value}"'}
    with pytest.raises(DatasetError, match=r"line 2: the id '.*' has lost its last digits in a spreadsheet"):
        read_table(tmp_path / "t.csv", f"id,image,report,patient\n{row['id']},a.png,Clear.,{row['patient']}\n")


def test_numbers_of_excel_keep_the_zeros_that_are_shown(tmp_path: Path) -> None:
    """Of a cell in the format 0000 the file has the number alone."""
    book = Workbook()
    for row in (["id", "image", "report"], [7, "a.png", "Clear."], [8, "b.png", "Edema."]):
        book.active.append(row)
    book.active["A2"].number_format = "0000"
    book.save(tmp_path / "t.xlsx")
    assert [study.study_id for study in read_studies("table", tmp_path / "t.xlsx")] == ["0007", "8"]


def test_predictions_with_numbers_as_ids_are_found(tmp_path: Path) -> None:
    """A data frame writes the id 12 as 12.0 where one is missing; an id 12.0 of its own stays another."""
    studies = [Study(name, (), {"report": "x"}, None, (), "", None, {}) for name in ("12", "13")]
    assert sort_predictions({"12.0": "a", "13.0": "b"}, studies, tmp_path) == ["a", "b"]
    both = [studies[0], Study("12.0", (), {"report": "x"}, None, (), "", None, {})]
    assert sort_predictions({"12": "a", "12.0": "b"}, both, tmp_path) == ["a", "b"]


@pytest.mark.parametrize("other", ["01", "1.0", "01.0", "1,0", " 1", "001"])
def test_predictions_whose_ids_a_spreadsheet_changed_are_refused(tmp_path: Path, other: str) -> None:
    """One of two such ids is not taken for the other; that of a number without its zeros is named."""
    studies = [Study("1", (), {"report": "x"}, None, (), "", None, {})]
    with pytest.raises(DatasetError, match=rf"has the ids '1' and '{other}', of which a spreadsheet may have made"):
        sort_predictions({"1": "a", other: "b"}, studies, tmp_path)
    padded = [Study("007", (), {"report": "x"}, None, (), "", None, {})]
    with pytest.raises(DatasetError, match=r"its own ids are like '7' \(a spreadsheet drops zeros"):
        sort_predictions({"8": "a", "7": "b"}, padded, tmp_path)


def test_images_of_parquet_go_into_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    """`dataset.image_folder` names it; with another kind of table it has to exist."""
    parquet.write_table(pa.Table.from_pylist([{"id": 1, "image": b"\x89PNG", "report": "x"}]), tmp_path / "t.parquet")
    [study] = read_studies("table", tmp_path / "t.parquet", tmp_path / "new" / "folder")
    assert study.images[0].read_bytes() == b"\x89PNG"
    assert study.images[0].parent == tmp_path / "new" / "folder"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_unicode_text_of_excel_is_a_table(tmp_path: Path, encoding: str) -> None:
    """UTF-16 with tabs in a .txt file; in a folder a .txt file is a note."""
    text = 'id\timage\treport\r\n007\ta.png\t"Größe normal; ""klar"", no\teffusion."\r\n'
    [study] = read_table(tmp_path / "t.txt", text, encoding)
    assert (study.study_id, study.sections) == ("007", {"report": 'Größe normal; "klar", no\teffusion.'})
    with pytest.raises(DatasetError, match="is a folder without a table"):
        read_studies("table", tmp_path)


@pytest.mark.parametrize("sign", [";", "; ", "|", " | ", "\n", ", "])
def test_several_images_in_a_cell_are_images_of_one_study(tmp_path: Path, sign: str) -> None:
    """With a view each; a name with such a sign alone stays a name."""
    row = {"id": "s", "image": f"a.png{sign}b/c.JPG", "view": f"PA{sign}LATERAL", "report": "Clear."}
    (tmp_path / "t.jsonl").write_text(json.dumps(row), encoding="utf-8")
    [study] = read_studies("table", tmp_path / "t.jsonl")
    assert [image.relative_to(tmp_path).as_posix() for image in study.images] == ["a.png", "b/c.JPG"]
    assert study.views == ("PA", "LATERAL")
    (tmp_path / "t.jsonl").write_text(json.dumps({**row, "image": f"scan{sign.strip() or '_'}2.png"}), encoding="utf-8")
    [study] = read_studies("table", tmp_path / "t.jsonl")
    assert len(study.images) == 1


def write_coco(path: Path, images: list[dict[str, Any]], captions: list[tuple[Any, str]]) -> None:
    """A file of captions with all that COCO has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    notes = [{"image_id": image, "id": 100 + i, "caption": text} for i, (image, text) in enumerate(captions)]
    records = [{"license": 3, "height": 40, "width": 40, "date_captured": "2013-11-14", **image} for image in images]
    contents = {"info": {"year": 2017}, "licenses": [{"id": 3}], "images": records, "annotations": notes}
    path.write_text(json.dumps(contents), encoding="utf-8")


def test_coco_captions_are_references_of_their_image(tmp_path: Path) -> None:
    """In the folders of MS COCO, whose file names say the split."""
    for split, number in (("train", 9), ("val", 12)):
        name = f"{number:012d}.jpg"
        file = tmp_path / "annotations" / f"captions_{split}2017.json"
        write_coco(file, [{"id": number, "file_name": name}], [(number, "Clear lungs."), (number, "No disease.")])
        (tmp_path / f"{split}2017").mkdir()
        (tmp_path / f"{split}2017" / name).write_bytes(b"x")
    first, second = read_studies("coco", tmp_path)
    assert (first.study_id, first.split, second.split) == ("000000000009", "train", "val")
    assert (first.sections, first.further) == ({"report": "Clear lungs."}, ({"report": "No disease."},))
    assert first.images[0].is_file()
    assert second.images[0].is_file()
    assert (first.patient_id, first.labels["width"]) == (None, "40")


def test_coco_in_one_file_or_as_roboflow_writes_it(tmp_path: Path) -> None:
    """Ids may be texts, images name their patients; what belongs to no image, or has no caption, is an error."""
    images = [{"id": "a", "file_name": "sub/a.png", "patient_id": 5}, {"id": "b", "file_name": "b.png"}]
    write_coco(tmp_path / "annotations.json", images, [("a", "Clear.")])
    first, second = read_studies("coco", tmp_path)
    assert (first.study_id, first.patient_id, first.sections) == ("sub/a", "5", {"report": "Clear."})
    assert second.sections == {}
    with pytest.raises(DatasetError, match="give the format coco"):
        read_studies("xraygpt", tmp_path / "annotations.json")
    write_coco(tmp_path / "annotations.json", images, [("c", "Clear.")])
    with pytest.raises(DatasetError, match="captions of the image 'c', which is not among its images"):
        read_studies("coco", tmp_path)
    (tmp_path / "annotations.json").unlink()
    write_coco(tmp_path / "valid" / "_annotations.coco.json", images[1:], [("b", "Edema.")])
    [study] = read_studies("coco", tmp_path)
    assert (study.split, study.images[0].parent.name) == ("val", "valid")


@pytest.mark.parametrize("column", ["id", "image", "patient", "Subject ID"])
@pytest.mark.parametrize("number", [1234567890123456781, 1e15])
def test_long_numbers_of_excel_are_refused_as_ids(tmp_path: Path, column: str, number: float) -> None:
    """The file has only 15 digits of them: two ids become one. Text keeps its digits, other columns may have them."""
    rows = [{"id": str(i), "image": f"{i}.png", "report": "Clear.", column: number + i} for i in (1, 8)]
    write_excel(tmp_path / "t.xlsx", rows)
    with pytest.raises(DatasetError, match=rf"row 2: the id .* has lost its last digits .* column '{column}' as text"):
        read_studies("table", tmp_path / "t.xlsx")
    write_excel(tmp_path / "t.xlsx", [{**row, column: str(row[column]), "other": number} for row in rows])
    assert len(read_studies("table", tmp_path / "t.xlsx")) == 2
    with pytest.raises(DatasetError, match=r"row 2: the patient .* format the column 'other' as text"):
        read_source(Source("table", str(tmp_path / "t.xlsx"), patient_column="other"))
    write_excel(tmp_path / "t.xlsx", [{**row, column: 10**14 + i} for i, row in enumerate(rows)])
    assert len(read_studies("table", tmp_path / "t.xlsx")) == 2


def write_excel(path: Path, rows: list[dict[str, Any]]) -> None:
    """A file with these rows."""
    book = Workbook()
    for row in (list(rows[0]), *(list(row.values()) for row in rows)):
        book.active.append(row)
    book.save(path)


def test_coco_refuses_two_images_of_one_id(tmp_path: Path) -> None:
    """The captions of the second would be lost."""
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}, {"id": 1, "file_name": "c.png"}]
    write_coco(tmp_path / "annotations.json", images, [(1, "Clear."), (2, "Edema.")])
    with pytest.raises(DatasetError, match=r"entry 2: the image id 1 is there a second time, first in .*entry 0"):
        read_studies("coco", tmp_path)
