"""Decodes as on another processor."""

import importlib
from collections.abc import Callable

import pytest

from prelim.kernels.instructions import KNOWN, available, chosen, restricted_to


@pytest.fixture
def on_processor(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Products use the instructions of this name; what numba compiles around them stays that of the machine."""
    # Once imported, it does not restrict numba to this processor for all tests that follow.
    importlib.import_module("prelim.kernels.kept")

    def use(name: str) -> None:
        one, ours = KNOWN[name], chosen()
        # Where others are forced, code is compiled for a processor that has only these.
        forced = restricted_to() is not None and ours is not None and not one.needs <= ours.needs
        if one not in available() or forced:
            pytest.skip(f"this processor has no {name}")
        monkeypatch.setattr("prelim.kernels.instructions.chosen", lambda: KNOWN[name])

    return use
