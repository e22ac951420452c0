"""How programs behave where no person watches; tests/launcher/test_interrupts.py has Ctrl-C."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from terminal import program
from terminal.arguments import positive
from terminal.program import sign_of_life

ROOT = Path(__file__).parents[1]
PACKAGES = ("benchmarks", "bridge", "bulk", "export", "launcher", "loadtests", "training")


def run_module(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run a module of a package that begins as ours do, without a terminal."""
    package = folder / "package"
    package.mkdir()
    (package / "__init__.py").write_text("from terminal.program import begin\nbegin()\n", encoding="utf-8")
    (package / "module.py").write_text(code, encoding="utf-8")
    return run_again(folder)


def run_again(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the module as it is."""
    command = [sys.executable, "-m", "package.module"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_progress_bars_are_calm_without_a_terminal(tmp_path: Path) -> None:
    """A bar is on stderr, even if it is not a terminal, and is not written for each of many quick steps."""
    done = run_module(
        tmp_path,
        "import time\nfrom tqdm import tqdm\nfor _ in tqdm(range(100), desc='images'):\n    time.sleep(0.01)\n",
    )

    assert done.stderr.strip().startswith("images:   0%")
    assert "100/100" in done.stderr
    assert done.stderr.count("images:") <= 3


def test_help_names_the_program_as_it_is_called(tmp_path: Path) -> None:
    """Not the name of its file, which nobody types, and with the line breaks of the docstring."""
    code = "from terminal.arguments import CommandLine\nCommandLine('first\\n  second').parse_args(['--help'])\n"
    done = run_module(tmp_path, code)

    assert done.stdout.startswith("usage: python -m package.module [-h]\n\nfirst\n  second\n"), done.stderr


def test_interrupt_is_one_line_and_other_errors_are_shown_whole(tmp_path: Path) -> None:
    """The process ends by the signal, as shells and make expect; a fault of the program still has its traceback."""
    # Tests that run in the background of a shell inherit that the signal is ignored.
    heed = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    interrupted = run_module(tmp_path, f"import os, signal\n{heed}\nos.kill(os.getpid(), signal.SIGINT)\n")
    (tmp_path / "package" / "module.py").write_text("raise ValueError('a fault')\n", encoding="utf-8")
    failed = run_again(tmp_path)

    assert (interrupted.stderr, interrupted.returncode) == ("interrupted\n", -2)
    assert "Traceback" in failed.stderr
    assert failed.returncode == 1


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("from prelim.errors import ArchiveError\nraise ArchiveError('a.mar is empty')", "a.mar is empty"),
        ("open('/nowhere/a.csv')", "/nowhere/a.csv: No such file or directory"),
        ("open('/')", "/: Is a directory"),
        ("import os\nos.mkdir('/')", "/: File exists"),
    ],
)
def test_what_is_written_for_the_user_is_one_line(code: str, line: str, tmp_path: Path) -> None:
    """Whichever program it is: no traceback, exit code 1."""
    done = run_module(tmp_path, code)

    assert (done.stderr, done.returncode) == (f"{line}\n", 1)


def test_every_program_begins_and_no_import_does() -> None:
    """`python -m` sets up a program of each package; an import of the same package changes nothing."""
    code = (
        "import os, sys\nbefore = sys.excepthook\n"
        f"for name in {PACKAGES}:\n    __import__(name)\nassert sys.excepthook is before\n"
        f"for name in {PACKAGES}:\n"
        "    del sys.modules[name]\n    sys.argv = ['-m']\n    sys.excepthook = before\n    __import__(name)\n"
        "    assert sys.excepthook is not before, name\n"
        "print(os.environ['TQDM_MININTERVAL'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )

    assert (done.stdout, done.stderr) == (f"{program.CALM_S}\n", "")


def test_sign_of_life_says_what_is_done(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What blocks is shown again and again with its time, in a program and not in those that it has started."""
    monkeypatch.delenv("PRELIM_PROGRAM", raising=False)
    monkeypatch.setattr(program, "CALM_S", 0.01)
    with sign_of_life("packaging"):
        time.sleep(0.3)
    shown = capsys.readouterr().err
    monkeypatch.setenv("PRELIM_PROGRAM", "1")
    with sign_of_life("packaging"):
        time.sleep(0.05)

    assert shown.count("packaging 00:00") >= 3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "", "x", "²", "٣"])
def test_a_number_of_things_is_positive(given: str) -> None:
    """None, less than none, and what is not a number are said to be that; 007 is 7."""
    assert positive("007") == 7
    with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number of 1 or more"):
        positive(given)
