"""The clock of the machine jumps, as when it is set or synchronized."""

import time
from collections.abc import Callable

import pytest

from tests.handlers.frontend import Frontend

YEAR_S = 365 * 86_400.0


@pytest.mark.parametrize("jump", [YEAR_S, -YEAR_S])
def test_clock_that_jumps_ends_no_request(
    serve: Callable[..., Frontend], monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """In the middle of decoding: the report is the one without a jump, and its times are not negative."""
    frontend = serve(prelim={"steps_per_handle": 2, "heartbeat_s": 1000})
    headers = {"X-Request-Start": f"t={time.time()}"}
    expected = frontend.submit({"image": bytearray(b"clear")}, dict(headers))
    frontend.run()
    job = frontend.submit({"image": bytearray(b"clear")}, dict(headers))
    frontend.call()
    assert not job.answered
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + jump)
    late = frontend.submit({"image": bytearray(b"clear")}, dict(headers))
    frontend.run()
    assert job.body["report"] == late.body["report"] == expected.body["report"]
    assert all(milliseconds >= 0 for milliseconds in (job.body | late.body)["timing_ms"].values())
