"""What a job says while it runs, where nobody watches a bar."""

import json

import pytest

from bulk import progress
from bulk.progress import Progress


def test_progress_is_logged_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts at the beginning, every few seconds, and at the end, which says whether the job was broken off."""
    monkeypatch.setattr(progress, "CALM_S", 0)
    with Progress(3, 5) as counted:
        counted.add(1, 1)
    with pytest.raises(OSError, match="full"), Progress(1, 1):
        raise OSError("full")
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.err.splitlines()]
    assert [line.pop("event") for line in lines] == ["begun", "progress", "ended", "begun", "broken_off"]
    assert {line.pop("program") for line in lines} == {"bulk"}
    assert lines[1] == {"time": lines[1]["time"], "studies": 5, "new": 3, "reports": 1, "errors": 1}
    assert captured.out == ""
