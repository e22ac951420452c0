"""Properties of what the handler takes from model-config.yaml."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

import handlers
from handlers.settings import Settings
from prelim.errors import ArchiveError

TEMPLATE = Path(handlers.__file__).parent / "model-config.yaml"


def test_cores_are_divided_among_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker computes with its share of the cores, and with one at least."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))

    assert [Settings.read({"maxWorkers": n}).threads for n in (1, 2, 3, 16)] == [8, 4, 2, 1]


def test_template_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The committed model-config.yaml is understood, and gives both numbers of workers, as TorchServe needs."""
    template = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    settings = Settings.read(template)

    assert settings.in_flight
    assert settings.response_timeout == template["responseTimeout"]
    assert template["minWorkers"] == template["maxWorkers"] == 1


def test_deadline_of_a_batch_ends_before_the_worker_is_killed() -> None:
    """A batch that one call answers has at most 0.8 of responseTimeout; in flight, the setting alone counts."""
    config = {"responseTimeout": 100, "prelim": {"request_deadline_s": 200}}

    assert Settings.read({**config, "continuousBatching": True}).deadline_s == 200
    assert Settings.read(config).deadline_s == 80


def test_several_workers_share_weights() -> None:
    """Weights are shared where there is somebody to share them with, or where it is asked for."""
    assert [Settings.read({"maxWorkers": n}).share_weights for n in (1, 2)] == [False, True]
    assert Settings.read({"prelim": {"share_weights": True}}).share_weights


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prelim": {"step": 1}}, "unknown key 'step'; known: steps_per_handle, heartbeat_s, threads, share_weights"),
        ({"prelim": {"request_deadline_s": 0}}, "request_deadline_s is 0"),
        ({"prelim": {"request_deadline_s": None}}, "request_deadline_s is None"),
        ({"prelim": {"max_cache_mb": "much"}}, "max_cache_mb is 'much'"),
        ({"prelim": {"max_new_tokens": 2048.0}}, "max_new_tokens is 2048.0"),
        ({"prelim": {"steps_per_handle": 0}}, "steps_per_handle is 0"),
        ({"prelim": {"steps_per_handle": 2.5}}, "steps_per_handle is 2.5"),
        ({"prelim": {"heartbeat_s": "10"}}, "heartbeat_s is '10'"),
        ({"prelim": {"share_weights": "no"}}, "share_weights is 'no'; it must be true, false or null"),
        ({"prelim": {"threads": True}}, "threads is True"),
        ({"continuousBatching": True, "maxWorkers": 2}, "maxWorkers is 2 with continuousBatching: true"),
        ({"responseTimeout": "long"}, "response_timeout is 'long'"),
    ],
)
def test_wrong_setting_is_explained(config: dict[str, Any], message: str) -> None:
    """TorchServe silently ignores wrong values; the handler does not."""
    with pytest.raises(ArchiveError, match=message):
        Settings.read(config)
