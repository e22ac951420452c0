"""What people have, through the commands that they type: checked, learned from, scored, encoded."""

import csv
import io
import json
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from openpyxl import Workbook
from PIL import Image
from pyarrow import parquet

from prelim.networks.model_folder import read_model_folder
from tests.archives import write_files
from tests.dicom_files import make_dicom, phantom
from tests.tiny_model import png
from tests.training.small_systems import sections
from training import evaluate, extract_features, validate_data
from training.data.examples import read_examples
from training.data.features import read_index
from training.data.images import Images
from training.settings import SettingsError
from training.train import read_command_line, train

COUNT = 12
SPLITS = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
REPORTS = ("No effusion, the heart is normal.", "Small left effusion.", "The heart is enlarged.")
COLUMNS = {"id": "Case", "image": "Picture", "report": "Text", "patient": "Person", "split": "Part"}


def rows(suffix: str) -> list[dict[str, object]]:
    """A spreadsheet of one's own, with the names of its columns."""
    return [
        {"Case": i, "Picture": f"{i}{suffix}", "Text": REPORTS[i % 3], "Person": f"p{i}", "Part": SPLITS[i]}
        for i in range(COUNT)
    ]


def write_pictures(folder: Path, suffix: str) -> Path:
    """One picture a row."""
    folder.mkdir(parents=True)
    for i in range(COUNT):
        file = folder / f"{i}{suffix}"
        file.write_bytes(make_dicom(np.roll(phantom(), i, axis=0)) if suffix == ".dcm" else png(i))
    return folder


def write_table(path: Path, table: list[dict[str, object]]) -> Path:
    """The kind of file that the suffix says."""
    names = list(table[0])
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([names, *(list(row.values()) for row in table)])
    elif path.suffix == ".xlsx":
        book = Workbook()
        for values in (names, *(list(row.values()) for row in table)):
            book.active.append(values)
        book.save(path)
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(table), path)
    else:
        path.write_text("\n".join(map(json.dumps, table)), encoding="utf-8")
    return path


def make_csv_and_png(folder: Path) -> dict[str, object]:
    """CSV and a folder of PNG."""
    return table_of(write_table(folder / "t.csv", rows(".png")), write_pictures(folder / "png", ".png"))


def make_excel_and_dicom(folder: Path) -> dict[str, object]:
    """Excel and a folder of DICOM."""
    return table_of(write_table(folder / "t.xlsx", rows(".dcm")), write_pictures(folder / "dicom", ".dcm"))


def make_parquet_and_zip(folder: Path) -> dict[str, object]:
    """Parquet and zipped images."""
    pictures = write_pictures(folder / "png", ".png")
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for file in sorted(pictures.iterdir()):
            archive.write(file, file.name)
    return table_of(write_table(folder / "t.parquet", rows(".png")), folder / "pictures.zip")


def make_references_and_frames(folder: Path) -> dict[str, object]:
    """JSON lines with several references a study, and pictures of two pages of which the second counts."""
    pictures = folder / "tif"
    pictures.mkdir()
    for i in range(COUNT):
        pages = [Image.open(io.BytesIO(png(seed))) for seed in (100 + i, i)]
        pages[0].save(pictures / f"{i}.tif", "TIFF", save_all=True, append_images=pages[1:])
    table = [{**row, "Text": [row["Text"], f"Reader two: {row['Text']}"]} for row in rows(".tif")]
    return table_of(write_table(folder / "t.jsonl", table), pictures) | {"frame": 2, "references": "each"}


def make_webdataset(folder: Path) -> dict[str, object]:
    """Tar files, one a split."""
    shards = folder / "shards"
    shards.mkdir()
    for split in ("train", "val", "test"):
        with tarfile.open(shards / f"{split}-0.tar", "w") as archive:
            for i in (i for i in range(COUNT) if SPLITS[i] == split):
                record = json.dumps({"report": REPORTS[i % 3], "patient": f"p{i}"}).encode()
                for name, data in ((f"{i}.png", png(i)), (f"{i}.json", record)):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return {"format": "webdataset", "path": str(shards), "image_folder": str(folder / "unpacked")}


def table_of(path: Path, pictures: Path) -> dict[str, object]:
    """Section dataset of a table."""
    return {"format": "table", "path": str(path), "image_folder": str(pictures), "columns": COLUMNS}


KINDS = (make_csv_and_png, make_excel_and_dicom, make_parquet_and_zip, make_references_and_frames, make_webdataset)


def run(monkeypatch: pytest.MonkeyPatch, module: object, *words: object) -> int:
    """The exit code of a command."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
    try:
        module.main()  # type: ignore[attr-defined]
    except SystemExit as end:
        if isinstance(end.code, str):  # the message of an error
            pytest.fail(end.code)
        return end.code or 0
    return 0


def write_config(folder: Path, dataset: dict[str, object], **changed: dict[str, object]) -> Path:
    """A configuration of two steps of a tiny model."""
    values = sections("xreport", folder, optimization={"epochs": 1, "batch_size": 4, "max_steps": 2}, **changed)
    values["dataset"] = {**dataset, "sections": ["report"]}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _without_meteor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its program takes seconds to start."""
    monkeypatch.setattr("training.evaluation.metrics.overlap.meteor_counts", lambda pairs: np.zeros((len(pairs), 23)))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model folder, and the folder of its archive."""
    folder = tmp_path_factory.mktemp("encoder")
    settings = read_command_line([str(write_config(folder, make_csv_and_png(folder)))])
    assert train(settings)
    archive = folder / "archive"
    archive.mkdir()
    write_files(read_model_folder(Path(settings.run.out)), archive)
    return Path(settings.run.out), archive


@pytest.mark.slow
@pytest.mark.parametrize("make", KINDS)
def test_data_of_ones_own_pass_through_every_command(
    tmp_path: Path,
    make: Callable[[Path], dict[str, object]],
    encoder: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One section `dataset` is enough for validation, training, evaluation and extraction of features."""
    config = write_config(tmp_path, make(tmp_path))
    assert run(monkeypatch, validate_data, config, "--jobs", 1, "--out", tmp_path / "page") == 0
    told = json.loads((tmp_path / "page" / "validation.json").read_text(encoding="utf-8"))
    assert told["states"] == {"intact": COUNT}
    assert {split: counts["studies"] for split, counts in told["counts"].items()} == {"train": 8, "val": 2, "test": 2}
    settings = read_command_line([str(config)])
    assert train(settings)
    several = settings.dataset.references == "each"
    assert f"{16 if several else 8} examples to train on" in capsys.readouterr().out
    model = Path(settings.run.out)
    assert run(monkeypatch, evaluate, model, "--out", tmp_path / "scores", "--draws", 9, "--min-count", 1) == 0
    text = (tmp_path / "scores" / "evaluation.md").read_text(encoding="utf-8")
    assert "2 studies of 2 patients, split test" in text
    assert ("2 of 2 studies have several references" in text) is several
    weights, archive = encoder
    assert run(monkeypatch, extract_features, archive, "--config", config, "--out", tmp_path / "features") == 0
    assert len(read_index(tmp_path / "features")["images"]) == COUNT
    again = ("model={}", f"start.weights={weights}", f"dataset.features={tmp_path / 'features'}")
    assert train(read_command_line([str(config), *again, f"run.folder={tmp_path / 'second'}"]))


def test_a_model_is_trained_on_in_its_own_folder(tmp_path: Path) -> None:
    """The frozen weights are mapped from the file that is written: it is replaced, not overwritten under them."""
    config = str(write_config(tmp_path, make_csv_and_png(tmp_path)))
    assert train(read_command_line([config]))
    again = ["model={}", f"start.weights={tmp_path / 'model'}", "freeze=[vision]", f"run.folder={tmp_path / 'second'}"]
    assert train(read_command_line([config, *again]))
    assert not list((tmp_path / "model").glob("*.part"))


def test_the_frame_that_is_learned_is_the_one_that_is_named(tmp_path: Path, encoder: tuple[Path, Path]) -> None:
    """Pixels of page 2 are those of the picture that was written there."""
    make_references_and_frames(tmp_path)
    config = read_model_folder(encoder[0]).config
    (tmp_path / "0.png").write_bytes(png(0))
    chosen = Images([tmp_path / "tif" / "0.tif"], config, frame=2)
    plain = Images([tmp_path / "0.png"], config)
    generator = torch.Generator()
    assert torch.equal(chosen.take([0], generator), plain.take([0], generator))


def test_features_in_json_are_learned_and_scored(
    tmp_path: Path, encoder: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`feature_json` passes through validation, training from the model of its encoder, and evaluation."""
    model = read_model_folder(encoder[0])
    images = Images(sorted(write_pictures(tmp_path / "png", ".png").iterdir()), model.config)
    with torch.no_grad():
        features = model.network.vision.eval()(images.take(range(COUNT), torch.Generator()))
    folder = tmp_path / "json"
    folder.mkdir()
    for i, one in enumerate(features.tolist()):
        record = {"embedding": one, "report": REPORTS[i % 3], "person": f"p{i}"}
        (folder / f"sample{i}.json").write_text(json.dumps(record), encoding="utf-8")
    dataset = {"format": "feature_json", "path": str(folder), "patient_column": "person", "split_seed": 1}
    config = write_config(tmp_path, dataset | {"val_fraction": 0.2, "test_fraction": 0.2})
    assert run(monkeypatch, validate_data, config, "--jobs", 1, "--out", tmp_path / "page") == 0
    again = ["model={}", f"start.weights={encoder[0]}", "optimization.batch_size=2"]
    settings = read_command_line([str(config), *again])
    told = json.loads((tmp_path / "page" / "validation.json").read_text(encoding="utf-8"))
    examples = read_examples(settings.dataset)
    assert told["counts"]["train"]["studies"] == len(examples.train)
    assert told["counts"]["val"]["studies"] == len(examples.val)
    assert "val 20%, test 20%" in told["source"]["splits"]
    assert train(settings)
    out = tmp_path / "scores"
    assert run(monkeypatch, evaluate, settings.run.out, "--out", out, "--draws", 9, "--min-count", 1) == 0
    assert "split test" in (out / "evaluation.md").read_text(encoding="utf-8")


def test_prompts_of_the_data_are_left_out_where_a_model_takes_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A data set may have questions: a remark says that they are not used. `dataset.prompts` is an error."""
    table = [{**row, "prompt": "What is it?"} for row in rows(".png")]
    dataset = table_of(write_table(tmp_path / "t.csv", table), write_pictures(tmp_path / "png", ".png"))
    config = str(write_config(tmp_path, dataset))
    assert train(read_command_line([config]))
    assert "xreport takes no prompts: those of the data set are not used" in capsys.readouterr().out
    with pytest.raises(SettingsError, match=r"dataset\.prompts is set, but xreport takes none; leave it out"):
        train(read_command_line([config, "dataset.prompts=[What]", f"run.folder={tmp_path / 'second'}"]))


def test_the_lines_of_the_documentation_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of docs/train.md that trains, with one process or several, from its words on."""
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    text = (root / "docs" / "train.md").read_text(encoding="utf-8")
    found = re.findall(r"^\S*(?:python|torchrun .*) -m training\.train (.*)$", text, flags=re.MULTILINE)
    assert len(found) == 3
    for words in (line.split() for line in found):
        if "run.resume=true" in words:  # whose folder is that of a run, see test_train
            assert words == ["run.resume=true", "run.folder=runs/mine"]
            continue
        assert read_command_line(words).run.out == "models/mine"


def test_torchrun_reads_its_line_of_the_documentation() -> None:
    """As it is written: its own options, the module, and the words for it; no process is started."""
    from torch.distributed.run import get_args_parser

    text = (Path(__file__).parents[2] / "docs" / "train.md").read_text(encoding="utf-8")
    [line] = re.findall(r"^\.venv/bin/torchrun (.*)$", text, flags=re.MULTILINE)
    read = get_args_parser().parse_args(line.split())
    assert (read.module, read.training_script, read.nproc_per_node) == (True, "training.train", "2")
    assert read_command_line(read.training_script_args).run.out == "models/mine"


def test_images_in_a_folder_of_their_own_are_encoded(
    tmp_path: Path, encoder: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`extract_features --images` names them from that folder, where training with the same setting looks for them."""
    write_pictures(tmp_path / "elsewhere", ".png")
    data = tmp_path / "data"
    data.mkdir()
    pairs = [{"file": f"{i}.png", "report": REPORTS[i % 3], "patient": i, "split": SPLITS[i]} for i in range(COUNT)]
    (data / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")
    config = write_config(tmp_path, {"format": "pairs", "path": str(data), "image_folder": str(tmp_path / "elsewhere")})
    words = ("--format", "pairs", "--data", data, "--images", tmp_path / "elsewhere", "--out", tmp_path / "features")
    assert run(monkeypatch, extract_features, encoder[1], *words) == 0
    again = ("model={}", f"start.weights={encoder[0]}", f"dataset.features={tmp_path / 'features'}")
    assert train(read_command_line([str(config), *again]))
