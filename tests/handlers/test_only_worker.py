"""With in-flight batching a model has one worker, whatever the management API is told."""

import subprocess
import sys
from pathlib import Path

import pytest

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
