"""Properties of the handler in the hands of TorchServe."""

import inspect
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

import handlers.report_handler
from handlers.report_handler import ReportGenerator
from prelim.errors import ArchiveError
from prelim.images.decoding_process import DECODING
from tests.handlers.fake_generator import FakeGenerator
from tests.handlers.frontend import Frontend, Job, events, image

INTERNAL = "InternalError"


def test_handler_module_defines_one_class() -> None:
    """TorchServe refuses a handler module that defines more than one class."""
    module = handlers.report_handler
    classes = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]

    assert [handlers.report_handler.ReportHandler] == classes


def test_model_is_warm_before_the_first_request(frontend: Frontend, generator: FakeGenerator) -> None:
    """Loading ends with a warm-up."""
    assert generator.warmed_up
    assert frontend.handler.initialized


def test_damaged_archive_fails_to_load_with_a_runtime_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only RuntimeError is reported by TorchServe as a failed load; its message still names the file."""

    def load(*_: object, **__: object) -> None:
        raise ArchiveError("vision.onnx is missing")

    monkeypatch.setattr(ReportGenerator, "load", load)
    frontend = Frontend(str(tmp_path))

    with pytest.raises(RuntimeError, match=r"vision\.onnx is missing"):
        frontend.handler.initialize(frontend.context)


def test_unknown_setting_fails_to_load(serve: Callable[..., Frontend]) -> None:
    """A misspelled key of the section prelim is an error that lists the known ones."""
    with pytest.raises(RuntimeError, match="unknown key 'steps'; known: steps_per_handle"):
        serve(prelim={"steps": 3})


def test_requests_over_http_and_grpc_share_the_batch(frontend: Frontend, generator: FakeGenerator) -> None:
    """HTTP and gRPC requests are decoded side by side, and each is answered once and whole."""
    jobs = [frontend.submit({"body": bytearray(b"lung")}), frontend.submit_grpc(data=b"heart")]

    frontend.run()

    assert [job.body["report"].split() for job in jobs] == [["lung"] * 6, ["heart"] * 6]
    assert all(job.calls == 1 for job in jobs)
    assert {2} == {len(batch) for batch in generator.batches}


def test_request_enters_while_others_are_decoded(frontend: Frontend, generator: FakeGenerator) -> None:
    """A request that arrives late joins the batch at the next call and leaves when it is finished."""
    long = frontend.submit(image(b"long", max_new_tokens=12))
    frontend.call()
    short = frontend.submit(image(b"short", max_new_tokens=2))
    frontend.call()

    assert short.answered
    assert not long.answered
    frontend.run()
    assert long.body["report"].split() == ["long"] * 12


def test_more_requests_than_slots_wait(frontend: Frontend, generator: FakeGenerator) -> None:
    """Above the slots requests wait, and all are answered."""
    jobs = [frontend.submit(image(f"word{i}".encode())) for i in range(10)]

    frontend.run()

    assert [job.body["report"].split()[0] for job in jobs] == [f"word{i}" for i in range(10)]
    assert max(len(batch) for batch in generator.batches) == 4


def test_bad_requests_fail_alone(frontend: Frontend) -> None:
    """Unreadable images and wrong options get 4xx with the reason; their neighbors get their reports."""
    good = [frontend.submit(image(b"good")), frontend.submit_grpc(image=b"good")]
    broken = frontend.submit({"body": bytearray(b"broken")})
    wrong = frontend.submit(image(b"fine", num_beams="many"))
    over_grpc = frontend.submit_grpc(image=b"broken")

    frontend.run()

    assert [job.body["report"] for job in good] == ["good good good good good good"] * 2
    assert (broken.status, wrong.status) == (415, 400)
    refused = {"code": 415, "type": "NotAnImage", "message": "these bytes are not an image", "request_id": "request-2"}
    assert broken.body["error"] == refused
    assert "num_beams" in wrong.body["error"]["message"]
    assert over_grpc.body["error"]["code"] == 415
    assert all(job.calls == 1 for job in (broken, wrong, over_grpc))


def test_what_the_model_cannot_take_is_refused_at_once(frontend: Frontend) -> None:
    """A prompt that the model refuses costs no slot, and is answered in the call in which it arrives."""
    good = [frontend.submit(image(b"good")) for _ in range(4)]
    refused = frontend.submit(image(b"word", prompt="refused"))

    frontend.call()

    assert refused.status == 400
    assert "prompt is set" in refused.body["error"]["message"]
    frontend.run()
    assert all(job.body["report"].startswith("good") for job in good)


def test_engine_is_usable_after_a_failed_step(frontend: Frontend, generator: FakeGenerator) -> None:
    """When decoding itself fails, the requests in the batch get 500 and those that come after are served."""
    lost = [frontend.submit(image(b"lost")), frontend.submit_grpc(image=b"lost")]
    generator.faulty = True
    frontend.call()
    generator.faulty = False
    served = frontend.submit(image(b"served"))
    frontend.run()

    assert [job.body["error"]["code"] for job in lost] == [500, 500]
    assert "served served" in served.body["report"]


def test_worker_ends_when_decoding_keeps_failing(frontend: Frontend, generator: FakeGenerator) -> None:
    """A device that is lost stays lost: after three failures in a row the process ends, and TorchServe restarts it."""
    generator.faulty = True
    for _ in range(2):
        frontend.submit(image(b"lost"))
        frontend.call()
    frontend.submit(image(b"lost"))

    with pytest.raises(SystemExit):
        frontend.call()


def test_request_that_fails_while_decoding_fails_alone(
    frontend: Frontend, generator: FakeGenerator, caplog: pytest.LogCaptureFixture
) -> None:
    """NaN and exceptions of one request, more often in a row than a worker may fail, cost the others nothing."""
    caplog.set_level(logging.INFO)
    good = frontend.submit(image(b"good", max_new_tokens=30))
    for word, type_ in ((b"nan", "NonFiniteOutput"), (b"crash", "InternalError")) * 3:
        bad = frontend.submit(image(word))
        frontend.call()

        assert bad.status == 500
        assert bad.body["error"]["type"] == type_
        assert not good.answered
    frontend.run()

    assert good.body["report"].split() == ["good"] * 30
    assert sum("prelim_non_finite_total.Count:1|#ModelName" in line for line in caplog.messages) == 3
    assert '"reason": "LookupError", "place": "fake_generator.py:' in caplog.text
    assert "Mueller" not in caplog.text


def test_report_without_a_log_probability_never_leaves(frontend: Frontend) -> None:
    """A NaN that got as far as the answer is a failure of the server, not a null in a report."""
    lost, good = frontend.submit(image(b"lost")), frontend.submit(image(b"good"))

    frontend.run()

    assert lost.status == 500
    assert "report" not in lost.body
    assert good.status == 200


@pytest.mark.parametrize("place", ["slot", "queue"])
def test_late_request_fails_alone(serve: Callable[..., Frontend], generator: FakeGenerator, place: str) -> None:
    """Over the deadline, counted from its arrival, a request fails with the way out, also while it waits for a slot."""
    frontend = serve(prelim={"steps_per_handle": 2, "request_deadline_s": 60})
    jobs = [frontend.submit(image(b"good", max_new_tokens=8)) for _ in range(5)]
    frontend.call()
    exchanges = frontend.handler.flight.exchanges
    waiting = next(request_id for request_id in exchanges if request_id not in generator.running)
    late = next(iter(generator.running)) if place == "slot" else waiting
    exchanges[late].arrived -= 61
    job = frontend.jobs[late]

    frontend.call()
    entered = waiting in generator.running
    frontend.run()

    assert job.status == 504
    assert job.body["error"]["type"] == "DeadlineExceeded"
    assert "no report after 60 s" in job.body["error"]["message"]
    assert entered == (place == "slot")
    assert all(other.body["report"].split() == ["good"] * 8 for other in jobs if other is not job)


def test_limits_are_logged_at_the_start(serve: Callable[..., Frontend], caplog: pytest.LogCaptureFixture) -> None:
    """The log of the start says how large the cache can become and how long a request may take."""
    caplog.set_level(logging.INFO)
    serve()

    (line,) = events(caplog, "ready")
    assert (line["slots"], line["cache_mb"], line["columns_per_slot"], line["deadline_s"]) == (4, 8, 2560, 300)
    assert line["sandbox"] == ("bubblewrap" if DECODING.is_sandboxed else "none")


def test_client_that_goes_away_frees_its_slot(frontend: Frontend, generator: FakeGenerator) -> None:
    """A request that the frontend no longer sends is canceled."""
    frontend.submit(image(b"gone", max_new_tokens=100))
    frontend.call()
    assert len(generator.active) == 1
    frontend.jobs.clear()
    stays = frontend.submit(image(b"stays"))
    frontend.call()

    assert len(generator.active) == 1
    frontend.run()
    assert stays.answered


def lines(job: Job) -> list[dict[str, object]]:
    """The JSON lines that a client of a stream has received."""
    return [json.loads(line) for line in b"".join(job.chunks).split(b"\n") if line]


def stream(frontend: Frontend, **options: object) -> Job:
    """A streamed request, answered to the end."""
    job = frontend.submit(image(b"word", stream=True, **options))
    frontend.run()
    return job


def test_stream_is_lines_of_json_that_end_with_the_report(frontend: Frontend) -> None:
    """The pieces of a streamed report put together are its text; the last line is the whole answer."""
    job = stream(frontend)

    *pieces, report = lines(job)
    assert job.content_type == "application/x-ndjson"
    assert len(pieces) == 3
    assert report["report"] == "".join(piece["text"] for piece in pieces)
    assert report["status"] == "UNVERIFIED"


def test_no_text_ends_a_line_of_a_stream(frontend: Frontend) -> None:
    """What Unicode calls the end of a line is escaped: a line is one JSON object for every client."""
    job = frontend.submit(image("lung\u2028\u2029\x85heart\n".encode(), stream=True))
    frontend.run()

    *pieces, report = [json.loads(line) for line in b"".join(job.chunks).decode().splitlines()]
    assert (
        report["report"] == "".join(piece["text"] for piece in pieces) == " ".join(["lung\u2028\u2029\x85heart\n"] * 6)
    )


def test_stream_of_one_call_is_a_single_response(frontend: Frontend) -> None:
    """A streamed report that is finished within its first call comes at once, because a lone last chunk hangs."""
    job = stream(frontend, max_new_tokens=2)

    piece, report = lines(job)
    assert job.calls == 1
    assert piece == {"text": "word word"}
    assert report["report"] == "word word"


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}])
def test_stream_of_several_sequences_is_the_first(frontend: Frontend, options: dict[str, object]) -> None:
    """The pieces are the text of the report; the alternatives come with it."""
    *pieces, report = lines(stream(frontend, **options))

    assert len(pieces) == 3
    assert report["report"] == "".join(piece["text"] for piece in pieces)
    assert report["alternatives"]


def test_stream_over_grpc_is_refused(frontend: Frontend) -> None:
    """The frontend would drop a gRPC request after its first piece of text."""
    job = frontend.submit_grpc(image=b"word", stream=b"true")
    frontend.run()

    assert job.body["error"]["code"] == 400


def test_error_after_the_first_chunk_ends_the_stream(frontend: Frontend, generator: FakeGenerator) -> None:
    """When the status line is gone already, the error is the last line."""
    job = frontend.submit(image(b"word", stream=True))
    frontend.call()
    generator.faulty = True
    frontend.run()

    assert job.status == 200
    assert json.loads(b"".join(job.chunks).splitlines()[-1])["error"]["type"] == INTERNAL


def test_old_http_request_is_kept_alive(serve: Callable[..., Frontend], monkeypatch: pytest.MonkeyPatch) -> None:
    """After heartbeat_s an HTTP answer begins with white space, which JSON ignores; gRPC is still answered once."""
    frontend = serve(prelim={"steps_per_handle": 2, "heartbeat_s": 1})
    http, grpc = frontend.submit(image(b"slow")), frontend.submit_grpc(image=b"slow")
    frontend.call()
    for exchange in frontend.handler.flight.exchanges.values():
        exchange.arrived -= 10
    frontend.run()

    assert http.chunks[:-1] == [b"\n"]
    assert "slow slow" in http.body["report"]
    assert grpc.calls == 1


def test_dynamic_batch_is_answered_in_one_call(serve: Callable[..., Frontend], generator: FakeGenerator) -> None:
    """Without continuousBatching all requests of a batch, even more than `slots`, are answered at once."""
    frontend = serve(continuousBatching=False)
    jobs = [frontend.submit(image(f"word{i}".encode())) for i in range(6)]
    jobs.append(frontend.submit_grpc(image=b"grpc"))
    bad = frontend.submit(image(b"broken"))
    streamed = frontend.submit(image(b"word", stream=True))

    frontend.call()

    assert all(job.body["report"] for job in jobs)
    assert bad.status == 415
    assert "continuousBatching: false" in streamed.body["error"]["message"]
    assert not generator.active


def test_late_dynamic_batch_fails_before_the_worker_is_killed(
    serve: Callable[..., Frontend], generator: FakeGenerator
) -> None:
    """A dynamic batch that takes longer than TorchServe waits fails with 504, and its slots are free."""
    frontend = serve(continuousBatching=False, responseTimeout=1)
    job = frontend.submit(image(b"slow", max_new_tokens=1024))
    generator.step = lambda max_steps=1: {}  # type: ignore[method-assign]

    frontend.call()

    assert job.status == 504
    assert job.body["error"]["type"] == "DeadlineExceeded"
    assert "no report after 0.8 s" in job.body["error"]["message"]
    assert not generator.active


def test_description_names_the_model(serve: Callable[..., Frontend]) -> None:
    """GET /models/{name}?customized=true says which model this is."""
    frontend = serve(continuousBatching=False)
    job = frontend.submit({}, {"describe": "True"})
    frontend.call()

    assert job.body == {"name": "fake", "version": "7", "architecture": "words", "sha256": "0" * 64} | {
        "licence": "none",
        "use": "research",
    }


def test_header_does_not_make_a_request_a_description(serve: Callable[..., Frontend]) -> None:
    """A client's header `describe` leaves a request with an image what it is; TorchServe sets it without any field."""
    frontend = serve(continuousBatching=False)
    job = frontend.submit(image(b"good"), {"describe": "True"})
    frontend.call()

    assert job.body["status"] == "UNVERIFIED"
