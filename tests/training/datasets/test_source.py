"""Patients, targets and images of small data sets that are laid out as the published ones are."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from training.datasets.patients import find_patient
from training.datasets.source import Source, drop_missing_images, load_studies, read_source
from training.datasets.study import DatasetError, Study
from training.validate_data import Check, validate


def write_pairs(folder: Path, rows: list[dict[str, object]]) -> Path:
    """A data set in the format `pairs`, with every image that it names."""
    for row in rows:
        image = folder / "images" / str(row["file"])
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 40), len(str(row))).save(image)
    (folder / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def write_xreport(folder: Path, rows: list[list[str]]) -> Path:
    """A table `id;text` without images."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "XREPORT_dataset.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    return folder


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("p10_p10000_s0", "10000"),
        ("files/p10/p10000032/s50414267/x.jpg", "10000032"),
        ("train/patient42142/study5", "patient42142"),
        ("E:\\CheXpert\\train\\patient42142\\study5\\view1.jpg", "patient42142"),
        ("files\\p10\\p10000032\\s50414267", "10000032"),
        ("CXR2384_IM-0942", "CXR2384"),
        ("pGRDN004AB_aGRDN00D_s1.2.3", "GRDN004AB"),
        ("site1_0001", None),
        ("7", None),
    ],
)
def test_patients_are_found_in_published_ids_only(name: str, patient: str | None) -> None:
    """The first part of any other id may be a hospital."""
    assert find_patient(name) == patient


def test_unknown_patients_are_said_to_be_unknown_until_they_are_named(tmp_path: Path) -> None:
    """`id;text` says no patient: the page says so; a column or a pattern on the id names them."""
    rows = [[f"{i // 2}-{i}", f"report {i % 5}", f"p{i // 2}"] for i in range(40)]
    write_xreport(tmp_path, [["id", "text", "person"], *rows])
    source = Source("xreport", str(tmp_path), missing_images=1.0)
    result, findings, _ = validate(Check(source))
    assert {"patients_unknown", "reports_across_splits"} <= {finding.kind for finding in findings}
    assert "No leakage" not in result["verdict"]["text"]
    assert result["patients"] == 0
    for option in ({"patient_column": "person"}, {"patient_pattern": r"^(\d+)-"}):
        named = load_studies(Source("xreport", str(tmp_path), missing_images=1.0, **option))  # type: ignore[arg-type]
        splits = {
            study.patient_id: {one.split for one in named if one.patient_id == study.patient_id} for study in named
        }
        assert len(splits) == 20
        assert all(len(names) == 1 for names in splits.values())
    for option, message in (
        ({"patient_column": "patient"}, r"line 2 has no 'patient' .* it has: person"),
        ({"patient_pattern": "^x"}, "needs one group|finds no patient"),
        ({"patient_pattern": "("}, "needs one group"),
    ):
        with pytest.raises(DatasetError, match=message):
            load_studies(Source("xreport", str(tmp_path), **option))


@pytest.mark.parametrize("key", ["patientid", "patient_id", "patient", "subject_id"])
def test_pairs_know_the_usual_names_of_a_patient(tmp_path: Path, key: str) -> None:
    """Also as a number, and 0 is a patient and a study like any other."""
    rows: list[dict[str, object]] = [
        {"file": "a.png", "uid": 0, key: 0, "report": "Clear."},
        {"file": "b.png", "uid": 0, key: 0, "report": "Clear."},
    ]
    [study] = read_source(Source("pairs", str(write_pairs(tmp_path, rows))))
    assert (study.study_id, study.patient_id, len(study.images)) == ("0", "0", 2)
    rows[1][key] = 1
    with pytest.raises(DatasetError, match=r"entry 0 and .* entry 1 are of one uid, with two values of patient"):
        read_source(Source("pairs", str(write_pairs(tmp_path, rows))))


@pytest.mark.parametrize(("name", "split"), [("valid", "val"), ("Test", "test"), ("validate", "val"), ("", None)])
def test_known_names_of_splits_are_kept(tmp_path: Path, name: str, split: str | None) -> None:
    """In ReXrank's JSON, too; an unknown one is refused, not drawn again."""
    path = tmp_path / "file.json"
    entry = {"image_path": [], "report": "Clear.", "split": name}
    path.write_text(json.dumps({"p10_p10000_s0": entry}), encoding="utf-8")
    [study] = read_source(Source("rexrank", str(path)))
    assert (study.split, study.patient_id) == (split, "10000")
    path.write_text(json.dumps({"x": {**entry, "split": "odd"}}), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"study x: the split is 'odd'; allowed: train"):
        read_source(Source("rexrank", str(path)))


def test_articles_of_roco_in_two_splits_have_a_way_through(tmp_path: Path) -> None:
    """The published splits leak; "disjoint" keeps validation and test sets and trains on other articles."""
    for split, articles in (("train", (1, 2)), ("validation", (3,)), ("test", (2,))):
        folder = tmp_path / split / "radiology"
        folder.mkdir(parents=True)
        ids = [f"ROCO_{split}{article}" for article in articles]
        (folder / "captions.txt").write_text("".join(f"{name}\tA scan.\n" for name in ids), encoding="utf-8")
        rows = [f"{name}\tPMC{article}_f.jpg\tCC" for name, article in zip(ids, articles, strict=True)]
        (folder / "licences.txt").write_text("\n".join(["ROCO_ID\tPMC_ID\tLICENCE", *rows]), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"dataset.splits=disjoint"):
        load_studies(Source("roco", str(tmp_path)))
    kept = load_studies(Source("roco", str(tmp_path), splits="disjoint"))
    assert sorted((study.group, study.split) for study in kept) == [
        ("PMC1", "train"),
        ("PMC2", "test"),
        ("PMC3", "val"),
    ]
    _, findings, _ = validate(Check(Source("roco", str(tmp_path), splits="fixed", missing_images=1.0)))
    assert findings[0].kind == "patient_leakage"


def make_study(**sections: str) -> Study:
    """A study without images."""
    return Study("1", (), sections, "1", (), "", None, {})


def test_the_whole_report_is_never_a_target_on_top_of_its_sections() -> None:
    """`report` counts where none of the named sections is there."""
    names = ("findings", "impression", "report")
    assert make_study(findings="Clear.", report="ACCESSION 5 FINDINGS: Clear.").text(names) == "Clear."
    assert make_study(report="Clear.").text(names) == "Clear."
    assert make_study(indication="cough").text(names) == ""


def test_a_report_with_headings_is_cut_where_sections_are_wanted(tmp_path: Path) -> None:
    """Its preamble and accession line are not learned; with `report` alone the text stays as it is."""
    raw = "ACCESSION NUMBER: 123\nFINDINGS: Clear.\nIMPRESSION: Normal."
    write_pairs(tmp_path, [{"file": "a.png", "report": raw}])
    for sections, text in ((("findings", "impression", "report"), "Clear. Normal."), (("report",), raw)):
        source = Source("pairs", str(tmp_path), sections=sections)
        [study] = read_source(source)
        assert study.text(source.sections) == text


@pytest.mark.parametrize("text", ["XXXX", " ___ .", "[**Name**]", "", None])
def test_marks_alone_are_not_a_text(tmp_path: Path, text: str | None) -> None:
    """A report of which de-identification left nothing is not learned, and null is not "None"."""
    [study] = read_source(Source("pairs", str(write_pairs(tmp_path, [{"file": "a.png", "report": text}]))))
    assert study.sections == {}


def test_cleaning_is_a_setting(tmp_path: Path) -> None:
    """Steps are applied in their order; an unknown one is refused with the known ones."""
    folder = write_pairs(tmp_path, [{"file": "a.png", "report": "1. Clear  XXXX lungs."}])
    [study] = read_source(Source("pairs", str(folder), clean=("enumeration", "deidentified", "lowercase")))
    assert study.sections == {"report": "clear lungs."}
    with pytest.raises(DatasetError, match=r"dataset.clean has 'stem'; allowed: whitespace, deidentified"):
        read_source(Source("pairs", str(folder), clean=("stem",)))


def test_missing_images_have_a_limit(tmp_path: Path) -> None:
    """28 of 40 missing is an error for training and for validation; a limit that allows it leaves them out."""
    rows: list[dict[str, object]] = [{"file": f"{i}.png", "patient": i, "report": f"Report {i}."} for i in range(40)]
    write_pairs(tmp_path, rows)
    for i in range(28):
        (tmp_path / "images" / f"{i}.png").unlink()
    source = Source("pairs", str(tmp_path))
    with pytest.raises(DatasetError, match=r"28 of 40 images .*0.png; allowed: 1% \(dataset.missing_images\)"):
        drop_missing_images(load_studies(source), source)
    result, findings, _ = validate(Check(source))
    assert (result["verdict"]["level"], findings[0].kind) == ("error", "images_missing")
    allowed = Source("pairs", str(tmp_path), missing_images=0.7)
    studies, missing = drop_missing_images(load_studies(allowed), allowed)
    assert (len(studies), missing) == (12, 28)


def test_images_are_named_from_their_folder(tmp_path: Path) -> None:
    """That of the images, else that of the data set, also where the data set is a file."""
    write_pairs(tmp_path, [{"file": "a.png", "report": "Clear."}])
    file = str(tmp_path / "pairs.json")
    assert Source("pairs", file).image_root == Source("pairs", str(tmp_path)).image_root == tmp_path
    assert Source("pairs", file, image_folder=str(tmp_path / "images")).image_root == tmp_path / "images"


def test_only_chosen_views_are_used(tmp_path: Path) -> None:
    """A missing lateral image does not matter to a model of frontal ones; an unknown view lists the known."""
    rows: list[dict[str, object]] = [
        {"file": "l.png", "uid": "1", "view": "LATERAL", "report": "Clear."},
        {"file": "f.png", "uid": "1", "view": "PA", "report": "Clear."},
    ]
    write_pairs(tmp_path, rows)
    (tmp_path / "images" / "l.png").unlink()
    source = Source("pairs", str(tmp_path), views=("PA", "AP"))
    [study], missing = drop_missing_images(load_studies(source), source)
    assert ([image.name for image in study.images], missing) == (["f.png"], 0)
    with pytest.raises(DatasetError, match="its views are: 'LATERAL', 'PA'"):
        load_studies(Source("pairs", str(tmp_path), views=("frontal",)))


def test_the_right_picture_or_none(tmp_path: Path) -> None:
    """`scan.1` is not `scan.2.png`; suffixes in capitals and BMP are found; two pictures for one id are an error."""
    images = tmp_path / "images"
    images.mkdir()
    for name in ("scan.2.png", "pat1.v2.png", "C.PNG", "d.bmp"):
        Image.new("L", (40, 40)).save(images / name, format="PNG")
    ids = ["scan.1", "scan.2", "pat1", "pat1.v2", "C", "d"]
    write_xreport(tmp_path, [["id", "text"], *([name, "Clear."] for name in ids)])
    found = {study.study_id: study.images[0] for study in read_source(Source("xreport", str(tmp_path)))}
    there = {name: image.name for name, image in found.items() if image.is_file()}
    assert there == {"scan.2": "scan.2.png", "pat1.v2": "pat1.v2.png", "C": "C.PNG", "d": "d.bmp"}
    write_xreport(tmp_path, [["id", "text"], ["scan", "Clear."]])
    Image.new("L", (40, 40)).save(images / "scan.1.png")
    with pytest.raises(DatasetError, match=r"line 2: scan.1.png, scan.2.png fit the id"):
        read_source(Source("xreport", str(tmp_path)))


@pytest.mark.parametrize(
    "root", ["C:\\data\\", "d:/x/", "\\\\server\\share\\", "/home/someone/", "https://host/", "file:///C:/"]
)
def test_names_from_the_root_of_another_machine_are_found_below_the_folder(tmp_path: Path, root: str) -> None:
    """By as many of their folders as are there; the same are cut of every name, and none is taken for another."""
    names = [f"{root}set\\a\\1.png", f"{root}set\\b\\1.PNG", f"{root}set\\b\\2.jpg"]
    rows = [{"file": name, "report": f"Report {i}.", "patient": i} for i, name in enumerate(names)]
    (tmp_path / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    for file in ("a/1.png", "b/1.png", "b/2.jpg"):
        (tmp_path / "images" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / file).write_bytes(b"x")
    source = Source("pairs", str(tmp_path))
    found = [study.images[0].relative_to(tmp_path / "images").as_posix() for study in read_source(source)]
    assert found == ["a/1.png", "b/1.png", "b/2.jpg"]
    flat = Source("pairs", str(tmp_path), image_folder=str(tmp_path / "images" / "a"))
    with pytest.raises(
        DatasetError, match=r"b/1.PNG would be .*/a/1.png, but .*set/b was cut of it, and .*set of other"
    ):
        read_source(flat)
    (tmp_path / "pairs.json").write_text(json.dumps([rows[0], rows[2]]), encoding="utf-8")
    assert [study.images[0].is_file() for study in read_source(flat)] == [True, False]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("images/a.png", "a.png"),
        ("./images//sub/a.jpg", "sub/a.JPEG"),
        ("images\\a", "a.png"),
        (" a.png\n", "a.png"),
        ("ro\u0308ntgen.png", "r\u00f6ntgen.png"),
        ("r\u00f6ntgen.png", "ro\u0308ntgen.PNG"),
        ("a", "a.b.png"),
        ("images2/a.png", "a.png"),
        ("other/a.png", "a.png"),
    ],
)
def test_names_are_read_as_people_write_them(tmp_path: Path, name: str, file: str) -> None:
    """With the folder of images before them, as a Mac writes accents; the last three name another file."""
    there = tmp_path / "images" / file
    there.parent.mkdir(parents=True)
    there.write_bytes(b"x")
    (tmp_path / "pairs.json").write_text(json.dumps([{"file": name, "report": "Clear."}]), encoding="utf-8")
    [study] = read_source(Source("pairs", str(tmp_path)))
    assert study.images[0].is_file() is (name not in ("a", "images2/a.png", "other/a.png"))


@pytest.mark.parametrize(
    ("name", "begin"), [("C:\\d\\1.png", "C:"), ("\\\\s\\d\\1.png", "//"), ("s3://d/1.png", "s3:")]
)
def test_missing_images_of_another_machine_are_said_to_be_that(tmp_path: Path, name: str, begin: str) -> None:
    """By training and by validation, with what the folder of images must look like."""
    (tmp_path / "pairs.json").write_text(json.dumps([{"file": name, "report": "Clear."}]), encoding="utf-8")
    source = Source("pairs", str(tmp_path))
    with pytest.raises(DatasetError, match=rf"begins at {begin} is of another machine: in the image folder"):
        drop_missing_images(load_studies(source), source)
    _, findings, _ = validate(Check(source))
    assert f"begins at {begin} is of another machine" in findings[0].advice


def test_tables_of_several_splits_may_name_images_that_are_elsewhere(tmp_path: Path) -> None:
    """A path from the root that is on this disk, but not below the folder of the tables, is used as it is."""
    image = tmp_path / "elsewhere" / "a.png"
    image.parent.mkdir()
    image.write_bytes(b"x")
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        table = f"id,image,report\n{split},{image},Clear.\n"
        (tmp_path / "data" / split / "metadata.csv").write_text(table, encoding="utf-8")
    studies = read_source(Source("table", str(tmp_path / "data")))
    assert [(study.split, study.images) for study in studies] == [("test", (image,)), ("train", (image,))]


def test_features_that_are_not_numbers_are_an_error(tmp_path: Path) -> None:
    """NaN does not validate clean."""
    for i, value in enumerate((0.5, float("nan"))):
        (tmp_path / f"{i}.json").write_text(json.dumps({"embedding": [value] * 8, "report": f"R {i}."}))
    _, findings, _ = validate(Check(Source("feature_json", str(tmp_path))))
    assert (findings[0].kind, findings[0].level) == ("features_corrupt", "error")
    assert "1.json" in findings[0].examples[0]
