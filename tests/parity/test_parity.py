"""The systems compute the same as their original implementations."""

import json
from pathlib import Path

import pytest

from tests.parity.__main__ import check
from tests.parity.fixture import fixture_path, read_fixture


@pytest.mark.parametrize("system", [0, 1, 2, 3, 4])
def test_system_equals_its_fixture(system: int) -> None:
    """Every recorded output is covered and equal, after importing the checkpoint."""
    results, uncovered = check(fixture_path(system))

    assert not uncovered
    assert [(section, result) for section, result in results if not result.passed] == []


@pytest.mark.parametrize("system", [0, 1, 2, 3, 4])
def test_committed_fixture_is_the_shared_one(shared: Path, system: int) -> None:
    """The committed fixtures are unchanged copies."""
    assert read_fixture(fixture_path(system)) == read_fixture(shared / "fixtures" / f"system{system}.json")


def test_changed_record_is_found(tmp_path: Path) -> None:
    """A recorded value that differs by more than the tolerance fails."""
    fixture = read_fixture(fixture_path(1))
    record = next(r for r in fixture["outputs_fanin"] if r["name"] == "logits")
    record["mean"] += 0.01
    del fixture["outputs"]
    (tmp_path / "system1.json").write_text(json.dumps(fixture))

    results, _ = check(tmp_path / "system1.json")

    assert [result.name for _, result in results if not result.passed] == ["logits"]
