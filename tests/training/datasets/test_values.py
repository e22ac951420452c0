"""What data sets write where they know nothing is unknown in every format; what they know is never silently lost."""

import csv
import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from openpyxl import Workbook
from PIL import Image
from pyarrow import parquet

from training.datasets import read_studies
from training.datasets.files import keep_texts
from training.datasets.formats import padchest
from training.datasets.image_files import ImageFolder
from training.datasets.packed import unpack_images
from training.datasets.split_names import find_split, name_split
from training.datasets.study import DatasetError
from training.datasets.values import UNKNOWN, find_patient_value, read_value
from training.evaluation.data import read_data
from training.settings import make_dataset_settings

REX = {"Indication": None, "Comparison": "None", "Findings": "Clear.", "Impression": "nan", "ImagePath": ["a.png"]}


def picture(level: int = 100) -> bytes:
    """A small gray image as a PNG file."""
    file = io.BytesIO()
    Image.new("L", (40, 40), level).save(file, "PNG")
    return file.getvalue()


def write_csv(path: Path, *rows: list[str]) -> Path:
    """A table with commas."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def write_tar(path: Path, *members: tuple[str, bytes]) -> Path:
    """A tar file of the members, in their order."""
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            item = tarfile.TarInfo(name)
            item.size = len(data)
            archive.addfile(item, io.BytesIO(data))
    return path


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    """A zip file of the members."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("word", [*sorted(UNKNOWN), " NaN ", "None", "N/A", None, float("nan")])
def test_one_place_says_what_is_unknown(word: Any) -> None:
    """As id, patient, split and text alike; zero is a value."""
    assert read_value(word) is None
    assert find_patient_value({"Patient_ID": word, "subject": 0}) == "0"
    assert name_split(word, "here") is None
    if isinstance(word, str | None):
        assert keep_texts({"report": word}, "here") == {}


def test_none_is_an_answer_to_a_question(tmp_path: Path) -> None:
    """VQA-RAD has it: what is not a report elsewhere is a text there."""
    entry = {"qid": 0, "image_name": "a.png", "image_case_url": "c", "question": "Any mass?", "answer": "None"}
    (tmp_path / "q.json").write_text(json.dumps([entry]), encoding="utf-8")
    [study] = read_studies("vqa_rad", tmp_path / "q.json")
    assert study.sections == {"report": "None"}


@pytest.mark.parametrize("word", ["", "nan", "None", " "])
@pytest.mark.parametrize("name", ["padchest", "chexpert_plus", "vqa_rad", "table", "rexgradient"])
def test_an_unknown_patient_is_unknown_in_every_format(tmp_path: Path, name: str, word: str) -> None:
    """Neither '' nor 'None' nor 'nan' is a patient that studies share."""
    if name == "padchest":
        row = ["a.png", "0", "s1", word, "PA", "sin hallazg"]
        path = write_csv(tmp_path / padchest.TABLE, list(padchest.COLUMNS), row)
    elif name == "chexpert_plus":
        columns = "path_to_image frontal_lateral ap_pa deid_patient_id split report section_clinical_history "
        columns += "section_history section_comparison section_technique section_narrative section_findings "
        names = (columns + "section_impression section_summary").split()
        row = ["x/study1/a.png", "Frontal", "AP", word, "train", "Clear.", *[""] * (len(names) - 6)]
        path = write_csv(tmp_path / "t.csv", names, row)
    elif name == "vqa_rad":
        entry = {"qid": 0, "image_name": "a.png", "image_case_url": word, "question": "Is it?", "answer": "yes"}
        path = tmp_path / "q.json"
        path.write_text(json.dumps([entry, {**entry, "qid": 1, "image_case_url": None}]), encoding="utf-8")
    elif name == "rexgradient":
        path = tmp_path / "train_metadata.json"
        path.write_text(json.dumps({"s": {**REX, "PatientID": word}}), encoding="utf-8")
    else:
        path = write_csv(tmp_path / "t.csv", ["image", "report", "patient"], ["a.png", "Clear.", word])
    studies = read_studies(name, path)
    assert {study.patient_id for study in studies} == {None}
    assert len({study.unit for study in studies}) == 1  # questions about one image are never divided


def test_a_path_names_its_split_in_any_case(tmp_path: Path) -> None:
    """Capitals, words within a name, and every part of a split; the JSON of a sample wins over the name."""
    assert [find_split(name) for name in ("Test_metadata.json", "shard-train-000.tar", "ROCO/Validation/x.csv")] == [
        "test",
        "train",
        "val",
    ]
    assert find_split("latest.json") is None
    for number, name in enumerate(("train_metadata_part1", "train_metadata_part2", "Test_metadata")):
        entry = {f"s{number}": {**REX, "PatientID": number}}
        (tmp_path / f"{name}.json").write_text(json.dumps(entry), encoding="utf-8")
    found = {study.study_id: (study.split, study.patient_id) for study in read_studies("rexgradient", tmp_path)}
    assert found == {"s0": ("train", "0"), "s1": ("train", "1"), "s2": ("test", "2")}


def test_a_sample_of_a_webdataset_keeps_all_that_it_says(tmp_path: Path) -> None:
    """Its split and patient, several images with their views, sections of their own; a mask is not an image of it."""
    file = write_tar(
        tmp_path / "shard-train-000.tar",
        *((f"0{kind}.png", picture(number)) for number, kind in enumerate((".0", ".1", ".mask"))),
        ("0.json", b'{"report": "a b", "split": "test", "patient_id": 0}'),
        ("1.frontal.png", picture(9)),
        ("1.findings.txt", b"clear"),
    )
    first, second = read_studies("webdataset", file, tmp_path / "images")
    assert (first.split, first.patient_id, len(first.images)) == ("test", "0", 2)
    assert (second.split, second.views, second.sections) == ("train", ("frontal",), {"findings": "clear"})


def test_texts_numbered_like_the_images_are_studies_of_their_own(tmp_path: Path) -> None:
    """`scan.0.txt` is the report of `scan.0.png`, not of a study of all images; captions are reports."""
    file = write_tar(
        tmp_path / "a.tar",
        ("scan.0.png", picture(0)),
        ("scan.0.txt", b"text 0"),
        ("scan.1.png", picture(1)),
        ("scan.1.txt", b"text 1"),
        ("x.png", picture(5)),
        ("x.caption", b"text x"),
        ("y.png", picture(6)),
        ("y.json", b'{"text": "text y"}'),
    )
    studies = read_studies("webdataset", file, tmp_path / "images")
    assert [study.sections["report"] for study in studies] == ["text 0", "text 1", "text x", "text y"]
    assert [len(study.images) for study in studies] == [1] * 4
    assert studies[0].unit == studies[1].unit != studies[2].unit


@pytest.mark.parametrize("name", ["pat1.v2", "1.2.840", "1.2.840.113.7", "a.b.c"])
def test_a_sample_with_dots_in_its_name_is_read(tmp_path: Path, name: str) -> None:
    """Next to others, and next to one that begins like it; not what a Mac writes next to it, nor a mask."""
    stem = name.partition(".")[0]
    file = write_tar(
        tmp_path / "a.tar",
        *(("x.png", picture(0)), ("x.txt", b"text x")),
        *((f"._{stem}.png", b"Mac"), (f"{stem}.png", picture(1)), (f"{stem}.mask.png", b"mask")),
        *((f"{stem}.txt", b"text s"), (f"{name}.PNG", picture(2)), (f"{name}.txt", b"text n")),
        *((f"9.{name}.frontal.png", picture(3)), (f"9.{name}.lateral.dcm.png", picture(4))),
        *((f"9.{name}.findings.txt", b"text f"), (f"9.{name}1.png", picture(5)), (f"9.{name}1.json", b"{}")),
        *(("b.dcm.png", picture(6)), ("b.dcm.txt", b"text b")),
    )
    found = {
        study.study_id: (len(study.images), *study.sections.values())
        for study in read_studies("webdataset", file, tmp_path / "images")
    }
    assert found == {
        "a/x": (1, "text x"),
        f"a/{stem}": (1, "text s"),
        f"a/{name}": (1, "text n"),
        f"a/9.{name}": (2, "text f"),
        f"a/9.{name}1": (1,),
        "a/b": (1, "text b"),
    }


def test_an_image_that_is_of_no_sample_is_refused(tmp_path: Path) -> None:
    """By its name."""
    file = write_tar(tmp_path / "a.tar", ("x.png", picture(0)), ("x.v2.png", picture(1)), ("x.txt", b"text"))
    with pytest.raises(DatasetError, match=r"sample x: x.v2.png is neither an image of it nor"):
        read_studies("webdataset", file, tmp_path / "images")
    names = ("1.2.3.png", "1.2.4.png", "1.2.3.txt", "1.2.4.txt")
    file = write_tar(tmp_path / "b.tar", *((name, picture(0)) for name in names))
    with pytest.raises(DatasetError, match=r"1.2.3.txt does not follow the other members of its sample"):
        read_studies("webdataset", file, tmp_path / "images")


def test_shards_of_two_folders_are_one_data_set(tmp_path: Path) -> None:
    """Their ids may repeat; compressed shards are read."""
    for name in ("train/00000.tar", "val/00000.tar", "val/1.tgz"):
        file = tmp_path / "shards" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_tar(file, ("1.png", picture(len(name))), ("1.txt", b"text"))
    (tmp_path / "shards" / "._a.tar").write_bytes(b"Mac")
    (tmp_path / "shards" / "val" / "1.tgz").write_bytes(gzip.compress(file.read_bytes()))
    found = [(study.study_id, study.split) for study in read_studies("webdataset", tmp_path / "shards", tmp_path / "i")]
    assert found == [("train/00000/1", "train"), ("val/00000/1", "val"), ("1/1", "val")]


def test_nothing_that_is_there_twice_is_chosen_in_silence(tmp_path: Path) -> None:
    """Two columns, keys, members or files for one name: each is an error that names them."""
    book = Workbook()
    for row in (["image", "report", "report"], ["a.png", "first", "second"]):
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    write_tar(tmp_path / "keys.tar", ("0.png", picture()), ("0.json", b'{"report": "a", "report": "b"}'))
    write_tar(tmp_path / "members.tar", ("0.png", picture()), ("0.png", picture(3)), ("0.txt", b"text"))
    for name, path, message in (
        ("table", tmp_path / "t.xlsx", "two columns 'report'"),
        ("webdataset", tmp_path / "keys.tar", "sample 0: the key 'report' is there twice"),
        ("webdataset", tmp_path / "members.tar", "has two members 0.png"),
    ):
        with pytest.raises(DatasetError, match=message):
            read_studies(name, path, tmp_path)
    for suffix in ("png", "jpg"):
        (tmp_path / f"a.{suffix}").write_bytes(picture())
    folder = ImageFolder(tmp_path)
    assert folder.find("a.jpeg").name == "a.jpg"
    with pytest.raises(DatasetError, match=r"a.jpg, a.png in .* fit the image name 'a.bmp'"):
        folder.find("a.bmp")


def test_two_parts_of_one_section_are_joined(tmp_path: Path) -> None:
    """Open-i: two AbstractText of one Label; what a Mac writes next to a file is not a report."""
    texts = "".join(f'<AbstractText Label="FINDINGS">{text}</AbstractText>' for text in ("First.", "Second."))
    (tmp_path / "1.xml").write_text(f'<eCitation><uId id="CXR1"/>{texts}</eCitation>', encoding="utf-8")
    (tmp_path / "._1.xml").write_bytes(b"\x00\x05")
    [study] = read_studies("openi_xml", tmp_path)
    assert study.sections == {"findings": "First.\nSecond."}


@pytest.mark.parametrize("form", ["bytes", "struct", "list"])
def test_images_inside_parquet_are_read(tmp_path: Path, form: str) -> None:
    """As raw bytes, as Hugging Face's {bytes, path}, and as lists of either."""
    cell: Any = picture()
    if form != "bytes":
        cell = {"bytes": cell, "path": None}
    table = pa.table({"id": ["1"], "image": [[cell] if form == "list" else cell], "report": ["a b"]})
    parquet.write_table(table, tmp_path / "t.parquet")
    [study] = read_studies("table", tmp_path / "t.parquet")
    assert [image.read_bytes() for image in study.images] == [picture()]


@pytest.mark.parametrize("kind", ["name", "page", "file", "password"])
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    """No traceback for an image name that is too long, a damaged page, a null file name, a zip with a password."""
    images = None
    if kind == "name":
        path, name = write_csv(tmp_path / "t.csv", ["image", "report"], ["x" * 300 + ".png", "text"]), "table"
    elif kind == "page":
        path, name = tmp_path / "t.parquet", "table"
        parquet.write_table(pa.table({"image": ["a.png"], "report": ["text"]}), path)
        data = bytearray(path.read_bytes())
        data[20:60] = b"\xff" * 40
        path.write_bytes(bytes(data))
    elif kind == "file":
        path, name = tmp_path / "pairs.json", "pairs"
        path.write_text(json.dumps([{"file": None, "findings": "text"}]), encoding="utf-8")
    else:
        path, name = write_csv(tmp_path / "t.csv", ["image", "report"], ["a.png", "text"]), "table"
        images = write_zip(tmp_path / "t.zip", {"a.png": picture()})
        data = bytearray(images.read_bytes())
        for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            data[data.index(signature) + offset] |= 1  # APPNOTE 4.4.4: bit 0 says that the member is encrypted
        images.write_bytes(bytes(data))
    expected = {
        "name": r"t.csv, line 2: an image name has 304 bytes; at most 255",
        "page": r"t.parquet is not a complete parquet file",
        "file": r"entry 0: file is blank, null or not a text",
        "password": r"t.zip cannot be unpacked: .*password",
    }
    with pytest.raises(DatasetError, match=expected[kind]):
        read_studies(name, path, images)


def test_another_archive_of_images_has_its_own_folder(tmp_path: Path) -> None:
    """A replaced archive gives its own pictures, a foreign folder of its name is left alone, depth does not matter."""
    table = write_csv(tmp_path / "t.csv", ["image", "report"], ["a.png", "text"])
    (tmp_path / "t").mkdir()

    def read(members: dict[str, bytes]) -> bytes:
        [study] = read_studies("table", table, write_zip(tmp_path / "t.zip", members))
        return study.images[0].read_bytes()

    assert read({"a.png": picture(1)}) == picture(1)
    assert read({"a.png": picture(2)}) == picture(2)
    assert read({"data/img/a.png": picture(3), "data/img/b.png": picture(1)}) == picture(3)
    assert read({"img/a.png": picture(4), "__MACOSX/img/._a.png": b"0"}) == picture(4)
    folder = unpack_images(tmp_path / "t.zip")
    assert unpack_images(tmp_path / "t.zip") == folder
    assert not any((tmp_path / "t").iterdir())


@pytest.mark.parametrize("name", ["roco", "rexgradient", "bimcv", "openi_xml", "webdataset", "feature_json"])
def test_an_archive_or_a_file_as_path_says_what_to_give(tmp_path: Path, name: str) -> None:
    """A zip file of a published data set has to be unpacked, whatever its format."""
    with pytest.raises(DatasetError, match=r"t.zip is a zip archive; unpack it"):
        read_studies(name, write_zip(tmp_path / "t.zip", {"a.png": picture()}), tmp_path)
    for other in ("rexrank", "table"):
        with pytest.raises(DatasetError, match=r"is a folder( without a table .*)?; give the file itself as path"):
            read_studies(other, tmp_path)


def test_studies_without_a_view_are_counted(tmp_path: Path) -> None:
    """`views: [PA]` of nine test studies of which one has it: one is scored, and the page says that eight are not."""
    rows = [["id", "image", "report", "patient", "view", "split"]]
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
        view, split = "PA" if number < 2 else "LATERAL", "test" if number else "train"
        rows.append([f"s{number}", f"{number}.png", "Text.", f"p{number}", view, split])
    source = make_dataset_settings(
        {"format": "table", "path": str(write_csv(tmp_path / "t.csv", *rows)), "views": ["PA"]}
    )
    data = read_data(source, "test", with_images=True)
    assert (len(data.studies), data.left_out) == (1, 8)
    assert data.remarks == ("8 studies have no image of the views PA (dataset.views) and were left out.",)
