"""How long the queue is, and what is remembered of a measurement; no server is needed here."""

from pathlib import Path

import pytest

from launcher.admission import Records, Throughput, queue_length
from launcher.archives import CheckedArchive
from launcher.environment import ROOT
from launcher.ports import read_properties
from launcher.process import find_in_folder

FAST, SLOW = Throughput(10.0, 0.2, 4), Throughput(0.5, 6.0, 8)


@pytest.mark.parametrize(
    ("found", "max_wait_s", "places"),
    [
        ([FAST], 3.0, 30),
        # Five times a lone request: one second.
        ([FAST], 0.0, 10),
        # The queue of TorchServe is the same for all models.
        ([FAST, SLOW], 30.0, 15),
        ([SLOW], 0.0, 15),
        # Fewer would leave slots empty.
        ([SLOW], 0.1, 8),
    ],
)
def test_queue_is_what_can_be_answered_in_time(found: list[Throughput], max_wait_s: float, places: int) -> None:
    """Throughput times the longest wait."""
    assert queue_length(found, max_wait_s) == places


def test_measurement_belongs_to_archives_and_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found again for the same files only; a damaged record counts as none."""
    records = Records(tmp_path / "throughput.json")
    first, second = CheckedArchive(Path("a.mar"), "a", "1"), CheckedArchive(Path("b.mar"), "b", "2")
    assert records.read([first]) is None
    records.write({first: FAST})
    records.write({second: SLOW})
    assert records.read([second, first]) == [SLOW, FAST]
    assert records.read([CheckedArchive(Path("a.mar"), "a", "3")]) is None
    monkeypatch.setattr("platform.node", lambda: "another machine")
    assert records.read([first]) is None
    monkeypatch.undo()
    (tmp_path / "throughput.json").write_text("{", encoding="utf-8")
    assert records.read([first]) is None


def test_measurement_that_cannot_be_kept_is_made_again(tmp_path: Path) -> None:
    """As on a full disk: that does not end the start, which would leave a server behind."""
    records = Records(tmp_path / "missing" / "throughput.json")
    archive = CheckedArchive(Path("a.mar"), "a", "1")
    records.write({archive: FAST})
    assert records.read([archive]) is None


def test_no_setting_hides_the_measured_queue() -> None:
    """An archive's own jobQueueSize would win over what the launcher sets."""
    assert "\njobQueueSize:" not in (ROOT / "handlers" / "model-config.yaml").read_text(encoding="utf-8")
    assert float(read_properties(ROOT / "config.properties")["prelim_max_wait_s"]) == 0


def test_no_server_in_a_folder(tmp_path: Path) -> None:
    """Other programs that work there are not servers."""
    assert find_in_folder(tmp_path) is None
    assert find_in_folder(Path.cwd()) is None
