"""Keys and rows of data of one's own: splits, patients and ids as people write them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training.datasets.source import Source, read_source
from training.datasets.study import DatasetError


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> Source:
    """A table in JSON lines."""
    file = folder / "t.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return Source("table", str(file))


@pytest.mark.parametrize("key", ["split", "Split", "SET", "subset", "Split Name"])
@pytest.mark.parametrize("form", ["table", "pairs"])
def test_published_splits_are_kept_whatever_their_column_is_called(tmp_path: Path, key: str, form: str) -> None:
    """They are not drawn again."""
    names = ["train", "test", "validate"]
    rows = [{"image": f"{i}.png", "file": f"{i}.png", "report": "Clear.", key: name} for i, name in enumerate(names)]
    source = write_rows(tmp_path, rows)
    if form == "pairs":
        (tmp_path / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
        source = Source("pairs", str(tmp_path))
    assert [study.split for study in read_source(source)] == ["train", "test", "val"]


def test_a_set_that_is_not_a_split_is_a_label(tmp_path: Path) -> None:
    """A column `set` may be anything."""
    [study] = read_source(write_rows(tmp_path, [{"image": "a.png", "report": "Clear.", "set": "Hospital A"}]))
    assert study.split is None
    assert study.labels["set"] == "Hospital A"


@pytest.mark.parametrize("form", ["table", "pairs"])
def test_one_id_of_two_studies_is_refused(tmp_path: Path, form: str) -> None:
    """Other images with other texts: an image would be paired with the report of another study."""
    common = [
        {"id": "s0", "uid": "s0", "image": name, "file": name, "report": text}
        for name, text in (("a.png", "Clear."), ("b.png", "Effusion."))
    ]
    source = write_rows(tmp_path, common)
    if form == "pairs":
        (tmp_path / "pairs.json").write_text(json.dumps(common), encoding="utf-8")
        source = Source("pairs", str(tmp_path))
    with pytest.raises(DatasetError, match="different images and different texts"):
        read_source(source)


def test_sections_in_rows_of_their_own_are_one_report(tmp_path: Path) -> None:
    """Findings in one row and the impression in the next are not two references; two readings of an image are."""
    common = {"id": "s0", "image": "a.png"}
    parts = [{**common, "findings": "Clear."}, {**common, "impression": "Normal."}]
    [study] = read_source(write_rows(tmp_path, parts))
    assert (study.sections, study.further) == ({"findings": "Clear.", "impression": "Normal."}, ())
    readings = [{**common, "findings": "Clear."}, {**common, "findings": "Normal."}]
    [study] = read_source(write_rows(tmp_path, readings))
    assert (study.sections, study.further) == ({"findings": "Clear."}, ({"findings": "Normal."},))


@pytest.mark.parametrize("key", ["patient_id", "subject_id", "PatientID", "Patient ID"])
def test_a_table_names_its_patients_under_the_usual_keys(tmp_path: Path, key: str) -> None:
    """And a number that a spreadsheet wrote with a point is the same patient."""
    rows = [{"image": f"{i}.png", "report": "Clear.", key: value} for i, value in enumerate(["7", "7.0", "n/a"])]
    assert [study.patient_id for study in read_source(write_rows(tmp_path, rows))] == ["7", "7", None]


def test_a_patient_column_may_say_that_the_patient_is_unknown(tmp_path: Path) -> None:
    """`n/a` is not a patient whom studies share."""
    rows = [{"image": f"{i}.png", "report": "Clear.", "who": value} for i, value in enumerate(["7", "7.0", "n/a"])]
    source = replace(write_rows(tmp_path, rows), patient_column="who")
    assert [study.patient_id for study in read_source(source)] == ["7", "7", None]


def test_lines_of_json_end_at_line_ends_only(tmp_path: Path) -> None:
    """U+2028 and U+0085 are characters of a text."""
    text = "Clear\u2028lungs.\u0085No effusion."
    [study] = read_source(write_rows(tmp_path, [{"image": "a.png", "report": text}]))
    assert study.sections["report"] == text


def test_json_that_is_nested_too_deeply_names_the_file(tmp_path: Path) -> None:
    """Not a traceback."""
    (tmp_path / "pairs.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(DatasetError, match="nested too deeply"):
        read_source(Source("pairs", str(tmp_path)))


def test_features_name_their_patient_and_split(tmp_path: Path) -> None:
    """Where their file has such keys."""
    record = {"embedding": [1.0], "report": "Clear.", "subject_id": 5, "Split": "valid"}
    (tmp_path / "a.json").write_text(json.dumps(record), encoding="utf-8")
    [study] = read_source(Source("feature_json", str(tmp_path)))
    assert (study.patient_id, study.split) == ("5", "val")


@pytest.mark.parametrize("text", ["n.a.", "TBD", "See report.", "Pending", "not available."])
def test_a_report_that_says_nothing_is_not_there(tmp_path: Path, text: str) -> None:
    """Words that say that there is no report are not one."""
    [study] = read_source(write_rows(tmp_path, [{"image": "a.png", "report": text}]))
    assert study.sections == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<b>FINDINGS:</b><br/>No effusion.<p class='x'>IMPRESSION: Normal.</p>", {"No effusion.", "Normal."}),
        ("FINDINGS:&nbsp;Heart &lt; 0.5.&#10;IMPRESSION: A &amp; B normal.", {"Heart < 0.5.", "A & B normal."}),
        ("FINDINGS: Nodule <5 mm and >3 mm.\nIMPRESSION: R&D; a < b.", {"Nodule <5 mm and >3 mm.", "R&D; a < b."}),
    ],
)
def test_html_is_not_trained(tmp_path: Path, text: str, expected: set[str]) -> None:
    """Tags and character references go; comparisons stay."""
    [study] = read_source(write_rows(tmp_path, [{"image": "a.png", "report": text}]))
    assert set(study.sections.values()) == expected


@pytest.mark.parametrize(
    ("line", "report"),
    [
        ('a.png\t"rx torax . ""normal"""', 'rx torax . "normal"'),
        ('a.png\t"first\nsecond"', "first\nsecond"),
        ('a.png\tA "large mass.', 'A "large mass.'),
        ('a.png\t"Large" mass.', '"Large" mass.'),
    ],
)
def test_quotes_in_tables_with_tabs(tmp_path: Path, line: str, report: str) -> None:
    """Pandas quotes there as well, most programs do not: a table is read as the one that it can be."""
    (tmp_path / "t.tsv").write_text(f"image\treport\n{line}\n", encoding="utf-8")
    [study] = read_source(Source("table", str(tmp_path / "t.tsv")))
    assert study.sections == {"report": report}


def test_whole_name_comes_before_the_beginning_of_another(tmp_path: Path) -> None:
    """1.png is the image of 1, and 1.3.png is not; a.7.png is that of a."""
    (tmp_path / "images").mkdir()
    for name in ("1.png", "1.3.png", "a.7.png"):
        (tmp_path / "images" / name).touch()
    (tmp_path / "XREPORT_dataset.csv").write_text("id;text\n1;Clear.\na;Clear too.\n", encoding="utf-8")
    studies = read_source(Source("xreport", str(tmp_path)))
    assert [study.images[0].name for study in studies] == ["1.png", "a.7.png"]


def write_form(folder: Path, form: str, rows: list[dict[str, Any]]) -> Source:
    """The rows as a table or as pairs, of which each needs other keys."""
    if form == "table":
        return write_rows(folder, [{"image": row.get("file"), **row} for row in rows])
    (folder / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    return Source("pairs", str(folder))


@pytest.mark.parametrize("form", ["table", "pairs"])
@pytest.mark.parametrize("key", [{}, {"id": "s0", "uid": "s0"}])
def test_every_question_about_an_image_is_a_study(tmp_path: Path, form: str, key: dict[str, str]) -> None:
    """With or without an id: the answer to one is not a further reference of another; "None" is an answer."""
    asked = {"Effusion?": "No", "Device?": "None", "Side?": "Left"}
    rows: list[dict[str, Any]] = [{**key, "file": "a.png", "prompt": q, "report": a} for q, a in asked.items()]
    rows.append({**key, "file": "a.png", "prompt": "Side?", "report": "On the left"})
    studies = read_source(replace(write_form(tmp_path, form, rows), sections=("report",)))
    assert {study.labels["prompt"]: study.sections["report"] for study in studies} == asked
    assert [len(study.further) for study in studies] == [0, 0, 1]
    assert len({study.study_id for study in studies}) == 3
    assert len({study.unit for study in studies}) == 1  # their image is in one split


@pytest.mark.parametrize("form", ["table", "pairs"])
def test_each_image_has_its_own_view(tmp_path: Path, form: str) -> None:
    """A list of views is of the list of images, and as long."""
    row = {"file": ["a.png", "b.png"], "view": ["PA", "LATERAL"], "report": "Clear."}
    [study] = read_source(write_form(tmp_path, form, [row]))
    assert study.views == ("PA", "LATERAL")
    with pytest.raises(DatasetError, match="2 images and 1 views"):
        read_source(write_form(tmp_path, form, [row | {"view": ["PA"]}]))


def test_lists_of_images_and_views_in_a_csv(tmp_path: Path) -> None:
    """Other programs write a list into a cell as text; a name with brackets is one name."""
    table = (
        "id,image,view,report\n"
        "1,\"['a.png', 'b.png']\",\"['PA', 'LATERAL']\",Clear.\n"
        '2,"[""c.png""]",PA,Edema.\n'
        "3,[d].png,PA,Mass.\n"
    )
    (tmp_path / "t.csv").write_text(table, encoding="utf-8")
    studies = read_source(Source("table", str(tmp_path / "t.csv")))
    named = [[image.name for image in study.images] for study in studies]
    assert named == [["a.png", "b.png"], ["c.png"], ["[d].png"]]
    assert [study.views for study in studies] == [("PA", "LATERAL"), ("PA",), ("PA",)]


@pytest.mark.parametrize("key", ["set", "subset", "partition"])
@pytest.mark.parametrize("form", ["table", "pairs", "rexrank"])
def test_a_split_that_is_not_known_is_refused(tmp_path: Path, key: str, form: str) -> None:
    """Drawing it again would train on what others test with: a column is the split of all rows, or of none."""
    names = ["train", "external", "tuning", "test2", "internal test", "Hold-out"]

    def read() -> list[str | None]:
        if form == "rexrank":
            entries = {str(i): {"image_path": [f"{i}.png"], "report": "Clear.", key: n} for i, n in enumerate(names)}
            (tmp_path / "r.json").write_text(json.dumps(entries), encoding="utf-8")
            return [study.split for study in read_source(Source("rexrank", str(tmp_path / "r.json")))]
        rows = [{"file": f"{i}.png", "report": "Clear.", key: name} for i, name in enumerate(names)]
        return [study.split for study in read_source(write_form(tmp_path, form, rows))]

    assert read() == ["train", "test", "val", "test", "test", "test"]
    names.append("Hospital A")
    with pytest.raises(DatasetError, match="'Hospital A', which is not a split"):
        read()


def test_an_id_that_only_some_rows_have_is_refused(tmp_path: Path) -> None:
    """Of cells that are merged in a spreadsheet only the first has the value: the second image would be a study."""
    rows = [{"id": "7", "image": "a.png", "report": "Clear."}, {"id": None, "image": "b.png", "report": None}]
    with pytest.raises(DatasetError, match="line 2 has no id"):
        read_source(write_rows(tmp_path, rows))


@pytest.mark.parametrize("form", ["table", "pairs"])
def test_an_image_that_is_listed_twice_is_one_study(tmp_path: Path, form: str) -> None:
    """As in covid-chestxray, under two numbers of a patient; with an id two patients are a contradiction."""
    rows = [{"image": "a.png", "file": "a.png", "report": "Clear.", "patient": f"p{i}"} for i in range(2)]
    source = write_rows(tmp_path, rows)
    if form == "pairs":
        (tmp_path / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
        source = Source("pairs", str(tmp_path))
    [study] = read_source(source)
    assert (study.patient_id, study.sections) == ("p0", {"report": "Clear."})
    if form == "table":
        with pytest.raises(DatasetError, match="with two values of patient"):
            read_source(write_rows(tmp_path, [{**row, "id": "s"} for row in rows]))


@pytest.mark.parametrize("place", ["<image>\n", "<ImageHere> ", "<image_1>"])
def test_where_the_image_is_put_is_not_asked(tmp_path: Path, place: str) -> None:
    """Conversations have a mark in the question; "<5 mm" is none."""
    row = {"image": "a.png", "file": "a.png", "report": f"{place}Clear, <5 mm.", "prompt": f"{place}Is it <5 mm?"}
    (tmp_path / "pairs.json").write_text(json.dumps([row]), encoding="utf-8")
    for source in (write_rows(tmp_path, [row]), Source("pairs", str(tmp_path))):
        [study] = read_source(source)
        assert (study.labels["prompt"], study.sections["report"]) == ("Is it <5 mm?", "Clear, <5 mm.")


@pytest.mark.parametrize("name", ["pairs.json", "pairs.jsonl"])
def test_an_integer_that_python_does_not_read_names_the_file(tmp_path: Path, name: str) -> None:
    """Not a traceback."""
    (tmp_path / name).write_text('{"a": 1, "id": ' + "7" * 4301 + "}", encoding="utf-8")
    with pytest.raises(DatasetError, match=rf"{name}.* is not JSON: an integer has over 4,300 digits"):
        read_source(Source("table" if name.endswith("l") else "pairs", str(tmp_path / name)))


def test_lists_and_objects_are_no_ids(tmp_path: Path) -> None:
    """A patient who is a list is unknown, and rows whose ids are objects have none."""
    rows: list[dict[str, Any]] = [{"id": {"a": 1}, "image": "a.png", "report": "Clear.", "patient": ["a", "b"]}]
    [study] = read_source(write_rows(tmp_path, rows))
    assert (study.study_id, study.patient_id) == ("a.png", None)


@pytest.mark.parametrize("key", ["split", "Split", "splits"])
def test_a_split_that_is_a_list_is_refused(tmp_path: Path, key: str) -> None:
    """It would be drawn again; under a key that names no split it is nothing."""
    source = write_rows(tmp_path, [{"image": "a.png", "report": "Clear.", key: ["train"]}])
    if key == "splits":
        assert read_source(source)[0].split is None
    else:
        with pytest.raises(DatasetError, match=r"line 1: the split is \['train'\]; allowed"):
            read_source(source)


@pytest.mark.parametrize("place", ["images", "annotations"])
def test_ids_of_coco_are_numbers_or_texts(tmp_path: Path, place: str) -> None:
    """A list is one line, not a traceback."""
    contents = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "Clear."}]}
    contents[place][0]["id" if place == "images" else "image_id"] = [1]
    (tmp_path / "annotations.json").write_text(json.dumps(contents), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"entry 0: the id of an image is \[1\]; it must be a number or a text"):
        read_source(Source("coco", str(tmp_path)))


@pytest.mark.parametrize("sign", ["\ud800", "\0"])
@pytest.mark.parametrize("column", ["id", "patient", "image", "report", "note"])
def test_what_no_file_name_can_have_is_refused_in_names_and_left_out_of_texts(
    tmp_path: Path, column: str, sign: str
) -> None:
    """JSON can write NUL and half a character."""
    row = {"id": "s", "patient": "p", "image": "a.png", "report": "Clear.", "note": "x"}
    (tmp_path / "t.jsonl").write_text(json.dumps({**row, column: f"{row[column]}{sign}"}), encoding="utf-8")
    source = Source("table", str(tmp_path / "t.jsonl"))
    if column in ("report", "note"):
        [study] = read_source(source)
        assert (study.sections, study.labels) == ({"report": "Clear."}, {"note": "x"})
    else:
        with pytest.raises(DatasetError, match=r"line 1: .*(ud800|x00).* has NUL or half a character"):
            read_source(source)
