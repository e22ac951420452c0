"""What the handler records of its requests: metrics and lines of the log."""

import json
import logging
from collections.abc import Callable

import pytest

from tests.handlers.fake_generator import FakeGenerator
from tests.handlers.frontend import Frontend, events, image


def test_metrics_are_written(frontend: Frontend, caplog: pytest.LogCaptureFixture) -> None:
    """Times, tokens, rejections and cancellations are written with the units that are declared."""
    caplog.set_level(logging.INFO)
    frontend.submit(image(b"good"))
    frontend.submit(image(b"broken"))
    frontend.run()
    frontend.submit(image(b"gone", max_new_tokens=100))
    frontend.call()
    frontend.jobs.clear()
    frontend.submit(image(b"good"))
    frontend.run()

    written = [line for line in caplog.messages if line.startswith("[METRICS]")]
    for expected in (
        "prelim_decode_seconds.Seconds:0.003|#ModelName:fake,Level:Model|#type:HISTOGRAM",
        "prelim_tokens_generated_total.Count:6|",
        "prelim_rejected_total.Count:1|#Status:415,Reason:NotAnImage,ModelName:fake,Level:Model|#type:COUNTER",
        "prelim_report_seconds.Seconds:",
        "prelim_cancelled_total.Count:1|",
        "prelim_batch_occupancy_ratio.Ratio:0.25|",
        "prelim_active_requests.Count:1|",
        "prelim_active_requests.Count:0|",
    ):
        assert any(expected in line for line in written), expected


@pytest.mark.parametrize("reason", [None, "the processor has neither AVX2 with FMA nor NEON"])
def test_a_step_that_is_not_compiled_is_reported(
    serve: Callable[..., Frontend], generator: FakeGenerator, caplog: pytest.LogCaptureFixture, reason: str | None
) -> None:
    """The start logs the reason, and a gauge is 0 instead of 1."""
    caplog.set_level(logging.INFO)
    generator.not_compiled, generator.instructions = reason, None if reason else "avx2"
    serve()

    used, labels = generator.instructions or "none", "ModelName:fake,Level:Model"
    written = f"prelim_compiled_step.Count:{int(reason is None)}|#Instructions:{used},{labels}|"
    assert any(written in line for line in caplog.messages)
    assert [line["instructions"] for line in events(caplog, "ready")] == [used]
    assert any("prelim_slots.Count:4|" in line for line in caplog.messages)
    # A counter that began with its first increase would hide it from Prometheus.
    assert any("prelim_non_finite_total.Count:0|" in line for line in caplog.messages)
    assert [line["reason"] for line in events(caplog, "not_compiled")] == ([reason] if reason else [])


@pytest.mark.parametrize("other", [None, "x86-64 with AVX512-VNNI"])
def test_a_precision_for_other_processors_is_reported(
    serve: Callable[..., Frontend], generator: FakeGenerator, caplog: pytest.LogCaptureFixture, other: str | None
) -> None:
    """The start says which kind of processor it was chosen for, where this is another."""
    caplog.set_level(logging.INFO)
    generator.other_family = other
    serve()

    lines = [(line["chosen_for"], line["precision"]) for line in events(caplog, "other_processor")]
    assert lines == ([(other, "int8")] if other else [])


@pytest.mark.parametrize("given", ["case-7", 64 * "a", "", "two words", 65 * "a", "caf\u00e9"])
def test_id_of_a_request_is_in_log_and_error(frontend: Frontend, caplog: pytest.LogCaptureFixture, given: str) -> None:
    """The header's over HTTP, the input's over gRPC, where it is well formed; otherwise TorchServe's."""
    caplog.set_level(logging.INFO)
    good = frontend.submit(image(b"good"), {"X-Request-Id": given})
    chat = frontend.submit({"body": bytearray(b"broken")}, {"x-request-id": given, "url_path": "v1/chat/completions"})
    broken = frontend.submit({"body": bytearray(b"broken")}, {"x-request-id": given})
    over_grpc = [frontend.submit_grpc(image=word, request_id=given.encode()) for word in (b"good", b"broken")]
    frontend.run()

    assert (good.status, over_grpc[0].body["status"]) == (200, "UNVERIFIED")
    lines = events(caplog, "answer")
    assert sorted(line["code"] for line in lines) == [200, 200, 400, 415, 415]
    assert all(line["request"] == given or line["request"].startswith("request-") for line in lines)
    assert {line["request"] == given for line in lines} == {given in ("case-7", 64 * "a")}
    names = {job.body["error"]["request_id"] for job in (broken, chat, over_grpc[1])}
    assert names <= {line["request"] for line in lines}
    assert json.loads(broken.response_headers["X-Prelim-Error"]) == broken.body
    assert "X-Prelim-Error" not in good.response_headers


def test_field_request_id_is_unknown_over_http(frontend: Frontend) -> None:
    """There is a header for it."""
    job = frontend.submit(image(b"good", request_id="a"))
    frontend.run()
    assert job.status == 400


def test_every_answer_is_logged(frontend: Frontend, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each request, with its id, status, and how many tokens or what kind of error."""
    caplog.set_level(logging.INFO)
    for word in (b"good", b"broken"):
        frontend.submit(image(word))
    ids = list(frontend.jobs)
    frontend.run()

    good, broken = ([line for line in events(caplog, "answer") if line["request"] == one] for one in ids)
    assert [(line["code"], line["tokens"], line["finish_reason"]) for line in good] == [(200, 6, "length")]
    assert [(line["code"], line["reason"]) for line in broken] == [(415, "NotAnImage")]


def test_nothing_of_a_request_is_logged(frontend: Frontend, caplog: pytest.LogCaptureFixture) -> None:
    """Logs hold request ids, codes and counts; no header, no field, no text."""
    caplog.set_level(logging.DEBUG)
    name_in_request = "Mueller"
    frontend.submit(
        image(name_in_request.encode(), prompt=name_in_request),
        {"Authorization": name_in_request, "X-Name": name_in_request},
    )
    frontend.submit({"body": bytearray(b"broken")}, {"Authorization": name_in_request})
    frontend.submit({name_in_request: bytearray(b"broken"), "image": bytearray(b"x")})
    frontend.run()

    assert caplog.messages
    assert name_in_request not in caplog.text
