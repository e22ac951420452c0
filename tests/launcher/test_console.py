"""The console's file, without a server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.console import keep, set_aside
from launcher.environment import ROOT
from terminal.log_lines import format_line, readable


def test_two_files_bound_what_is_kept(tmp_path: Path) -> None:
    """The newest output is kept, in at most two files of the limit and a chunk; nothing between them is lost."""
    path, lines = tmp_path / "console.log", b"".join(b"%07d\n" % i for i in range(100_000))
    (tmp_path / "printed").write_bytes(lines)
    source = os.open(tmp_path / "printed", os.O_RDONLY)
    try:
        keep(source, path, limit=150_000)
    finally:
        os.close(source)

    kept = (tmp_path / "console.1.log").read_bytes() + path.read_bytes()
    assert lines.endswith(kept)
    assert 150_000 <= len(kept) < 2 * (150_000 + (1 << 16))
    assert {file.name for file in tmp_path.iterdir()} == {"printed", "console.log", "console.1.log"}


def test_start_begins_an_empty_file_and_keeps_the_last_one(tmp_path: Path) -> None:
    """What a server printed before it crashed is still there after the next start."""
    path = tmp_path / "console.log"
    path.write_text("crashed", encoding="utf-8")
    set_aside(path)

    assert path.read_bytes() == b""
    assert (tmp_path / "console.1.log").read_text(encoding="utf-8") == "crashed"


def test_writer_ends_with_its_input(tmp_path: Path) -> None:
    """A line is in the file, and the writer ends with its input."""
    path = tmp_path / "console.log"
    command = [sys.executable, "-I", str(ROOT / "launcher" / "console.py"), str(path)]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert writer.stdin is not None
    writer.stdin.write(b"loading\n")
    writer.stdin.close()

    assert writer.wait(30) == 0
    assert path.read_bytes() == b"loading\n"


@pytest.mark.parametrize("given", [{}, {"ORT_DISABLE_TELEMETRY": "0"}])
def test_library_switches_telemetry_off_unless_told_otherwise(given: dict[str, str]) -> None:
    """`import prelim` is enough, without env.sh; who sets the variable decides."""
    code = "import os, prelim; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | given
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == given.get("ORT_DISABLE_TELEMETRY", "1")


def test_logged_lines_are_readable() -> None:
    """Messages as they were, in several lines too; events with their fields; what is not a logged line as it is."""
    lines = [
        "WARNING: of Java",
        '{"program":"torchserve","level":"INFO","event":"message","message":"a\\nb \\"c\\""}',
        format_line("torchserve", "answer", request="case-7", code=200),
        '{"x": 1}',
        "",
    ]
    assert readable("\n".join(lines)) == 'WARNING: of Java\nINFO a\nb "c"\nanswer request=case-7 code=200\n{"x": 1}\n'
