"""validate_data finds what is wrong with a data set, and nothing where nothing is wrong."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from tokenizers import Tokenizer, models, pre_tokenizers

from training.datasets.checks.calibrate import calibrate
from training.datasets.checks.duplicates import DISTANCE, exact_groups, near_pairs
from training.datasets.checks.image_facts import examine_image, examine_images, perceptual_hash
from training.datasets.source import Source
from training.settings import DatasetSettings
from training.validate_data import Check, main, validate


def picture(seed: int, size: int = 160) -> Image.Image:
    """A smooth picture that no other seed gives."""
    noise = np.random.default_rng(seed).integers(0, 255, (12, 12), dtype=np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, str]]:
    """Eight studies of eight patients with one picture each, four of them for training."""
    (tmp_path / "images").mkdir()
    rows = []
    for i in range(8):
        picture(i).save(tmp_path / "images" / f"{i}.png")
        split = "train" if i < 4 else "val" if i < 6 else "test"
        rows.append(
            {"file": f"{i}.png", "patientid": f"p{i}", "split": split, "report": f"Finding number {i}.", "view": "PA"}
        )
    return rows


def kinds(folder: Path, rows: Sequence[dict[str, str]], **source: object) -> dict[str, int]:
    """What is found, by kind."""
    (folder / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    source = {"missing_images": 1.0} | source
    check = {name: source.pop(name) for name in ("tokenizer", "max_tokens") if name in source}
    _, findings, _ = validate(Check(Source("pairs", str(folder), **source), **check))  # type: ignore[arg-type]
    return {finding.kind: finding.count for finding in findings}


def test_nothing_is_found_in_a_sound_data_set(rows: list[dict[str, str]], tmp_path: Path) -> None:
    """Different patients, pictures and texts give no finding at all."""
    assert kinds(tmp_path, rows) == {}


def test_a_patient_in_two_splits_is_leakage(rows: list[dict[str, str]], tmp_path: Path) -> None:
    """One patient in training and test is found as such."""
    rows[7]["patientid"] = "p0"
    assert kinds(tmp_path, rows) == {"patient_leakage": 1}


@pytest.mark.parametrize(
    ("other", "split", "patient", "kind"),
    [
        ("exact", "test", "p7", "exact_image_leakage"),
        ("exact", "train", "p7", "exact_duplicates"),
        ("exact", "train", "p0", "exact_repeats"),
        ("near", "test", "p7", "near_image_leakage"),
        ("near", "train", "p7", "near_duplicates"),
        ("near", "train", "p0", "near_repeats"),
    ],
)
def test_a_picture_that_is_there_twice_is_found(
    *, rows: list[dict[str, str]], tmp_path: Path, other: str, split: str, patient: str, kind: str
) -> None:
    """As the same bytes or recompressed and half as large: leakage across splits, else a duplicate or a repeat."""
    rows[7] |= {"split": split, "patientid": patient}
    if other == "exact":
        shutil.copy(tmp_path / "images" / "0.png", tmp_path / "images" / "7.png")
    else:
        rows[7]["file"] = "7.jpg"
        (tmp_path / "images" / "7.png").unlink()
        picture(0).resize((80, 80)).save(tmp_path / "images" / "7.jpg", quality=60)
    assert kinds(tmp_path, rows) == {kind: 1}


def test_damaged_missing_and_refused_files_are_told_apart(rows: list[dict[str, str]], tmp_path: Path) -> None:
    """A truncated file is corrupt, an absent one missing, a flat one refused, an extra one unnamed."""
    images = tmp_path / "images"
    images.joinpath("0.png").write_bytes(images.joinpath("0.png").read_bytes()[:-400])
    images.joinpath("1.png").unlink()
    Image.new("L", (60, 60), 7).save(images / "2.png")
    picture(99).save(images / "extra.png")
    found = kinds(tmp_path, rows)
    assert found == {"images_corrupt": 1, "images_missing": 1, "images_refused": 1, "images_unnamed": 1}


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ("P0", "p0", "patients_alike"),
        ("7", "007", "patients_alike"),
        ("7", "7.0", "patient_leakage"),
        ("p\u200b0", "p0", "patient_leakage"),
        ("\u00e9", "e\u0301", "patient_leakage"),
    ],
)
def test_one_patient_written_in_two_ways(
    rows: list[dict[str, str]], tmp_path: Path, one: str, other: str, kind: str
) -> None:
    """Is one where nobody sees the difference; else it may be, which is said instead of "no leakage"."""
    rows[0]["patientid"], rows[7]["patientid"] = one, other
    assert kinds(tmp_path, rows) == {kind: 1}
    result, _, _ = validate(Check(Source("pairs", str(tmp_path))))
    assert "No leakage" not in result["verdict"]["text"]


@pytest.mark.parametrize("state", ["missing", "refused", "view"])
def test_a_data_set_without_a_usable_image_fails(rows: list[dict[str, str]], tmp_path: Path, state: str) -> None:
    """Also where all images are allowed to be missing: there is nothing to train on or to score."""
    for i, row in enumerate(rows):
        file = tmp_path / "images" / row["file"]
        if state == "missing":
            file.unlink()
        elif state == "refused":
            Image.new("L", (60, 60), 7 + i).save(file)
        elif i:
            file.unlink()
        row["view"] = "PA" if i else "LATERAL"
    assert kinds(tmp_path, rows, views=("PA",) if state == "view" else ())["nothing_usable"] == 0


def test_what_was_not_checked_is_said(rows: list[dict[str, str]], tmp_path: Path) -> None:
    """Missing images, studies after a limit, and images that features were taken of: no word of "no leakage"."""
    (tmp_path / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    source = {"format": "pairs", "path": str(tmp_path), "missing_images": 1.0}

    def judge(limit: int | None = None, **more: object) -> str:
        result, _, _ = validate(Check(DatasetSettings(**source, **more), limit))  # type: ignore[arg-type]
        return str(result["verdict"]["text"])

    assert judge() == "No leakage; no corrupt image."
    assert judge(5) == "No leakage; no corrupt image of the first 5 studies."
    (tmp_path / "images" / "0.png").unlink()
    assert judge().startswith("No leakage; no corrupt image among the 7 of 8 images that are here.")
    shutil.rmtree(tmp_path / "images")
    assert "leak" not in judge()
    said = judge(features="features.h5")
    assert said.startswith("No patient is in two splits; images were not checked: none of the 8 is here.")


def test_studies_without_the_wanted_view_are_counted(rows: list[dict[str, str]], tmp_path: Path) -> None:
    """Training leaves them out, which it must not do without a word."""
    for number, row in enumerate(rows):
        row["view"] = "PA" if number < 3 else "LATERAL"

    assert kinds(tmp_path, rows, views=("PA",)).get("views") == len(rows) - 3
    assert "views" not in kinds(tmp_path, rows)


def test_empty_repeated_and_cut_reports_are_counted(rows: list[dict[str, str]], tmp_path: Path) -> None:
    """Blank texts, texts of several studies, marks of de-identification, and texts of more tokens than fit."""
    rows[0]["report"] = "  "
    for i in (1, 2, 3):
        rows[i]["report"] = "No  finding."
    rows[4]["report"] = "Compared with XXXX one two three four"
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))  # noqa: S106 - a token of text
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = kinds(tmp_path, rows, tokenizer=tmp_path, max_tokens=6)
    assert found == {"reports_empty": 1, "reports_repeated": 3, "reports_deidentified": 1, "reports_cut": 1}


def test_splits_are_drawn_where_the_data_set_has_none(rows: list[dict[str, str]], tmp_path: Path) -> None:
    """The result says so; two seeds give two splits; a picture of two patients can leak then."""
    for row in rows:
        del row["split"]
    (tmp_path / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    result, _, _ = validate(Check(Source("pairs", str(tmp_path), split_seed=3)))
    assert "drawn by patient with seed 3" in result["source"]["splits"]
    assert sum(counts["studies"] for counts in result["counts"].values()) == 8


def test_near_pairs_are_those_of_a_plain_loop() -> None:
    """Blocks and words give the pairs that comparing every two hashes gives, the closest first."""
    bits = np.random.default_rng(0).integers(0, 2**64, (700, 4), dtype=np.uint64)
    bits[650] = bits[3] ^ np.uint64(1)
    bits[651] = bits[300]
    pairs = near_pairs(bits, 100)
    expected = {
        (i, j, int(np.bitwise_count(bits[i] ^ bits[j]).sum()))
        for i in range(700)
        for j in range(i + 1, 700)
        if np.bitwise_count(bits[i] ^ bits[j]).sum() <= 100
    }
    assert {tuple(pair) for pair in pairs.tolist()} == expected
    assert pairs[0].tolist() == [300, 651, 0]
    assert pairs[1].tolist() == [3, 650, 4]
    assert (np.diff(pairs[:, 2]) >= 0).all()


def test_exact_groups_leave_out_files_without_a_digest() -> None:
    """Two missing files are not copies of each other."""
    assert exact_groups(["a", "", "b", "", "a", "c", "b"]) == [[0, 4], [2, 6]]


def test_a_hash_survives_what_happens_between_data_sets() -> None:
    """Resized, stretched and brightened, a picture stays within the distance; a mirrored one does not."""
    original = picture(5)
    bits = perceptual_hash(original)
    gray = np.asarray(original).astype(float)
    brighter = Image.fromarray((gray * 0.8 + 30).astype(np.uint8))
    for copy in (original.resize((90, 90)), original.resize((200, 150)), brighter):
        assert np.bitwise_count(bits ^ perceptual_hash(copy)).sum() <= DISTANCE
    mirrored = original.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert np.bitwise_count(bits ^ perceptual_hash(mirrored)).sum() > 2 * DISTANCE


def test_several_processes_see_what_one_sees(tmp_path: Path) -> None:
    """The facts of images, in order, do not depend on the number of processes."""
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths[:4]):
        picture(i).save(path)
    assert [(f.digest, f.mean) for f in examine_images(paths, 2)] == [
        (f.digest, f.mean) for f in map(examine_image, paths)
    ]


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["validate_data", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_the_command_writes_page_and_json_and_ends_as_it_says(
    rows: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 for a sound data set, 1 for leakage, 2 for none; texts of the data set cannot become HTML of the page."""
    config, out = tmp_path / "mine.yaml", tmp_path / "out"
    config.write_text(f"dataset: {{format: pairs, path: {tmp_path}}}\nseed: 4\n", encoding="utf-8")
    rows[0]["report"] = rows[1]["report"] = "<script>alert(1)</script>"
    (tmp_path / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    assert run([str(config), "--out", str(out), "--jobs", "1"], monkeypatch) == 0
    assert json.loads((out / "validation.json").read_text())["states"] == {"intact": 8}
    page = (out / "validation.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert page.count("data:image/png;base64,") >= 5
    assert "http" not in page.replace("http-equiv", "")
    rows[7]["patientid"] = "p0"
    (tmp_path / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    assert run(["pairs", str(tmp_path), "--out", str(out), "--jobs", "1"], monkeypatch) == 1
    assert "patients in more than one split: 1 of 7" in capsys.readouterr().out
    assert run(["pairs", str(tmp_path / "nowhere"), "--out", str(out)], monkeypatch) == 2
    assert "nowhere does not exist" in capsys.readouterr().err


def test_a_data_set_without_any_text_is_an_error(
    rows: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is nothing to learn from it."""
    (tmp_path / "pairs.json").write_text(json.dumps([{**row, "report": ""} for row in rows]), encoding="utf-8")
    assert run(["pairs", str(tmp_path), "--out", str(tmp_path / "out"), "--jobs", "1"], monkeypatch) == 1
    said = capsys.readouterr().out
    assert "no study has a text" in said
    assert "Do not train on this yet: reports empty" in said


def test_vindr_has_labels_and_no_reports(
    rows: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its tables, which are laid out here as they are published, are refused, and the table of formats says so."""
    table = tmp_path / "image_labels_train.csv"
    lines = ["image_id,rad_id,Aortic enlargement,Atelectasis,No finding", *(f"{i},R1,0,1,0" for i in range(len(rows)))]
    table.write_text("\n".join(lines), encoding="utf-8")
    config = tmp_path / "vindr.yaml"
    columns = "{id: image_id, image: image_id}"
    config.write_text(
        f"dataset: {{format: table, path: {table}, image_folder: {tmp_path / 'images'}, columns: {columns}}}",
        encoding="utf-8",
    )
    assert run([str(config), "--out", str(tmp_path / "out"), "--jobs", "1"], monkeypatch) == 1
    assert "no study has a text" in capsys.readouterr().out
    page = (Path(__file__).parents[3] / "docs" / "training-data.md").read_text(encoding="utf-8")
    assert "| none | VinDr-CXR" in page


def test_calibration_finds_made_copies(tmp_path: Path) -> None:
    """Recompressed copies are found by every hash at its widest distance."""
    paths = []
    for i in range(6):
        paths.append(tmp_path / f"{i}.png")
        picture(i).save(paths[-1])
    lines = calibrate(paths, [None] * 6, [str(i) for i in range(6)], copies=3)
    widest = [line for line in lines if line.startswith("| DCT, 256 bits | 24")]
    assert "| 0 | 0 | 1.000 | 1.000 |" in widest[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folder", "limit", "found"),
    [
        # A tenth of it, with one of its pairs; the rest of the images is not named then.
        (
            "open_radiology",
            "open_radiology",
            600,
            {"near_duplicates": 1, "reports_repeated": 559, "reports_across_splits": 61, "images_unnamed": 5468},
        ),
        pytest.param(
            "open_radiology",
            "open_radiology",
            None,
            {"near_duplicates": 21, "reports_repeated": 5980, "near_repeats": 197, "reports_across_splits": 667},
            marks=pytest.mark.exhaustive,
        ),
        (
            "openi_xml",
            "iu_xray",
            None,
            {
                "images_missing": 7449,
                "reports_empty": 28,
                "images_unnamed": 4,
                "reports_repeated": 923,
                "reports_deidentified": 1855,
                "reports_across_splits": 170,
            },
        ),
    ],
)
def test_the_truth_about_the_real_data_sets(
    shared: Path, name: str, folder: str, limit: int | None, found: dict[str, int]
) -> None:
    """No leakage, no corrupt file; most images of iu_xray are not here; heads have approximate patients."""
    _, findings, _ = validate(Check(Source(name, str(shared / "data" / folder)), limit))
    assert {finding.kind: finding.count for finding in findings} == found


def test_the_module_runs_as_a_program() -> None:
    """`python -m training.validate_data --help` shows how it is used."""
    done = subprocess.run(
        [sys.executable, "-m", "training.validate_data", "--help"], capture_output=True, text=True, check=True
    )
    assert "FORMAT PATH" in done.stdout
