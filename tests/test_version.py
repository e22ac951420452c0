"""The version says what runs: a release's only in that release, and after it the next one's with `.dev`."""

import re
import tomllib
from pathlib import Path

from packaging.version import Version

import prelim

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
    client = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text(encoding="utf-8"))
    assert client["project"]["version"] == prelim.__version__
