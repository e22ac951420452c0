"""A handler that serves a fake generator behind a fake frontend."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handlers.report_handler import ReportGenerator
from tests.handlers.fake_generator import FakeGenerator
from tests.handlers.frontend import Frontend


@pytest.fixture
def generator() -> FakeGenerator:
    """A generator with four slots."""
    return FakeGenerator()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, generator: FakeGenerator, tmp_path: Path) -> Callable[..., Frontend]:
    """Makes a frontend whose handler has loaded the fake generator; arguments go to model-config.yaml."""

    def make(**model_config: Any) -> Frontend:
        monkeypatch.setattr(ReportGenerator, "load", lambda *_, **__: generator)
        frontend = Frontend(str(tmp_path / "model"), **model_config)
        frontend.handler.initialize(frontend.context)
        return frontend

    return make


@pytest.fixture
def frontend(serve: Callable[..., Frontend]) -> Frontend:
    """Two decode steps a call, no heartbeat."""
    return serve(prelim={"steps_per_handle": 2, "heartbeat_s": 1000})
