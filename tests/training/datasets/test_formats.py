"""Every format of data set is read: small files made here, and the real ones where they are present."""

import csv
import gzip
import io
import json
import re
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from training.datasets import FORMATS, read_studies
from training.datasets.formats.feature_json import read_embedding
from training.datasets.sections import split_sections
from training.datasets.source import Source, read_source
from training.datasets.study import DatasetError, Study


def picture(path: Path) -> Path:
    """A small gray ramp as an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.tile(np.arange(48, dtype=np.uint8) * 5, (40, 1))).save(path)
    return path


def table(path: Path, rows: list[list[str]], delimiter: str = ",") -> Path:
    """A CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def as_json(path: Path, contents: object) -> Path:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents), encoding="utf-8")
    return path


def test_the_id_of_xreport_is_the_file_name_up_to_the_first_dot(tmp_path: Path) -> None:
    """Text may hold the separator if it is quoted; a report whose image is missing still names one."""
    picture(tmp_path / "images" / "7.dcm.png")
    table(tmp_path / "XREPORT_dataset.csv", [["id", "text"], ["7", "clear; normal"], ["8", "effusion"]], ";")
    first, second = read_studies("xreport", tmp_path)
    assert first.sections == {"report": "clear; normal"}
    assert [image.name for image in first.images + second.images] == ["7.dcm.png", "8.png"]


def test_indiana_tables_are_joined_and_find_images_by_either_name(tmp_path: Path) -> None:
    """A report has the images and views of its projections; files may have Kaggle's or Open-i's names."""
    sections = ["indication", "comparison", "findings", "impression"]
    table(
        tmp_path / "indiana_reports.csv",
        [
            ["uid", "MeSH", "Problems", "image", *sections],
            ["1", "normal", "normal", "PA", "cough", "", "Clear.", ""],
            ["2", "", "", "", "", "", "", ""],
        ],
    )
    table(
        tmp_path / "indiana_projections.csv",
        [
            ["uid", "filename", "projection"],
            ["1", "1_IM-0001-4001.dcm.png", "Frontal"],
            ["1", "1_IM-0001-3001.dcm.png", "Lateral"],
        ],
    )
    picture(tmp_path / "images" / "CXR1_1_IM-0001-4001.png")
    picture(tmp_path / "images" / "1_IM-0001-3001.dcm.png")
    first, second = read_studies("indiana_csv", tmp_path)
    assert [image.name for image in first.images] == ["CXR1_1_IM-0001-4001.png", "1_IM-0001-3001.dcm.png"]
    assert (first.views, first.sections) == (("Frontal", "Lateral"), {"indication": "cough", "findings": "Clear."})
    assert (second.images, second.sections) == ((), {})


OPENI = """<eCitation><uId id="CXR3"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON"/><AbstractText Label="FINDINGS">Clear &amp; normal.</AbstractText></Abstract></Article>
</MedlineCitation><MeSH><major>normal</major></MeSH>
<parentImage id="CXR3_IM-1-1001"><caption>PA</caption></parentImage></eCitation>"""


def test_openi_is_read_from_the_archive_and_from_a_folder_alike(tmp_path: Path) -> None:
    """The archive, the folder that holds it and a folder of XML files give the same study."""
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml" / "3.xml").write_text(OPENI, encoding="utf-8")
    with tarfile.open(tmp_path / "NLMCXR_reports.tgz", "w:gz") as archive:
        archive.add(tmp_path / "xml" / "3.xml", "ecgen-radiology/3.xml")
    places = [tmp_path, tmp_path / "NLMCXR_reports.tgz", tmp_path / "xml"]
    studies = [read_studies("openi_xml", place, tmp_path)[0] for place in places]
    assert studies[0] == studies[1] == studies[2]
    assert studies[0].sections == {"findings": "Clear & normal."}
    assert studies[0].images == (tmp_path / "CXR3_IM-1-1001.png",)


def test_r2gen_keeps_its_splits_whatever_the_key_is_called(tmp_path: Path) -> None:
    """The record says the split; the patient is what the id begins with, or subject_id."""
    record = {"id": "CXR1_IM-1", "report": "Clear.", "image_path": ["CXR1_IM-1/0.png", "CXR1_IM-1/1.png"]}
    other = {"id": "b", "subject_id": 12, "report": "Clear.", "image_path": [], "split": "test"}
    as_json(tmp_path / "annotation.json", {"val": [record], "    ": [other]})
    first, second = read_studies("r2gen", tmp_path)
    assert (first.split, first.patient_id, len(first.images)) == ("val", "CXR1", 2)
    assert (second.split, second.patient_id) == ("test", "12")


def test_xraygpt_and_medicalgpt_are_told_apart(tmp_path: Path) -> None:
    """Images of one Open-i report share the patient; the list of MedicalGPT read as XrayGPT names the right format."""
    picture(tmp_path / "image" / "1384_1.png")
    notes = [{"image_id": name, "caption": "Clear."} for name in ("1384_1", "1384_2", "ab-c")]
    as_json(tmp_path / "filter_cap.json", {"annotations": notes})
    studies = read_studies("xraygpt", tmp_path)
    assert [study.patient_id for study in studies] == ["1384", "1384", None]
    assert studies[0].images[0].suffix == ".png"
    row = {"image": "images/1.jpg", "caption": "No.", "prompt": "Is there an effusion?"}
    as_json(tmp_path / "filter_cap.json", [row, row])
    first, second = read_studies("medicalgpt", tmp_path)
    assert first.labels == {"prompt": "Is there an effusion?"}
    assert first.patient_id is None
    assert first.unit == second.unit
    with pytest.raises(DatasetError, match="give the format medicalgpt"):
        read_studies("xraygpt", tmp_path)


def test_a_caption_folder_must_have_one_image(tmp_path: Path) -> None:
    """A folder is a study; one with two images is an error that names them."""
    as_json(tmp_path / "data002" / "caption.json", {"caption": "b"})
    as_json(tmp_path / "data001" / "caption.json", {"caption": "a"})
    picture(tmp_path / "data001" / "x.jpg")
    picture(tmp_path / "data002" / "y.png")
    assert [study.sections["report"] for study in read_studies("caption_folders", tmp_path)] == ["a", "b"]
    picture(tmp_path / "data002" / "z.png")
    with pytest.raises(DatasetError, match=r"data002 must have one image .* y.png, z.png"):
        read_studies("caption_folders", tmp_path)


def test_features_replace_images(tmp_path: Path) -> None:
    """The study names the file, from which the numbers are read when they are needed; a hole in them is an error."""
    as_json(tmp_path / "a.json", {"embedding": [0.5] * 512, "report": "Clear."})
    as_json(tmp_path / "b.json", {"embedding": [0.5, None], "report": "Clear."})
    first, second = read_studies("feature_json", tmp_path)
    assert first.images == ()
    assert first.features is not None
    assert read_embedding(first.features).shape == (512,)
    assert second.features is not None
    with pytest.raises(DatasetError, match=r"b.json.* embedding"):
        read_embedding(second.features)


def test_medgen_takes_the_patient_from_the_path(tmp_path: Path) -> None:
    """Paths of CheXpert Plus name the patient."""
    rows = [
        ["image_path", "diagnostic_prompt", "target_report"],
        ["train/patient00007/study1/view1_frontal.jpg", "Describe.", "Clear."],
        ["x/1.png", "Describe.", "Edema."],
    ]
    table(tmp_path / "final_dataset_latest.csv", rows)
    assert [study.patient_id for study in read_studies("medgen", tmp_path)] == ["patient00007", None]


def test_the_rows_of_a_chexpert_plus_study_become_one(tmp_path: Path) -> None:
    """Images of one study folder are one study, whose files may have been converted to PNG."""
    names = ("narrative", "clinical_history", "history", "comparison", "technique", "findings", "impression", "summary")
    columns = ["path_to_image", "frontal_lateral", "ap_pa", "deid_patient_id", "split", "report", "age"]
    columns += [f"section_{name}" for name in names]
    rows = [columns]
    for view, position in (("view1_frontal", "AP"), ("view2_lateral", "")):
        path = f"train/patient1/study2/{view}.jpg"
        kind = view.split("_")[1].capitalize()
        rows.append(
            [path, kind, position, "patient1", "valid", "FINDINGS: x", "61", *(f"the {name}" for name in names)]
        )
    table(tmp_path / "df_chexpert_plus_240401.csv", rows)
    picture(tmp_path / "train" / "patient1" / "study2" / "view1_frontal.png")
    [study] = read_studies("chexpert_plus", tmp_path)
    assert study.views == ("Frontal AP", "Lateral")
    assert [image.suffix for image in study.images] == [".png", ".jpg"]
    assert (study.split, study.sections["findings"], study.labels["age"]) == ("val", "the findings", "61")


def test_roco_is_read_in_its_three_shapes(tmp_path: Path) -> None:
    """Captions with tabs, Kaggle's tables and ROCOv2; figures of one article share the patient."""
    folder = tmp_path / "one" / "validation" / "radiology"
    folder.mkdir(parents=True)
    (folder / "captions.txt").write_text('ROCO_1\t A "large mass.\nROCO_2\t CT.\n', encoding="utf-8")
    table(
        folder / "licences.txt", [["ROCO_ID", "PMC_ID", "CC"], *([f"ROCO_{i}", f"PMC77_f{i}.jpg", ""] for i in (1, 2))]
    )
    table(
        tmp_path / "two" / "train" / "radiology" / "traindata.csv",
        [["id", "name", "caption"], ["1", "PMC5_x.jpg", "CT"]],
    )
    table(tmp_path / "three" / "test_captions.csv", [["ID", "Caption"], ["ROCOv2_2023_test_000001", "MRI"]])
    one, two, three = (read_studies("roco", tmp_path / name) for name in ("one", "two", "three"))
    assert [(study.split, study.unit) for study in one + two] == [
        ("val", "PMC77"),
        ("val", "PMC77"),
        ("train", "PMC5"),
    ]
    assert one[0].sections["report"] == 'A "large mass.'
    assert three[0].images == (tmp_path / "three" / "test" / "ROCOv2_2023_test_000001.jpg",)
    assert three[0].split == "test"
    file = tmp_path / "three" / "test_images" / "ROCOv2_2023_test_000001.jpg"
    file.parent.mkdir()
    file.write_bytes(b"x")
    assert read_studies("roco", tmp_path / "three")[0].images == (file,)


def test_mimic_is_read_from_its_tables_and_folders(tmp_path: Path) -> None:
    """One study a report, cut at its headings; its images are those of the split table. The text is made up."""
    header = ["dicom_id", "study_id", "subject_id", "split"]
    table(
        tmp_path / "mimic-cxr-2.0.0-split.csv.gz",
        [header, ["a-1", "5", "10000032", "train"], ["a-2", "5", "10000032", "train"]],
    )
    table(
        tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz", [["dicom_id", "ViewPosition"], ["a-1", "PA"], ["a-2", "LATERAL"]]
    )
    with pytest.raises(DatasetError, match=r"s5.txt does not exist; unpack mimic-cxr-reports.zip"):
        read_studies("mimic_cxr", tmp_path)
    report = tmp_path / "files" / "p10" / "p10000032" / "s5.txt"
    report.parent.mkdir(parents=True)
    report.write_text("MADE UP REPORT\n\nINDICATION: cough\n\nFINDINGS:\nNo fish\nis seen.\n", encoding="utf-8")
    [study] = read_studies("mimic_cxr", tmp_path)
    assert (study.patient_id, study.split, study.views) == ("10000032", "train", ("PA", "LATERAL"))
    assert study.sections == {"preamble": "MADE UP REPORT", "indication": "cough", "findings": "No fish\nis seen."}
    assert study.images[0] == tmp_path / "files" / "p10" / "p10000032" / "s5" / "a-1.jpg"


def test_sections_of_one_name_are_joined() -> None:
    """`FINDING` and `FINDINGS` are one section; a colon inside a sentence does not make a heading."""
    text = "FINDINGS: Lungs: clear.\nIMPRESSION: Normal.\n  FINDING: Stable."
    assert split_sections(text) == {"findings": "Lungs: clear.\nStable.", "impression": "Normal."}


def write_parquet(path: Path, shades: list[int]) -> None:
    """A file as RadImageNet-VQA has them, with one image a shade."""
    rows = []
    for shade in shades:
        buffer = io.BytesIO()
        Image.new("L", (40, 40), shade).save(buffer, "PNG")
        turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": f"shade {shade}"}]
        image = {"bytes": buffer.getvalue(), "path": None}
        rows.append({"image": image, "conversations": turns, "metadata": {"modality": "MR", "correct_text": None}})
    parquet.write_table(pa.Table.from_pylist(rows), path)


def test_parquet_images_are_written_as_far_as_they_are_read(tmp_path: Path) -> None:
    """With a limit only that many images are unpacked; one that several rows ask about is one file and one patient."""
    write_parquet(tmp_path / "train-00000-of-00001.parquet", [10, 10, 20, 30])
    write_parquet(tmp_path / "val-00000-of-00001.parquet", [40])
    cache = tmp_path / "cache"
    studies = read_studies("radimagenet_vqa", tmp_path, cache, limit=2)
    assert len(list(cache.iterdir())) == 1
    assert studies[0].images == studies[1].images
    studies = read_studies("radimagenet_vqa", tmp_path, cache)
    assert [study.split for study in studies] == ["train"] * 4 + ["val"]
    assert len(list(cache.iterdir())) == 4
    assert studies[2].sections == {"report": "shade 20"}
    assert studies[2].labels == {"modality": "MR", "prompt": "What is it?"}
    with pytest.raises(DatasetError, match="give as images the folder to write them to"):
        read_studies("radimagenet_vqa", tmp_path)


def test_pairs_of_one_study_are_joined(tmp_path: Path) -> None:
    """Objects of one uid are one study; a file that is listed twice is in it once."""
    rows = [
        {"file": "a.png", "uid": "1", "findings": "Clear.", "view": "PA"},
        {"file": "b.png", "uid": "1", "findings": "Clear."},
        {"file": "b.png", "uid": "1", "findings": "Clear."},
        {"file": "c.png", "report": None, "patientid": "9", "split": "test"},
    ]
    as_json(tmp_path / "pairs.json", rows)
    first, second = read_studies("pairs", tmp_path)
    assert [image.name for image in first.images] == ["a.png", "b.png"]
    assert first.views == ("PA", "")
    assert (second.patient_id, second.sections, second.split) == ("9", {}, "test")


@pytest.mark.parametrize("name", FORMATS)
def test_a_wrong_path_names_itself(name: str, tmp_path: Path) -> None:
    """Whatever the format, a path where nothing is gives an error with the path, not a traceback."""
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(DatasetError, match=path.name):
            read_studies(name, path, tmp_path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("id;txt\n1;a\n", r"no column text; its columns, separated by ';', are: id, txt"),
        ("id;text\n1;a;b\n", r"line 2 has 3 fields for 2 columns"),
        ("id;text\n1;a\n1;b\n", r"two studies '1'"),
        ('id;text\n1;"a\n', r"line 2: unexpected end of data"),
        ("id;text\n", r"has no study"),
    ],
)
def test_a_broken_table_names_the_line(contents: str, message: str, tmp_path: Path) -> None:
    """Errors name the file and the line or column."""
    (tmp_path / "XREPORT_dataset.csv").write_text(contents, encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        read_studies("xreport", tmp_path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ('[{"file": "a.png"}, 3]', r"entry 1 is int"),
        ('[{"name": "a.png"}]', r"entry 0 has no key file; its keys are: name"),
        ('{"file": "a.png"}', r"has dict where a list"),
        ('[{"file"', r"is not JSON: .*line 1"),
        ('[{"file": "a.png", "findings": 3}]', r"entry 0: findings is int; expected a text"),
        ('[{"file": "a.png", "split": "trian"}]', r"the split is 'trian'; allowed: train"),
    ],
)
def test_a_broken_json_names_the_entry(contents: str, message: str, tmp_path: Path) -> None:
    """Errors name the file and the entry or key."""
    (tmp_path / "pairs.json").write_text(contents, encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        read_studies("pairs", tmp_path)


def test_the_documentation_says_of_every_format_what_was_tried() -> None:
    """Data set, version, files, patient, splits, and whether the published files or only their layout were read."""
    text = (Path(__file__).parents[3] / "docs" / "training-data.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ][1:]
    assert [cells[0].strip("`") for cells in rows] == [
        *("table", "pairs", "webdataset"),
        *(name for name in FORMATS if name not in ("table", "pairs", "webdataset")),
    ]
    assert all(len(cells) == 7 and all(cells) for cells in rows)
    own = {"table", "pairs", "webdataset"}
    assert all(re.search("published file|layout", cells[-1]) for cells in rows if cells[0].strip("`") not in own)


def test_an_unknown_format_lists_the_known() -> None:
    """The message has every name that would be right."""
    with pytest.raises(DatasetError, match="is 'iuxray'; allowed: bimcv, caption_folders"):
        read_studies("iuxray", ".")


def test_a_study_has_one_view_an_image() -> None:
    """A study that says more views than it has images is refused when it is made."""
    with pytest.raises(DatasetError, match="0 images and 1 views"):
        Study("1", (), {}, "1", ("PA",), "", None, {})


@pytest.mark.parametrize(
    ("name", "folder", "studies", "images", "present", "splits"),
    [
        ("openi_xml", "iu_xray", 3955, 7470, 21, {None: 3955}),
        ("indiana_csv", "iu_xray", 3851, 7466, 21, {None: 3851}),
        ("r2gen", "iu_xray", 2955, 5910, 0, {"train": 2069, "val": 296, "test": 590}),
        ("pairs", "iu_xray", 16, 25, 25, {None: 16}),
        ("pairs", "covid_chestxray", 384, 384, 384, {None: 384}),
        ("vqa_rad", "vqa_rad_chest", 770, 104, 104, {None: 770}),
        ("open_radiology", "open_radiology", 6068, 6068, 6068, {"train": 5394, "val": 674}),
    ],
)
def test_the_real_files_have_what_their_sources_say(
    *, shared: Path, name: str, folder: str, studies: int, images: int, present: int, splits: dict[str | None, int]
) -> None:
    """Counts of studies, images, images that are here, and splits are those that the sources of the data state."""
    path = shared / "data" / folder
    read = read_studies(name, path, path / "images_320" if folder == "covid_chestxray" else None)
    files = {image for study in read for image in study.images}
    assert (len(read), len(files)) == (studies, images)
    assert sum(file.is_file() for file in files) == present
    assert Counter(study.split for study in read) == splits


def test_the_two_forms_of_the_real_indiana_reports_agree(shared: Path) -> None:
    """The XML and the table have the same findings for every report that both have, but for white space and case."""
    path = shared / "data" / "iu_xray"
    by_xml = {study.study_id: study.sections for study in read_studies("openi_xml", path)}
    by_table = {f"CXR{study.study_id}": study.sections for study in read_studies("indiana_csv", path)}
    assert by_table.keys() <= by_xml.keys()
    differing = [
        uid
        for uid, sections in by_table.items()
        if sections.get("findings", "").split() != by_xml[uid].get("findings", "").split()
    ]
    assert differing == []


def test_several_reports_of_a_study_are_further_references(tmp_path: Path) -> None:
    """Lists of texts, and other texts in rows of one study; what is the same is kept once, null is not a text."""
    rows = [
        {"file": "a.png", "uid": "1", "findings": ["Clear.", "No effusion.", None], "impression": "Normal."},
        {"file": "b.png", "uid": "1", "findings": "Clear.", "impression": "Normal."},
        {"file": "b.png", "uid": "1", "findings": "Lungs are clear."},
    ]
    as_json(tmp_path / "pairs.json", rows)
    [study] = read_studies("pairs", tmp_path)
    assert study.sections == {"findings": "Clear.", "impression": "Normal."}
    assert study.texts(("findings",)) == ("Clear.", "No effusion.", "Lungs are clear.")
    one = read_studies("pairs", as_json(tmp_path / "one.json", rows[1:2]))[0]
    assert one.further == ()
    as_json(tmp_path / "pairs.json", [{"file": "a.png", "report": ["Clear.", 3]}])
    with pytest.raises(DatasetError, match="entry 0: report is int; expected a text or null"):
        read_studies("pairs", tmp_path)


def test_what_is_learned_of_several_references_is_a_setting(tmp_path: Path) -> None:
    """The first, each, or all joined; sections and cleaning apply to every one."""
    reports = ["FINDINGS: 1. Clear.\nIMPRESSION: Normal.", "FINDINGS: No  effusion."]
    as_json(tmp_path / "pairs.json", [{"file": "a.png", "report": reports}])
    for references, texts in (
        ("first", ("Clear. Normal.",)),
        ("each", ("Clear. Normal.", "No effusion.")),
        ("joined", ("Clear. Normal. No effusion.",)),
    ):
        source = Source("pairs", str(tmp_path), references=references, clean=("enumeration", "whitespace"))
        [study] = read_source(source)
        assert source.choose_texts(study) == texts
    with pytest.raises(DatasetError, match=r"dataset\.references is 'all'; allowed: 'first', 'each', 'joined'"):
        Source(references="all")
