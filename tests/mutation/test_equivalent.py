"""The list of changes that no test can notice is about the code as it is."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from tests.mutation.folders import FOLDERS
from tests.mutation.processes import ROOT

ENTRIES = yaml.safe_load((ROOT / "tests/mutation/equivalent.yaml").read_text())
LINES = {
    path: {re.sub(r"\s+", " ", line).strip() for line in (ROOT / path).read_text().splitlines()}
    for folder in FOLDERS.values()
    for path in folder.files(ROOT)
}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry['file']}: {entry['before']}")
def test_entry_is_of_a_line_that_exists(entry: Mapping[str, Any]) -> None:
    """A line that has changed since needs another look."""
    files = LINES.values() if entry["file"] == "*" else [LINES[entry["file"]]]
    assert any(set(entry["before"].splitlines()) <= lines for lines in files)
    assert entry["reason"]


def test_no_change_is_listed_twice() -> None:
    """The later reason would hide the earlier one."""
    listed = [
        (entry["file"], entry["before"], after)
        for entry in ENTRIES
        for after in ([entry["after"]] if isinstance(entry["after"], str) else entry["after"])
    ]
    assert len(listed) == len(set(listed))
