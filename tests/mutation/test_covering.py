"""Which tests a change meets: those that may notice it, as many as there is time for."""

from pathlib import Path

import pytest

from tests.mutation.covering import IMPORT, Covering

SOURCE = """LIMIT = 3


def function(x=LIMIT):
    return x
"""
SECONDS = {"a.py::slow": 50.0, "a.py::quick": 1.0, "b.py::quick": 2.0, "c.py::quick": 3.0}


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A file of code."""
    path = tmp_path / "code.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize(
    ("line", "contexts", "once", "tests"),
    [
        (5, ["b.py::quick"], False, ["b.py::quick"]),
        (5, ["b.py::quick", "c.py::quick"], False, ["b.py::quick", "c.py::quick"]),
        # What the first test imports, or computes for all, others use.
        (5, ["c.py::quick"], True, ["c.py::quick", "b.py::quick", "a.py::quick", "a.py::slow"]),
        (1, ["c.py::quick"], False, ["c.py::quick", "b.py::quick", "a.py::quick", "a.py::slow"]),
        (4, ["c.py::quick"], False, ["c.py::quick", "b.py::quick", "a.py::quick", "a.py::slow"]),
        (5, [IMPORT, "c.py::quick"], False, ["c.py::quick", "b.py::quick", "a.py::quick", "a.py::slow"]),
        (5, [], False, ["b.py::quick", "c.py::quick", "a.py::quick", "a.py::slow"]),
    ],
)
def test_who_may_notice_a_change(code: Path, line: int, contexts: list[str], once: bool, tests: list[str]) -> None:
    """Whoever runs the line, before the others if there are others."""
    covering = Covering(SECONDS, {str(code): {str(line): contexts}})
    assert covering.tests_of(code, line, 60, once=once) == tests


def test_a_slow_test_leaves_its_time_to_others(code: Path) -> None:
    """What there is no time for is passed over; the first one always runs."""
    covering = Covering(SECONDS, {str(code): {"5": [*SECONDS]}})
    assert covering.tests_of(code, 5, 6) == ["b.py::quick", "c.py::quick", "a.py::quick"]
    assert covering.tests_of(code, 5, 0.5) == ["b.py::quick"]
    covering.notice(code, "a.py::slow")
    assert covering.tests_of(code, 5, 53) == ["a.py::slow", "b.py::quick", "a.py::quick"]
