"""`python -m bridge deidentify`: copies for debugging identify nobody, nor do their names or the command's output."""

from io import BytesIO
from pathlib import Path

import pytest
import yaml
from pydicom import dcmread

from bridge.__main__ import main
from tests.bridge.planted import MARKERS, plant
from tests.dicom_files import dataset, encode, phantom


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration whose state folder is there. Libraries stay as they are: other tests run in this process."""
    monkeypatch.setattr("bridge.__main__.silence_libraries", lambda: None)
    (tmp_path / "state").mkdir()
    path = tmp_path / "bridge.yaml"
    path.write_text(yaml.safe_dump({"state": "state", "dicomweb": {"url": "http://127.0.0.1:1"}}))
    return path


def test_copies_have_the_picture_and_no_planted_identity(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Contents, names of the copies and both outputs have none of the strings, those of file names included."""
    files = tmp_path / "PLANTFOLDER"
    files.mkdir()
    (files / "PLANTFILE^ERIKA.dcm").write_bytes(encode(plant(dataset(phantom()))))
    (files / "PLANTDAMAGED.dcm").write_bytes(b"PLANTBYTES")
    (files / "PLANTUNNAMED.dcm").write_bytes(encode(dataset(phantom(), drop=("SOPInstanceUID",))))
    out = tmp_path / "out"

    assert main(["deidentify", str(config), str(files), "--out", str(out)]) == 1
    (copy,) = out.iterdir()
    written = "".join(capsys.readouterr())
    assert dcmread(BytesIO(copy.read_bytes())).PixelData == phantom().tobytes()
    assert copy.stat().st_mode & 0o077 == 0
    markers = (*MARKERS, "PLANTFOLDER", "PLANTFILE", "PLANTDAMAGED", "PLANTUNNAMED", "PLANTBYTES")
    assert [one for one in markers if one in written or one in copy.name or one.encode() in copy.read_bytes()] == []
    assert "file 1 of 3: it cannot be read as DICOM" in written
    assert "file 3 of 3: it has no SOP Instance UID" in written
    assert "burned into the pixels" in written


def test_a_copy_is_named_by_its_image_and_never_replaced(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twice into one folder: the first copy stays, and the second time is an error; headers alone can be copied."""
    source, out = tmp_path / "image.dcm", tmp_path / "out"
    source.write_bytes(encode(dataset(phantom())))
    command = ["deidentify", str(config), str(source), "--without-pixels", "--out", str(out)]

    assert [main(command), main(command)] == [0, 1]
    assert "PixelData" not in dcmread(next(out.iterdir()))
    assert "is there already" in capsys.readouterr().err
