"""What computes a report."""

import pytest

from prelim.audit.machine import describe_processor
from prelim.kernels.instructions import FORCED_BY


def test_forced_instructions_are_part_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """They change last bits; what is forced on a processor is not what it does by itself."""
    monkeypatch.delenv(FORCED_BY, raising=False)
    by_itself = describe_processor()
    monkeypatch.setenv(FORCED_BY, "avx2")
    assert describe_processor() == f"{by_itself} {FORCED_BY}=avx2"
