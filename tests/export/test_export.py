"""Properties of the export and of the archive."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from export.export_onnx import TOLERANCE, compare, export_onnx
from export.package import write_archive
from export.verify import verify
from prelim.archive.archive import ARCHIVE_FILES, read_archive
from prelim.archive.manifest import MANIFEST
from prelim.errors import ArchiveError
from prelim.networks.model_folder import read_model_folder
from tests.tiny_model import CONFIG, png


def test_archive_config_survives_the_round_trip(tiny_archive: Path) -> None:
    """model.yaml of the archive equals that of the model folder; the manifest lists every file."""
    archive = read_archive(tiny_archive)

    assert archive.config.decoder.items() >= CONFIG.decoder.items()
    assert archive.config.preprocess == CONFIG.preprocess
    assert set(archive.files) == {path.name for path in tiny_archive.iterdir()} - {MANIFEST}
    assert set(archive.files) >= set(ARCHIVE_FILES)


@pytest.mark.parametrize("name", ["model.yaml", *ARCHIVE_FILES])
def test_changed_file_is_found(tiny_archive: Path, tmp_path: Path, name: str) -> None:
    """One changed byte in any file of an archive is an error at startup with its name."""
    folder = shutil.copytree(tiny_archive, tmp_path / "archive")
    contents = bytearray((folder / name).read_bytes())
    contents[len(contents) // 2] ^= 1
    (folder / name).write_bytes(contents)

    with pytest.raises(ArchiveError, match=name):
        read_archive(folder)


@pytest.mark.parametrize("name", [*ARCHIVE_FILES, "model.yaml"])
def test_missing_file_is_named(tiny_archive: Path, tmp_path: Path, name: str) -> None:
    """A missing file of an archive is an error at startup with its name."""
    folder = shutil.copytree(tiny_archive, tmp_path / "archive")
    (folder / name).unlink()

    with pytest.raises(ArchiveError, match=name):
        read_archive(folder)


def test_same_model_gives_same_files(tiny_archive: Path, tiny_dynamic_mar: Path) -> None:
    """A second export of the same model folder gives the same bytes."""
    with zipfile.ZipFile(tiny_dynamic_mar) as again:
        for name in ("model.yaml", *ARCHIVE_FILES, "vision.onnx.data", "connector.onnx.data"):
            assert (tiny_archive / name).read_bytes() == again.read(name), name


def test_wrong_export_fails(tmp_path: Path) -> None:
    """A file whose outputs differ from the network's is an error with the difference."""
    example = torch.randn(2, 4)
    export_onnx(nn.Linear(4, 3).eval(), example, tmp_path / "linear.onnx", inputs="x", outputs="y")

    with pytest.raises(ArchiveError, match="differs from PyTorch by"):
        compare(nn.Linear(4, 3), example, tmp_path / "linear.onnx")


def test_weights_are_in_a_separate_file(tiny_model: Path, tiny_archive: Path, tmp_path: Path) -> None:
    """The weights of a network are in a separate file, for memory mapping; it is checked like every file."""
    vision, images = read_model_folder(tiny_model).network.vision, torch.randn(3, 3, 64, 64)

    archive = read_archive(tiny_archive)

    assert set(archive.files) == {"model.yaml", *ARCHIVE_FILES, "vision.onnx.data", "connector.onnx.data"}
    assert (tiny_archive / "vision.onnx").stat().st_size < 500_000
    assert compare(vision, images, tiny_archive / "vision.onnx") <= TOLERANCE
    folder = shutil.copytree(tiny_archive, tmp_path / "archive")
    data = folder / "vision.onnx.data"
    data.write_bytes(bytes(data.stat().st_size))
    with pytest.raises(ArchiveError, match=r"vision\.onnx\.data has sha256"):
        read_archive(folder)


def test_separate_weights_are_reproducible(tmp_path: Path) -> None:
    """The same network gives the same two files."""
    network, example = nn.Linear(64, 32).eval().requires_grad_(False), torch.randn(2, 64)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        export_onnx(network, example, tmp_path / name / "vision.onnx", inputs="x", outputs="y")

    for name in ("vision.onnx", "vision.onnx.data"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_weights_of_a_session_are_mapped(tmp_path: Path) -> None:
    """After loading and running a network its weights are pages of the file, which processes share."""
    network, example = nn.Linear(4096, 4096).eval().requires_grad_(False), torch.randn(2, 3, 4096)
    export_onnx(network, example, tmp_path / "linear.onnx", inputs="x", outputs="y")
    code = (
        "import sys, re, pathlib, torch\n"
        "from prelim.encoding.onnx_session import OnnxSession\n"
        # Not Private_Dirty: that includes file pages that are not written to disk yet.
        "private = lambda: int(re.search(r'Anonymous: +(\\d+)', "
        "pathlib.Path('/proc/self/smaps_rollup').read_text())[1])\n"
        "before = private()\n"
        "session = OnnxSession(pathlib.Path(sys.argv[1]))\n"
        "session.run(torch.ones(2, 3, 4096))\n"
        "print(private() - before)"
    )

    command = [sys.executable, "-c", code, str(tmp_path / "linear.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)

    assert int(done.stdout) < 16_000, "kB of its own, for 64 MiB of weights"


def test_export_of_nan_fails(tmp_path: Path) -> None:
    """A network that returns NaN is refused even if its file also does; zeros are accepted."""
    zeros, not_numbers = nn.Linear(4, 3).eval(), nn.Linear(4, 3).eval()
    for linear, value in ((zeros, 0.0), (not_numbers, float("nan"))):
        for parameter in linear.parameters():
            nn.init.constant_(parameter, value)
    example = torch.randn(2, 4)

    assert export_onnx(zeros, example, tmp_path / "zeros.onnx", inputs="x", outputs="y") == 0
    with pytest.raises(ArchiveError, match="differs from PyTorch by nan"):
        export_onnx(not_numbers, example, tmp_path / "nan.onnx", inputs="x", outputs="y")


def test_archive_is_reproducible_and_complete(tiny_model: Path, tiny_mar: Path, tmp_path: Path) -> None:
    """The same folder gives the same .mar, which contains no pickles and works in a clean process."""
    again = write_archive(tiny_model, tmp_path, batching="in-flight", slots=8)
    image = tmp_path / "image.png"
    image.write_bytes(png())

    assert again.read_bytes() == tiny_mar.read_bytes()
    names = zipfile.ZipFile(again).namelist()
    assert not [name for name in names if name.endswith((".pt", ".pth", ".pkl", ".bin", ".ckpt"))]
    assert not [name for name in names if "architectures" in name or "__pycache__" in name]
    assert "UNVERIFIED: " in verify(again, image)


@pytest.mark.parametrize(
    ("what", "number"), [("slots", 0), ("slots", -1), ("slots", 257), ("workers", 0), ("workers", -1)]
)
def test_impossible_numbers_are_refused(what: str, number: int, tiny_model: Path, tmp_path: Path) -> None:
    """Before anything is written."""
    with pytest.raises(ArchiveError, match=f"{what} is {number}; allowed: 1 to"):
        write_archive(
            tiny_model, tmp_path / "store", batching="dynamic", **({"slots": 8, "workers": 1} | {what: number})
        )
    assert not (tmp_path / "store").exists()


def test_several_workers_need_dynamic_batching(tiny_model: Path, tmp_path: Path) -> None:
    """In-flight batching with several workers, which would hang, is refused before anything is written."""
    with pytest.raises(ArchiveError, match="workers is 2 with in-flight batching"):
        write_archive(tiny_model, tmp_path / "store", batching="in-flight", slots=8, workers=2)
    assert not (tmp_path / "store").exists()


def test_archive_sets_the_number_of_workers(tiny_dynamic_mar: Path) -> None:
    """TorchServe starts exactly the packaged number of workers."""
    with zipfile.ZipFile(tiny_dynamic_mar) as archive:
        config = yaml.safe_load(archive.read("model-config.yaml"))
    assert (config["minWorkers"], config["maxWorkers"], config["batchSize"]) == (2, 2, 4)
