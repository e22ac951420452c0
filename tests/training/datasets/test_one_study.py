"""Rows of one study: what they agree on is read, and what they contradict each other in is refused, or unknown."""

import csv
import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.tiny_model import png
from training.datasets import read_studies
from training.datasets.source import Source, read_source
from training.datasets.study import DatasetError

Row = dict[str, str]
TABLES = {
    "chexpert_plus": "df_chexpert_plus_240401.csv",
    "padchest": "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv",
}
SECTIONS = ("narrative", "clinical_history", "history", "comparison", "technique", "findings", "impression", "summary")


def write(file: Path, rows: list[Row]) -> None:
    """A table with commas."""
    with file.open("w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def make_rows(form: str) -> list[Row]:
    """Two images of one study."""
    rows = []
    for name, view in (("a", "Frontal"), ("b", "Lateral")):
        if form == "padchest":
            row = {"ImageID": f"{name}.png", "ImageDir": "0", "StudyID": "s", "PatientID": "p1", "Projection": view}
            rows.append({**row, "Report": "sin hallazg .", "PatientSex_DICOM": "F", "split": "train"})
        elif form == "chexpert_plus":
            row = {"path_to_image": f"train/patient1/study2/{name}.jpg", "frontal_lateral": view, "ap_pa": ""}
            row |= {"deid_patient_id": "p1", "split": "train", "report": "Clear.", "sex": "Female"}
            rows.append({**row, **{f"section_{section}": "" for section in SECTIONS}, "section_findings": "Clear."})
        else:
            row = {"uid": "s", "id": "s", "file": f"{name}.png", "image": f"{name}.png", "view": view}
            rows.append({**row, "patient_id": "p1", "split": "train", "report": "Clear.", "sex": "F"})
    return rows


def write_form(folder: Path, form: str, rows: list[Row]) -> Source:
    """The rows in a format."""
    if form == "pairs":
        (folder / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
        return Source("pairs", str(folder))
    write(folder / TABLES.get(form, "t.csv"), rows)
    return Source(form, str(folder / TABLES.get(form, "t.csv")))


@pytest.mark.parametrize(
    ("form", "column"),
    [
        *(("chexpert_plus", name) for name in ("deid_patient_id", "split", "section_findings", "report")),
        *(("padchest", name) for name in ("PatientID", "split", "Report")),
        *((form, name) for form in ("table", "pairs") for name in ("patient_id", "split")),
    ],
)
def test_rows_that_contradict_each_other_are_refused(tmp_path: Path, form: str, column: str) -> None:
    """Both places are named; a blank in one row contradicts nothing."""
    rows = make_rows(form)
    for value in ("test", ""):
        source = write_form(tmp_path, form, [rows[0], {**rows[1], column: value}])
        if value:
            what = "patient" if column == "patient_id" else column
            with pytest.raises(
                DatasetError, match=rf"(line 2|entry 0) and .*(line 3|entry 1) are of .*values of {what}"
            ):
                read_source(source)
        else:
            [study] = read_source(source)
            assert (len(study.images), study.split, study.patient_id) == (2, "train", "p1")
            assert len(study.sections) > 0


@pytest.mark.parametrize("form", ["chexpert_plus", "padchest", "table", "pairs"])
def test_a_label_with_two_values_is_unknown(tmp_path: Path, form: str) -> None:
    """And a file that is listed twice is one image, whose view is unknown where it has two."""
    column = "PatientSex_DICOM" if form == "padchest" else "sex"
    rows = make_rows(form)
    [study] = read_source(write_form(tmp_path, form, rows))
    assert study.labels["sex"][0] == "F"
    image = {name: rows[0][name] for name in ("path_to_image", "ImageID", "file", "image") if name in rows[0]}
    [study] = read_source(write_form(tmp_path, form, [rows[0], {**rows[1], **image, column: "M"}]))
    assert "sex" not in study.labels
    assert (len(study.images), [view.strip() for view in study.views]) == (1, [""])


@pytest.mark.parametrize("form", ["table", "pairs"])
def test_an_image_without_an_id_in_two_splits_is_refused(tmp_path: Path, form: str) -> None:
    """It would be in the split of its first row, and a leak would not be seen."""
    row = {name: value for name, value in make_rows(form)[0].items() if name not in ("id", "uid")}
    with pytest.raises(DatasetError, match="with two values of split"):
        read_source(write_form(tmp_path, form, [row, {**row, "split": "test"}]))


def test_a_patient_column_of_two_values_is_refused(tmp_path: Path) -> None:
    """Where `dataset.patient_column` names a column that is not a usual key."""
    rows = [{"id": "s", "image": f"{name}.png", "report": "Clear.", "chart": name} for name in "ab"]
    source = write_form(tmp_path, "table", rows)
    with pytest.raises(DatasetError, match="rows with different values of it"):
        read_source(Source("table", source.path, patient_column="chart"))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("mimic-cxr-2.0.0-split.csv", {"dicom_id": "a-2", "split": "test"}),
        ("mimic-cxr-2.0.0-metadata.csv", {"ViewPosition": "LATERAL"}),
        ("mimic_cxr_sectioned.csv", {"findings": "A fish."}),
    ],
)
def test_tables_of_mimic_with_rows_that_contradict_each_other(tmp_path: Path, file: str, change: Row) -> None:
    """Neither the first nor the last counts; a row that is there twice is one. All is made up."""
    tables: dict[str, Row] = {
        "mimic-cxr-2.0.0-split.csv": {
            "dicom_id": "a-1", "study_id": "5", "subject_id": "10000032", "split": "train",
        },
        "mimic-cxr-2.0.0-metadata.csv": {"dicom_id": "a-1", "ViewPosition": "PA"},
        "mimic_cxr_sectioned.csv": {
            "study": "s5", "findings": "No fish.", "impression": "", "last_paragraph": "", "comparison": "",
        },
    }  # fmt: skip
    for name, row in tables.items():
        write(tmp_path / name, [row, row])
    [study] = read_studies("mimic_cxr", tmp_path)
    assert (len(study.images), study.views, study.sections) == (1, ("PA",), {"findings": "No fish."})
    write(tmp_path / file, [tables[file], {**tables[file], **change}])
    with pytest.raises(DatasetError, match=r"line 2 and .*line 3 are of one \w+, with two values of"):
        read_studies("mimic_cxr", tmp_path)


def write_shard(folder: Path, members: dict[str, bytes]) -> None:
    """A tar file with a sample."""
    with tarfile.open(folder / "train-0000.tar", "w") as archive:
        for name, data in {"1.png": png(1), **members}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    ("one", "other"), [("caption", "text"), (".txt", "caption"), (".txt", "report"), (".txt", ".caption")]
)
def test_two_texts_of_a_sample_of_which_none_is_called_the_report(tmp_path: Path, one: str, other: str) -> None:
    """Refused where they differ: the text of a web page is often next to the caption of its picture."""
    for text in ("Edema.", "Clear. "):
        said = {one: "Clear.", other: text}
        record = {name: text for name, text in said.items() if not name.startswith(".")}
        members = {f"1{name}": text.encode() for name, text in said.items() if name.startswith(".")}
        write_shard(tmp_path, {**members, "1.json": json.dumps(record).encode()})
        if text == "Edema.":
            with pytest.raises(DatasetError, match=rf"sample 1 has two different texts, {one} and {other}"):
                read_studies("webdataset", tmp_path, tmp_path / "images")
        else:
            [study] = read_studies("webdataset", tmp_path, tmp_path / "images")
            assert study.sections == {"report": "Clear."}


def test_what_a_sample_calls_its_report_is_it(tmp_path: Path) -> None:
    """A caption next to it is another text."""
    write_shard(tmp_path, {"1.json": json.dumps({"caption": "A scan.", "report": "Clear."}).encode()})
    [study] = read_studies("webdataset", tmp_path, tmp_path / "images")
    assert study.sections == {"report": "Clear."}


def test_rexrank_with_two_reports_is_refused(tmp_path: Path) -> None:
    """`report` and `reports` are names of one thing."""
    file = tmp_path / "file.json"
    for text in ("Edema.", "Clear."):
        file.write_text(json.dumps({"s": {"image_path": [], "report": "Clear.", "reports": text}}), encoding="utf-8")
        if text == "Edema.":
            with pytest.raises(DatasetError, match="study s has different texts under report and reports"):
                read_studies("rexrank", file)
    assert read_studies("rexrank", file)[0].sections == {"report": "Clear."}


@pytest.mark.parametrize("form", ["table", "pairs"])
def test_a_question_with_an_answer_and_another_report_is_refused(tmp_path: Path, form: str) -> None:
    """The report does not answer it; `dataset.columns` says which text does."""
    row = {"file": "a.png", "image": "a.png", "question": "Which side?", "answer": "Left.", "report": "Clear."}
    source = write_form(tmp_path, form, [row])
    with pytest.raises(DatasetError, match="a question and different texts under answer and report"):
        read_source(source)
    if form == "table":
        [study] = read_source(Source("table", source.path, columns={"report": "answer"}))
        assert (study.labels["prompt"], study.sections) == ("Which side?", {"report": "Left."})
    [study] = read_source(write_form(tmp_path, form, [{**row, "report": ""}]))
    assert study.labels["prompt"] == "Which side?"
