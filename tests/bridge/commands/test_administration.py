"""`python -m bridge queue`, on a queue with one study in each state."""

from pathlib import Path

import pytest
import yaml

from bridge.__main__ import main
from bridge.dicom.identity import SiteKey
from bridge.store.queue import OUTCOMES, Queue


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration file whose queue has studies 1.2.0 to 1.2.3, one for each outcome, and 1.2.9, which waits."""
    path = tmp_path / "bridge.yaml"
    path.write_text(yaml.safe_dump({"state": "state", "dicomweb": {"url": "http://127.0.0.1:1"}}))
    queue = Queue(tmp_path / "state" / "queue.sqlite")
    for number, outcome in enumerate(OUTCOMES):
        queue.notify(f"1.2.{number}", 0)
        job = queue.take()
        assert job is not None
        queue.finish(job, outcome, f"reason_{number}", "f")
    queue.notify("1.2.9", 0)
    queue.close()
    return path


def test_status_counts(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a state; the exit code says that something is dead."""
    assert main(["queue", str(config)]) == 1
    assert capsys.readouterr().out.split() == ["waiting", "1", *(word for name in OUTCOMES for word in (name, "1"))]


def test_list_names_studies_as_the_log_does(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """UIDs are shown only on request."""
    assert main(["queue", str(config), "list", "--state", "refused"]) == 0
    listed = capsys.readouterr().out
    assert main(["queue", str(config), "list", "--state", "refused", "--uids"]) == 0
    with_uids = capsys.readouterr().out

    assert SiteKey.load(config.parent / "state" / "site.key").pseudonym("1.2.2") in listed
    assert "reason_2" in listed
    assert "1.2.2" not in listed
    assert "1.2.2" in with_uids


def test_retry_brings_back_the_dead_or_one_study(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its name in the log or by its UID; an unknown name is an error."""
    name = SiteKey.load(config.parent / "state" / "site.key").pseudonym("1.2.0")

    assert main(["queue", str(config), "retry"]) == 0
    assert main(["queue", str(config), "retry"]) == 1
    assert main(["queue", str(config), "retry", name, "--state", "reported"]) == 0
    assert main(["queue", str(config), "retry", "1.2.1", "--state", "skipped"]) == 0
    assert main(["queue", str(config), "retry", "nobody"]) == 1
    capsys.readouterr()
    main(["queue", str(config)])
    assert "waiting   4\n" in capsys.readouterr().out


def test_pause_backup_and_purge(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each does what it says, and says so."""
    assert main(["queue", str(config), "pause"]) == 0
    main(["queue", str(config)])
    assert "paused" in capsys.readouterr().out
    assert main(["queue", str(config), "resume"]) == 0
    assert main(["queue", str(config), "backup", str(tmp_path / "copy.sqlite")]) == 0
    assert main(["queue", str(config), "purge", "--days", "0"]) == 0
    assert "4 finished studies removed" in capsys.readouterr().out
    assert (tmp_path / "copy.sqlite").stat().st_size > 0


def test_mistakes_are_exit_code_2(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No queue yet, an existing backup, no configuration."""
    assert main(["queue", str(config), "backup", str(config)]) == 2
    assert main(["queue", str(tmp_path / "none.yaml")]) == 2
    assert main([]) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize("days", ["-1", "nan", "soon"])
def test_purge_takes_no_negative_number_of_days(config: Path, days: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It would remove what is finished just now."""
    with pytest.raises(SystemExit):
        main(["queue", str(config), "purge", "--days", days])
    assert "--days" in capsys.readouterr().err
