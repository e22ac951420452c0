"""The version says what runs: a release's only in that release, and after it the next one's with `.dev`."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from packaging.version import Version

import prelim
import prelim_client

ROOT = Path(__file__).resolve().parents[1]
CHANGES = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
RELEASED = [Version(section.split()[0]) for section in CHANGES if not section.startswith("Unreleased")]


def test_version_is_newer_than_the_last_release_while_there_are_unreleased_changes() -> None:
    """The sections of CHANGELOG.md are the releases, the newest first, as the tags are."""
    assert sorted(RELEASED, reverse=True) == RELEASED
    version = Version(prelim.__version__)
    if CHANGES[0].partition("\n")[2].strip():
        assert CHANGES[0].startswith("Unreleased")
        assert version.is_devrelease
        assert Version(version.base_version) > RELEASED[0]
    else:
        assert version == RELEASED[0]


def test_client_has_the_version_of_the_server() -> None:
    """They are released together."""
    assert prelim_client.__version__ == prelim.__version__


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("program", ["launcher", "prelim_client", "bridge", "bulk"])
def test_programs_of_a_site_tell_their_version(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stdout and with success, as `--help`; the first things that an administrator asks for."""
    for option, expected in (("--version", f"Prelim {prelim.__version__}\n"), ("--help", f"python -m {program}")):
        monkeypatch.setattr(sys, "argv", [program, option])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(program, run_name="__main__")
        assert ended.value.code == 0
        assert expected in capsys.readouterr().out
