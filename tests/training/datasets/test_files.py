"""A file that is damaged or ambiguous is an error that names the file and the line, never a traceback or a guess."""

import gzip
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from tests.tiny_model import png
from training.datasets import read_studies
from training.datasets.files import keep_texts
from training.datasets.formats import rexrank
from training.datasets.study import DatasetError, Study
from training.evaluation.predictions import read_predictions


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("id,text\n1,No effusion, no edema.\n", r"line 2 has 3 fields for 2 columns"),
        ("id,text\n1,Clear.\n2,Clear.\n1,Edema.\n", r"line 4: the id '1' is there a second time"),
        ('id,text\n1,"The "large" heart."\n', r"line 2: .*double quotes"),
        ('id,text\n1,Clear.\n2,"Open\n3,Clear.\n', r"line 3: unexpected end of data"),
        ("id,id\n1,2\n", r"has no column text"),
        ("id,text,text\n1,a,b\n", r"two columns 'text'"),
    ],
)
def test_predictions_are_read_whole_or_not_at_all(tmp_path: Path, contents: str, message: str) -> None:
    """An unquoted comma does not cut a text, the second of two texts does not win."""
    path = tmp_path / "theirs.csv"
    path.write_text(contents, encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        read_predictions(path)


def test_another_encoding_names_the_line(tmp_path: Path) -> None:
    """Of tables, JSON and reports."""
    (tmp_path / "theirs.csv").write_bytes("id,text\n1,clear\n2,Ödem\n".encode("cp1252"))
    with pytest.raises(DatasetError, match=r"theirs.csv is not UTF-8: line 3"):
        read_predictions(tmp_path / "theirs.csv")
    (tmp_path / "pairs.json").write_bytes('[{"file": "a.png",\n "report": "Ödem"}]'.encode("cp1252"))
    with pytest.raises(DatasetError, match=r"pairs.json is not UTF-8: line 2"):
        read_studies("pairs", tmp_path)


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
"""Three have a byte order mark; the others are known by their zeros."""


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_spreadsheets_and_windows_save_is_read(tmp_path: Path, encoding: str) -> None:
    """Tables with their separator, gzipped ones, JSON, JSON lines, texts in a tar file, and predictions."""
    table = "id\timage\treport\r\n1\ta.png\tÖdem, 心影\r\n"
    (tmp_path / "t.csv").write_bytes(table.encode(encoding))
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(table.encode(encoding)))
    (tmp_path / "sep.csv").write_bytes(("sep=;\r\n" + table.replace("\t", ";")).encode(encoding))
    record = json.dumps({"image": "a.png", "file": "a.png", "report": "Ödem, 心影"}, ensure_ascii=False)
    (tmp_path / "t.jsonl").write_bytes(f"{record}\r\n".encode(encoding))
    (tmp_path / "pairs.json").write_bytes(f"[{record}]".encode(encoding))
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for name, data in (("1.png", png(1)), ("1.txt", "Ödem, 心影".encode(encoding))):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    for form, name in (
        *(("table", name) for name in ("t.csv", "t.tsv.gz", "sep.csv", "t.jsonl")),
        ("pairs", "pairs.json"),
        ("webdataset", "t.tar"),
    ):
        [study] = read_studies(form, tmp_path / name, tmp_path / "written" if form == "webdataset" else None)
        assert study.sections == {"report": "Ödem, 心影"}, name
    (tmp_path / "theirs.csv").write_bytes("id,text\n1,Ödem\n".encode(encoding))
    assert read_predictions(tmp_path / "theirs.csv") == {"1": "Ödem"}


def test_half_a_character_is_said_by_the_name_of_its_encoding(tmp_path: Path) -> None:
    """A UTF-16 file that was cut."""
    (tmp_path / "t.csv").write_bytes("id,image,report\n1,a.png,Clear".encode("utf-16")[:-1])
    with pytest.raises(
        DatasetError, match=r"t.csv is not complete UTF-16.* \(truncated data\); save it again as UTF-8"
    ):
        read_studies("table", tmp_path / "t.csv")


@pytest.mark.parametrize(("format", "name"), [("pairs", "pairs.json"), ("rexrank", "r.json")])
def test_a_key_that_is_there_twice_is_an_error(tmp_path: Path, format: str, name: str) -> None:  # noqa: A002
    """JSON readers keep the last and say nothing."""
    one = '"a": {"report": "Clear."}' if format == "rexrank" else '"file": "a.png", "report": "x"'
    text = f"{{{one},\n{one}}}" if format == "rexrank" else f"[{{{one},\n{one}}}]"
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"line 2: the key '(a|file)' is there twice"):
        read_studies(format, tmp_path / name)


def test_rexrank_gets_the_paths_of_images(tmp_path: Path) -> None:
    """R2Gen calls the first image of every study 0.png: the folder tells them apart."""
    studies = [
        Study(name, (tmp_path / "images" / name / "0.png",), {"report": "x"}, None, ("",), "", "test", {})
        for name in ("CXR1", "CXR2")
    ]
    rexrank.write(tmp_path / "sent.json", studies, ["a", "b"])
    sent = json.loads((tmp_path / "sent.json").read_text(encoding="utf-8"))
    assert [entry["image_path"] for entry in sent.values()] == [["CXR1/0.png"], ["CXR2/0.png"]]
    assert [entry["key_image_path"] for entry in sent.values()] == ["CXR1/0.png", "CXR2/0.png"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image_path": ["a", "b"], "frontal_lateral": ["frontal"]}, "1 views, image_path 2 images"),
        ({"image_path": "a.png"}, "image_path is not a list"),
        ({"image_path": [], "report": ["a", "b"]}, "report is list; expected a text"),
    ],
)
def test_entries_of_rexrank_are_checked(tmp_path: Path, entry: dict[str, object], message: str) -> None:
    """Fewer views than images, and lists where a text belongs, name the study."""
    (tmp_path / "r.json").write_text(json.dumps({"s1": entry}), encoding="utf-8")
    with pytest.raises(DatasetError, match=rf"study s1: .*{message}"):
        read_studies("rexrank", tmp_path / "r.json")


def test_the_report_of_rexrank_may_be_called_reports(tmp_path: Path) -> None:
    """Null is not a text, and the labels keep what else is said."""
    entry = {"image_path": [], "section_findings": None, "reports": "Clear.", "context": "Age:50.Gender:M."}
    (tmp_path / "r.json").write_text(json.dumps({"s1": entry}), encoding="utf-8")
    [study] = read_studies("rexrank", tmp_path / "r.json")
    assert study.sections == {"report": "Clear."}
    assert study.labels == {"context": "Age:50.Gender:M."}


def test_a_zip_archive_is_not_a_table(tmp_path: Path) -> None:
    """Whatever it is called."""
    with zipfile.ZipFile(tmp_path / "data.csv", "w") as archive:
        archive.writestr("pairs.json", "[]")
    with pytest.raises(DatasetError, match=r"data.csv is a zip archive; unpack it"):
        read_studies("pairs", tmp_path / "data.csv")


@pytest.mark.parametrize("cut", [200, 2000])
def test_a_damaged_archive_of_open_i_is_an_error(tmp_path: Path, cut: int) -> None:
    """Cut off, or with bytes changed inside."""
    with tarfile.open(tmp_path / "whole.tgz", "w:gz") as archive:
        for i in range(9):
            data = os.urandom(600)
            member = tarfile.TarInfo(f"{i}.txt")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    whole = bytearray((tmp_path / "whole.tgz").read_bytes())
    (tmp_path / "NLMCXR_reports.tgz").write_bytes(whole[:cut])
    with pytest.raises(DatasetError, match=r"NLMCXR_reports.tgz is not a complete tar archive"):
        read_studies("openi_xml", tmp_path)
    whole[cut : cut + 400] = bytes(400)
    (tmp_path / "NLMCXR_reports.tgz").write_bytes(whole)
    with pytest.raises(DatasetError, match=r"NLMCXR_reports.tgz is not a complete tar archive"):
        read_studies("openi_xml", tmp_path)


def test_a_damaged_gz_table_is_an_error(tmp_path: Path) -> None:
    """Cut off in the middle."""
    text = "".join(f"{i},{os.urandom(8).hex()}\n" for i in range(900))
    whole = gzip.compress(f"image,report\n{text}".encode())
    (tmp_path / "t.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"t.csv.gz cannot be read: .*fetch it again"):
        read_studies("table", tmp_path / "t.csv.gz")


def write_vqa(path: Path, rows: list[dict[str, object]]) -> None:
    """A parquet file of RadImageNet-VQA."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path)


def test_raw_bytes_and_several_turns_of_parquet(tmp_path: Path) -> None:
    """Images may be bytes without a path; each question with its answer is a study, all of them in one split."""
    said = (("system", "Be brief."), ("human", "Q1"), ("gpt", "A1"), ("human", "Q2"), ("gpt", "A2"))
    turns = [{"from": who, "value": text} for who, text in said]
    write_vqa(tmp_path / "train-0.parquet", [{"image": png(1), "conversations": turns}])
    studies = read_studies("radimagenet_vqa", tmp_path, tmp_path / "cache")
    assert [(study.labels["prompt"], study.sections["report"]) for study in studies] == [("Q1", "A1"), ("Q2", "A2")]
    assert {study.unit for study in studies} == {studies[0].images[0].stem}
    write_vqa(tmp_path / "train-0.parquet", [{"image": None, "conversations": turns}])
    with pytest.raises(DatasetError, match=r"row 0 has no image bytes"):
        read_studies("radimagenet_vqa", tmp_path, tmp_path / "cache")


def test_two_parts_in_one_folder_have_ids_of_their_own(tmp_path: Path) -> None:
    """A root folder with files of one name in two folders is read; two studies of one id name both places."""
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    for part in ("alignment", "instruct"):
        write_vqa(tmp_path / part / "train-0.parquet", [{"image": png(1), "conversations": turns}])
    assert len(read_studies("radimagenet_vqa", tmp_path, tmp_path / "cache")) == 2
    (tmp_path / "XREPORT_dataset.csv").write_text("id;text\n1;a\n2;b\n1;c\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"two studies '1': .*line 2 and .*line 4"):
        read_studies("xreport", tmp_path)


@pytest.mark.parametrize(
    ("answer", "message"), [(None, None), (["a", "b"], "answer is list"), (True, "answer is bool")]
)
def test_answers_are_texts_or_numbers(tmp_path: Path, answer: object, message: str | None) -> None:
    """Null is not "None", a list is not "['a', 'b']"."""
    row = {"qid": 1, "image_name": "a.jpg", "image_case_url": "u", "question": "What?", "answer": answer}
    (tmp_path / "VQA_RAD Dataset Public.json").write_text(json.dumps([row]), encoding="utf-8")
    if message:
        with pytest.raises(DatasetError, match=rf"entry 0: {message}"):
            read_studies("vqa_rad", tmp_path)
    else:
        assert read_studies("vqa_rad", tmp_path)[0].sections == {}


def test_zipped_images_are_unpacked_once(tmp_path: Path) -> None:
    """Next to the archive, with the one folder that is often inside passed over; a damaged one is an error."""
    buffer = io.BytesIO()
    Image.new("L", (40, 40), 9).save(buffer, "PNG")
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("all/a.png", buffer.getvalue())
    (tmp_path / "pairs.json").write_text('[{"file": "a.png", "report": "Clear."}]', encoding="utf-8")
    for _ in range(2):
        [study] = read_studies("pairs", tmp_path, tmp_path / "pictures.zip")
        assert study.images[0].is_file()
        assert study.images[0].relative_to(tmp_path).match("pictures-*/all/a.png")
    (tmp_path / "bad.zip").write_bytes(b"PK" * 90)
    with pytest.raises(DatasetError, match=r"bad.zip cannot be unpacked"):
        read_studies("pairs", tmp_path, tmp_path / "bad.zip")


@pytest.mark.parametrize("value", ["nan", "None", "NULL", "N/A", "#N/A", "#REF!", " nan ", "<NA>", "", None, "[]"])
def test_unknown_values_are_no_texts(value: str | None) -> None:
    """As pandas, SQL and spreadsheets write them; a text that begins with such a word is one."""
    assert keep_texts({"report": value}, "x") == {}
    assert keep_texts({"report": "None of the fish is seen."}, "x") == {"report": "None of the fish is seen."}


def test_none_answers_a_question() -> None:
    """Questions such as "Which abnormality?" have it."""
    assert keep_texts({"answer": "None"}, "x", answers=True) == {"answer": "None"}


def test_lists_that_were_written_as_text() -> None:
    """One text is the text, several are not."""
    assert keep_texts({"report": "['No fish.']"}, "x") == {"report": "No fish."}
    assert keep_texts({"report": "[No fish] here"}, "x") == {"report": "[No fish] here"}
    assert keep_texts({"report": "['A'] and ['B']"}, "x") == {"report": "['A'] and ['B']"}
    with pytest.raises(DatasetError, match="x: report is list; expected a text"):
        keep_texts({"report": "['x', 'y']"}, "x")


def test_control_characters_are_removed() -> None:
    """NUL, which no tokenizer expects; tabs and line ends stay."""
    assert keep_texts({"report": "\ufeffno\x00 fish\x1b\there\n"}, "x") == {"report": "no fish\there"}
