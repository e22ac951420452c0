"""Small copies of what people have: published data sets as they are laid out, and tables of their own."""

import csv
import gzip
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from openpyxl import Workbook
from PIL import Image
from pyarrow import parquet

from tests.tiny_model import png
from training.datasets import read_studies
from training.datasets.source import Source, load_studies
from training.datasets.study import DatasetError


def picture(path: Path) -> Path:
    """A small image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (40, 40), 100).save(path, format="PNG")
    return path


COLUMNS = {"id": "Fall", "image": "Bild", "report": "Befund", "patient": "Patient", "view": "Projektion"}
ROWS = [
    {"Fall": 1, "Bild": "a.png", "Befund": "Kein Erguss; Herz normal.", "Patient": 7, "Projektion": "PA", "Alter": 61},
    {"Fall": 1, "Bild": "b.png", "Befund": "Kein Erguss; Herz normal.", "Patient": 7, "Projektion": "LL", "Alter": 61},
    {"Fall": 2, "Bild": "c.dcm", "Befund": None, "Patient": 8, "Projektion": None, "Alter": 5},
]


def write_table(path: Path) -> None:
    """ROWS as the kind of file that the suffix says."""
    names = list(ROWS[0])
    values = [[row[name] for name in names] for row in ROWS]
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            # A spreadsheet of a German office separates by semicolons.
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ";")
            writer.writerows([names, *(["" if cell is None else cell for cell in row] for row in values)])
    elif path.suffix == ".xlsx":
        book = Workbook()
        for row in (names, *values):
            book.active.append(row)
        book.save(path)
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".xlsx", ".parquet", ".jsonl"])
def test_a_table_of_any_kind_is_read_by_its_columns(tmp_path: Path, suffix: str) -> None:
    """A mapping names the columns; numbers are ids without a point, blanks nothing; the rest are labels."""
    write_table(tmp_path / f"t{suffix}")
    picture(tmp_path / "images" / "a.PNG")
    source = Source(
        "table", str(tmp_path / f"t{suffix}"), image_folder=str(tmp_path / "images"), columns=COLUMNS, splits="drawn"
    )
    first, second = load_studies(source)
    assert (first.study_id, first.patient_id, first.views) == ("1", "7", ("PA", "LL"))
    assert [image.name for image in first.images] == ["a.PNG", "b.png"]
    assert first.sections == {"report": "Kein Erguss; Herz normal."}
    assert first.labels == {"Alter": "61"}
    assert (second.sections, second.images[0].name) == ({}, "c.dcm")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": "Datei"}, r"has no column Datei \(dataset.columns\); its columns are: Fall, Bild"),
        ({"picture": "Bild"}, r"dataset.columns has 'picture'; allowed: id, image, findings"),
        ({"report": "Befund"}, r"line 2 has no image; name its column"),
        ({"image": "Bild", "id": "Fall", "patient": "Projektion"}, r"are of one id, with two values of patient"),
    ],
)
def test_a_wrong_mapping_lists_the_columns(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    """And rows of one study that contradict each other name both lines."""
    write_table(tmp_path / "t.csv")
    with pytest.raises(DatasetError, match=message):
        read_studies("table", tmp_path / "t.csv", columns=columns)


def test_columns_belong_to_tables(tmp_path: Path) -> None:
    """Another format has its own, and another kind of file is refused."""
    with pytest.raises(DatasetError, match="only the format table has columns"):
        read_studies("pairs", tmp_path, columns={"id": "x"})
    (tmp_path / "t.doc").write_text("x", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"t.doc is not a table; allowed: .csv"):
        read_studies("table", tmp_path / "t.doc")
    (tmp_path / "t.xlsx").write_text("x", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"t.xlsx is not an Excel file"):
        read_studies("table", tmp_path / "t.xlsx")


def test_padchest(tmp_path: Path) -> None:
    """A row an image, a study by its StudyID, in the numbered folders; the index column has no name."""
    columns = ["", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth"]
    columns += ["PatientSex_DICOM", "Projection", "Report", "Labels"]
    rows = [
        ["0", "a_1.png", "0", "20140915", "s1", "p1", "1930", "M", "PA", "sin hallazg patolog .", "['normal']"],
        ["1", "a_2.png", "1", "20140915", "s1", "p1", "1930", "M", "L", "sin hallazg patolog .", "['normal']"],
    ]
    with gzip.open(
        tmp_path / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", "wt", newline="", encoding="utf-8"
    ) as file:
        csv.writer(file).writerows([columns, *rows])
    picture(tmp_path / "images" / "a_1.png")
    picture(tmp_path / "1" / "a_2.png")
    [study] = read_studies("padchest", tmp_path)
    assert all(image.is_file() for image in study.images)
    assert (study.patient_id, study.views, study.labels["sex"]) == ("p1", ("PA", "L"), "M")
    assert study.labels["age"] == "84"


@pytest.mark.parametrize(("column", "second"), [("PatientID", "p2"), ("Report", "cardiomegali .")])
def test_a_study_of_padchest_has_one_patient_and_one_report(tmp_path: Path, column: str, second: str) -> None:
    """Rows of one StudyID that contradict each other name both lines; a blank in one of them does not."""
    common = {"ImageDir": "0", "StudyID": "s1", "PatientID": "p1", "Projection": "PA", "Report": "sin hallazg ."}
    message = rf"line 2 and .*line 3 are of one StudyID, with two values of {column}"
    for one, other in ((common[column], second), (common[column], ""), ("", common[column])):
        rows = [{**common, "ImageID": "a.png", column: one}, {**common, "ImageID": "b.png", column: other}]
        file = tmp_path / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
        with file.open("w", newline="", encoding="utf-8") as table:
            writer = csv.DictWriter(table, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        if one and other:
            with pytest.raises(DatasetError, match=message):
                read_studies("padchest", tmp_path)
        else:
            [study] = read_studies("padchest", tmp_path)
            assert (study.patient_id, study.sections) == ("p1", {"report": "sin hallazg ."})


def test_bimcv(tmp_path: Path) -> None:
    """A session is a study; its radiographs are in mod-rx, their names say the view; CT is not read."""
    labels = tmp_path / "derivatives" / "labels"
    labels.mkdir(parents=True)
    lines = ["\tPatientID\tReportID\tReport\tLabels", "0\tsub-S1\tses-E1\tsin infiltr .\t['normal']"]
    (labels / "labels_covid19_posi.tsv").write_text("\n".join(lines), encoding="utf-8")
    picture(tmp_path / "sub-S1" / "ses-E1" / "mod-rx" / "sub-S1_ses-E1_run-1_bp-chest_vp-pa_cr.png")
    picture(tmp_path / "sub-S1" / "ses-E1" / "mod-ct" / "x.png")
    [study] = read_studies("bimcv", tmp_path)
    assert (study.patient_id, study.views, study.sections) == ("sub-S1", ("pa",), {"report": "sin infiltr ."})


@pytest.mark.parametrize("prefix", ["", "../"])
def test_rexgradient(tmp_path: Path, prefix: str) -> None:
    """One file a split; image paths may begin above the folder of the metadata."""
    key = "pGRDN1AB_aGRDN2CD_s1.2"
    image = f"deid_png/GRDN1AB/GRDN2CD/0.png"  # noqa: F541 - one line with the path above
    entry = {"Indication": "cough", "Comparison": None, "Findings": "Clear.", "Impression": "Normal."}
    entry |= {"PatientSex": "F", "PatientAge": "044Y", "ImagePath": [prefix + image], "ImageViewPosition": [None]}
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "valid_metadata.json").write_text(json.dumps({key: entry}), encoding="utf-8")
    picture(tmp_path / image)
    [study] = read_studies("rexgradient", tmp_path)
    assert (study.split, study.patient_id, study.labels["age"]) == ("val", "GRDN1AB", "044Y")
    assert study.images[0].is_file()
    assert study.sections == {"indication": "cough", "findings": "Clear.", "impression": "Normal."}


def test_webdataset(tmp_path: Path) -> None:
    """Samples of a tar file; texts from .txt or .json; a damaged file is an error."""

    def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))

    shard = tmp_path / "shards" / "train-0000.tar"
    shard.parent.mkdir()
    with tarfile.open(shard, "w") as archive:
        add(archive, "0001.png", png(1))
        add(archive, "0001.txt", b"Clear.")
        add(archive, "0002.PNG", png(2))
        add(archive, "0002.json", json.dumps({"findings": "Edema.", "patient": 5, "age": 61}).encode())
    first, second = read_studies("webdataset", shard.parent, tmp_path / "cache")
    assert (first.study_id, first.split, first.sections) == ("train-0000/0001", "train", {"report": "Clear."})
    assert (second.patient_id, second.sections, second.labels) == ("5", {"findings": "Edema."}, {"age": "61"})
    assert second.images[0].read_bytes() == png(2)
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(DatasetError, match=r"train-0000.tar is not a complete tar archive"):
        read_studies("webdataset", shard.parent, tmp_path / "cache")


def test_folders_as_they_are_published(tmp_path: Path) -> None:
    """`PNG/` of CheXpert Plus and `VQA_RAD Image Folder` need no moving of files."""
    names = ("narrative", "clinical_history", "history", "comparison", "technique", "findings", "impression", "summary")
    columns = ["path_to_image", "frontal_lateral", "ap_pa", "deid_patient_id", "split", "report"]
    columns += [f"section_{name}" for name in names]
    path = "train/patient1/study2/view1_frontal.jpg"
    raw = "ACCESSION NUMBER: 5 FINDINGS: Clear."
    with (tmp_path / "df_chexpert_plus_240401.csv").open("w", newline="", encoding="utf-8") as file:
        row = [path, "Frontal", "AP", "patient1", "train", raw, *("Clear." if n == "findings" else "" for n in names)]
        csv.writer(file).writerows([columns, row])
    picture(tmp_path / "PNG" / "train" / "patient1" / "study2" / "view1_frontal.png")
    [study] = load_studies(Source("chexpert_plus", str(tmp_path)))
    assert study.images[0].is_file()
    assert study.text(("findings", "impression", "report")) == "Clear."
    row_of_vqa = {"qid": 1, "image_name": "syn1.jpg", "image_case_url": "u", "question": "What?", "answer": 3}
    (tmp_path / "VQA_RAD Dataset Public.json").write_text(json.dumps([row_of_vqa]), encoding="utf-8")
    picture(tmp_path / "VQA_RAD Image Folder" / "syn1.jpg")
    [study] = read_studies("vqa_rad", tmp_path)
    assert study.images[0].is_file()
    assert study.sections == {"report": "3"}


def test_a_part_of_mimic_with_its_sectioned_table(tmp_path: Path) -> None:
    """Only the studies that were downloaded; the sections of the table are used where it is there. All is made up."""
    rows = [["a-1", "5", "10000032", "train"], ["b-1", "6", "11000032", "validate"]]
    for name, header, body in (
        ("split", ["dicom_id", "study_id", "subject_id", "split"], rows),
        ("metadata", ["dicom_id", "ViewPosition"], [["a-1", "PA"], ["b-1", "AP"]]),
    ):
        with (tmp_path / f"mimic-cxr-2.0.0-{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *body])
    picture(tmp_path / "files" / "p10" / "p10000032" / "s5" / "a-1.jpg")
    with pytest.raises(DatasetError, match=r"s5.txt does not exist"):
        read_studies("mimic_cxr", tmp_path)
    report = tmp_path / "files" / "p10" / "p10000032" / "s5.txt"
    report.write_text("FINAL REPORT\nFINDINGS:\nLUNGS: No fish.", encoding="utf-8")
    [study] = read_studies("mimic_cxr", tmp_path)
    assert study.text(("findings", "impression", "report")) == "LUNGS: No fish."
    sectioned = ["study", "impression", "findings", "last_paragraph", "comparison"]
    with (tmp_path / "mimic_cxr_sectioned.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([sectioned, ["s5", "No fish.", "", "", ""]])
    [study] = read_studies("mimic_cxr", tmp_path)
    assert study.sections == {"impression": "No fish."}
    with (tmp_path / "mimic_cxr_sectioned.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([sectioned, ["s5", "", "nan", "A fish.", "None"]])
    assert read_studies("mimic_cxr", tmp_path)[0].sections == {"report": "A fish."}
