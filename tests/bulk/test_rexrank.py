import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from bulk.rexrank import _write, main
from bulk.storage import Location
from bulk.studies import StudyList
from tests.tiny_model import png


@pytest.mark.slow
def test_predictions_join_the_studies(tiny_mar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every study keeps its entries; one without a report has an empty text, and the exit code says so."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png())
    studies = {
        "s1": {"image_path": ["a.png"], "context": "cough"},
        "s2": {"image_path": ["missing.png", "a.png"], "key_image_path": "a.png"},
        "s3": {"image_path": ["missing.png"]},
    }
    (tmp_path / "in.json").write_text(json.dumps(studies), encoding="utf-8")
    paths = [str(tmp_path / name) for name in ("in.json", "out.json", "images")]
    code = main([*paths, "--model", str(tiny_mar), "--workers", "1"])
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))

    assert code == 1
    assert all(found[key].keys() - studies[key].keys() == {"model_prediction"} for key in studies)
    assert found["s1"]["model_prediction"] == found["s2"]["model_prediction"] != ""
    assert found["s3"]["model_prediction"] == ""
    assert "study s3: the file does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (("in.csv", "out.json"), "in.csv is not called .json"),
        (("in.json", "no/out.json"), "out.json cannot be written"),
        (("in.json", "."), "cannot be written; give a file"),
    ],
)
def test_what_would_lose_the_reports_is_said_before(
    paths: tuple[str, str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not after hours of work."""
    with pytest.raises(SystemExit):
        main([str(tmp_path / paths[0]), str(tmp_path / paths[1]), "images", "--model", "nothing.mar"])
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_was_read_at_the_start_is_read_at_the_end(tmp_path: Path, encoding: str) -> None:
    """In the encodings of JSON, with a byte order mark or without: hours of reports must not be lost to one."""
    file = tmp_path / "in.json"
    file.write_bytes(json.dumps({"s1": {"image_path": ["ä.png"]}}, ensure_ascii=False).encode(encoding))
    assert [study.study_id for study in StudyList(Location.of(str(file))).read()] == ["s1"]
    # The second is of another list, whose reports are in the same folder.
    rows = [{"study_id": study_id, "report": "Ödem.", "message": None} for study_id in ("s1", "s9")]
    written: Any = SimpleNamespace(columns=lambda *_: iter([pa.Table.from_pylist(rows)]))
    assert _write(file, tmp_path / "out.json", written) == 0
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert found == {"s1": {"image_path": ["ä.png"], "model_prediction": "Ödem."}}
