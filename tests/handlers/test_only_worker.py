"""With in-flight batching a model has one worker, whatever the management API is told."""

import subprocess
import sys
from pathlib import Path

import pytest

from handlers import only_worker
from handlers.only_worker import claim
from launcher.environment import ROOT

HOLD = (
    "import sys; from handlers.only_worker import claim; from pathlib import Path\n"
    "held = claim(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
)


def test_second_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    """Also when that was killed, as TorchServe does it; another model is free all the time."""
    model = tmp_path / "model"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, model], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(RuntimeError, match="set min_worker and max_worker to 1"):
            claim(model, seconds=0)
        claim(tmp_path / "other", seconds=0).close()
        first.kill()
        first.wait()
        claim(model).close()


@pytest.mark.parametrize(("free_after", "refused"), [(0.0, False), (9.9, False), (10.1, True)])
def test_a_successor_waits_for_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_after: float, refused: bool
) -> None:
    """As long as a worker may take to end that has been killed; its number is in the file."""
    clock, waits, held = [100.0], [], []

    def lock(file: object, _: int) -> None:
        held.append(file)
        if clock[0] < 100 + free_after:
            raise OSError

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(only_worker.fcntl, "lockf", lock)
    monkeypatch.setattr(only_worker.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(only_worker.time, "sleep", sleep)
    monkeypatch.setattr(only_worker.os, "getpid", lambda: 4711)
    if refused:
        with pytest.raises(RuntimeError, match="another worker serves this model"):
            claim(tmp_path / "model")
        assert held[-1].closed  # type: ignore[attr-defined]
    else:
        claim(tmp_path / "model").close()
        assert (tmp_path / "model.lock").read_bytes() == b"4711\n"
    assert max(waits, default=0) <= 0.1
