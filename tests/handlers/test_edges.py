"""The last value that is taken and the first that is not: forms, lists, lines of the log, deadlines, failures."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ts.metrics.metric_cache_errors import MetricsCacheKeyError

from handlers import flight as flight_module
from handlers import report_handler
from handlers.exchange import Exchange
from handlers.failure import INTERNAL, Failure
from handlers.fields import from_base64, json_value, list_of_images, list_of_texts
from handlers.flight import Flight
from handlers.journal import log
from handlers.metrics import Metrics
from handlers.route import check_route, find_id, path_of
from prelim.errors import ArchiveError, InvalidOption, TooLarge, UnreadableInput


def test_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Two hundred characters of a text, of a small alphabet; numbers as they are."""
    caplog.set_level(logging.INFO)
    log("event", text="aZ09_.:;,()+/ -" + 'é"\\\n' + "b" * 200, number=1.5)
    assert json.loads(caplog.records[0].getMessage()) == {
        "event": "event", "text": "aZ09_.:;,()+/ -????" + "b" * 181, "number": 1.5,
    }  # fmt: skip


FORM = {"Content-Type": "Multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    ("row", "allowed"),
    [
        ({"image": b"abc"}, 3 + 2 * 1024),
        ({"image": b"abc", "prompt": b"de", "seed": "1"}, 6 + 2 * 1024 + 2 * 256),
        ({"image": b"abc", "image2": bytearray(b"de")}, 5 + 3 * 1024),
        ({"prompt": b"de", "flag": True}, 2 + 1024 + 2 * 256),
        ({}, 1024),
    ],
)
def test_bytes_of_a_form_that_are_in_no_field(row: dict[str, Any], allowed: int) -> None:
    """1,024 for each file and once more, 256 for each other field."""
    check_route(row, FORM | {"content-length": str(allowed)})
    with pytest.raises(UnreadableInput, match=f"{len(row)} fields"):
        check_route(row, FORM | {"content-length": str(allowed + 1)})
    for headers in ({"content-length": "99999"}, FORM, FORM | {"content-length": "many"}, FORM | {"content-length": 9}):
        check_route(row, headers)


def test_paths() -> None:
    """What follows the version is refused; an empty one is none."""
    assert path_of({"url_path": "/v1/models/"}) == "v1/models"
    assert path_of({}) == path_of({"url_path": 5}) == ""
    check_route({}, {"url_path": ""})
    with pytest.raises(UnreadableInput, match="the path continues"):
        check_route({}, {"url_path": "x"})


@pytest.mark.parametrize(
    ("given", "taken"),
    [("a" * 64, True), ("A.z_0-9", True), ("a" * 65, False), ("", False), ("a b", False), ("é", False)],
)
def test_ids_of_requests(given: str, taken: bool) -> None:
    """64 characters of a small alphabet, by header over HTTP and by field over gRPC."""
    expected = given if taken else "own"
    assert find_id({"request_id": "field"}, {"X-Request-ID": given}, "own") == expected
    assert find_id({"request_id": given.encode()}, {}, "own") == expected
    assert find_id({"request_id": bytearray(given.encode())}, {"image": {}}, "own") == expected
    assert find_id({}, {}, "own") == "own"


@pytest.mark.parametrize("make", [list, json.dumps, lambda texts: f" {json.dumps(texts)}\n".encode()])
def test_lists_of_images(make: Any) -> None:
    """Eight are read, as JSON or as a list; more are refused before they are split."""
    assert list_of_images(make(["YQ==", "Yg=="])) == [b"a", b"b"]
    assert list_of_images(make([])) == []
    assert len(list_of_images(make(["YQ=="] * 8))) == 8
    with pytest.raises(TooLarge, match="images has 9 entries; at most 8"):
        list_of_images(make(["YQ=="] * 9))
    for wrong in ({"a": "YQ=="}, ["Y"]):
        with pytest.raises(UnreadableInput):
            list_of_images(make(wrong) if make is not list else wrong)


@pytest.mark.parametrize("text", ["YQ==", '["YQ=="', '"YQ=="]', '["YQ==" "Yg=="]', '["YQ==",]', "[1]", '["a\\"b"]'])
def test_texts_that_are_no_list_of_images(text: str) -> None:
    """Brackets, commas and quotes in their places."""
    with pytest.raises(UnreadableInput, match="images must be a JSON list"):
        list_of_images(text)


def test_base64_with_what_encoders_write() -> None:
    """Escapes of either case, line ends, a data URI; nothing of another type."""
    for text in ("+/+/", r"\u002b\/\u002B\u002f", "+/\r\n+/\n", r"+\n\r/+/", "data:image/png;base64,+/+/"):
        assert from_base64(text) == from_base64(text.encode()) == b"\xfb\xff\xbf"
    for wrong in (5, None, ["YQ=="]):
        with pytest.raises(UnreadableInput, match="it must be base64 text"):
            from_base64(wrong)


def test_json_that_is_deep() -> None:
    """Nothing but an error of the request."""
    with pytest.raises(UnreadableInput, match="x is not valid JSON"):
        json_value("x", "[" * 9_999)
    assert list_of_texts("[" * 100_000) is None
    assert list_of_texts('["a", "b"]') == ["a", "b"]
    for other in ('["a", 1]', '"a"', '{"a": "b"}', "a"):
        assert list_of_texts(other) is None


class Generator:
    """Ends its requests at once, or fails."""

    slots = 2

    def __init__(self) -> None:
        self.fails = False
        self.canceled: list[str] = []
        self.resets = 0

    def add(self, request_id: str, request: object) -> None:
        """Refuse one id."""
        if request_id == "wrong":
            raise InvalidOption("no", "seed")

    def step(self, max_steps: int) -> dict[str, Any]:
        """No request ends here."""
        if self.fails:
            raise ZeroDivisionError
        return {}

    def cancel(self, request_id: str) -> None:
        """Note who left."""
        self.canceled.append(request_id)

    def reset(self) -> None:
        """Count."""
        self.resets += 1


def exchange(arrived: float) -> Any:
    """A request that arrived then."""
    return SimpleNamespace(arrived=arrived, request=None)


def test_a_request_has_its_whole_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends after it, and frees its slot; the others go on."""
    generator, batches, clock = Generator(), [], [100.0]
    monkeypatch.setattr(flight_module.time, "monotonic", lambda: clock[0])
    flight = Flight(generator, batches.append, 30)  # type: ignore[arg-type]
    for name, arrived in (("a", 70.0), ("b", 71.0), ("c", 99.0)):
        flight.enter(name, exchange(arrived))
    with pytest.raises(InvalidOption):
        flight.enter("wrong", exchange(99.0))
    assert flight.advance(1) == {}
    clock[0] += 0.5
    late = flight.advance(1)
    assert [(name, end.code, end.type) for name, end in late.items()] == [("a", 504, "DeadlineExceeded")]  # type: ignore[union-attr]
    assert "no report after 30 s" in late["a"].message  # type: ignore[union-attr]
    assert (list(flight.exchanges), set(generator.canceled), batches) == (["b", "c"], {"a"}, [2, 2])
    assert [one.arrived for one in flight.drop_absent(["c"])] == [71.0]
    assert list(flight.exchanges) == ["c"]


def test_three_failures_in_a_row_end_the_worker() -> None:
    """All requests fail each time; one step that succeeds in between makes it the first again."""
    generator = Generator()
    flight = Flight(generator, lambda _: None, 1e9)  # type: ignore[arg-type]

    def advance(*, fails: bool) -> Any:
        generator.fails = fails
        flight.enter("a", exchange(0.0))
        return flight.advance(1)

    for fails in (True, True, False, True, True):
        assert advance(fails=fails) == ({"a": INTERNAL} if fails else {})
    assert generator.resets == 4
    with pytest.raises(SystemExit) as ended:
        advance(fails=True)
    assert ended.value.code == 1


def test_a_metric_that_is_not_declared_is_named() -> None:
    """With the setting that declares it."""

    def get_metric(name: str, kind: object) -> None:
        raise MetricsCacheKeyError("x")

    with pytest.raises(RuntimeError, match=r"prelim_queue_seconds is not declared; .*metrics_config"):
        Metrics(SimpleNamespace(get_metric=get_metric), "m")


@pytest.mark.parametrize(("batch_size", "slots"), [(None, 1), (0, 1), (1, 1), (3, 3)])
def test_slots_are_those_of_a_batch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, batch_size: int | None, slots: int
) -> None:
    """One where TorchServe names none; a model that cannot be loaded is a RuntimeError with the reason."""
    asked: list[int] = []

    def load(*_: Any, **options: Any) -> None:
        asked.append(options["slots"])
        raise ArchiveError("no model")

    monkeypatch.setattr(report_handler.ReportGenerator, "load", load)
    monkeypatch.setattr(report_handler.torch, "set_num_threads", lambda _: None)
    properties = {"model_dir": str(tmp_path), "batch_size": batch_size}
    with pytest.raises(RuntimeError, match="no model"):
        report_handler.ReportHandler().initialize(
            SimpleNamespace(system_properties=properties, model_yaml_config={"continuousBatching": False})
        )
    assert asked == [slots]


def test_when_a_connection_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """After more than the seconds that are set, and never over gRPC; how long a request has been here, in ms."""
    handler, now = report_handler.ReportHandler(), [110.0]
    handler.settings = SimpleNamespace(heartbeat_s=10)  # type: ignore[assignment]
    monkeypatch.setattr(report_handler.time, "monotonic", lambda: now[0])
    over_http, over_grpc = (Exchange(None, arrived=100.0, grpc=grpc) for grpc in (False, True))  # type: ignore[arg-type]
    assert (handler._chunk("a", over_http), over_http.seconds) == (b"", 10)
    now[0] = 110.12346
    assert (handler._chunk("a", over_http), handler._chunk("b", over_grpc)) == (b"\n", b"")
    assert over_http.seconds == 10.123


def test_what_is_measured_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of each part, the wait in front of the server included, tokens, errors, and how full a batch is."""
    written: dict[str, list[tuple[float, list[str]]]] = {}

    def get_metric(name: str, _: object) -> Any:
        return SimpleNamespace(
            add_or_update=lambda value, dimensions: written.setdefault(name, []).append((value, dimensions))
        )

    monkeypatch.setattr("handlers.exchange.time.monotonic", lambda: 103.0)
    metrics = Metrics(SimpleNamespace(get_metric=get_metric), "m")
    report: Any = SimpleNamespace(timing_ms={"preprocess": 20, "queue": 30.0004, "decode": 1500}, num_tokens=7)
    metrics.report(report, Exchange(None, arrived=100.5, queued_ms=2000.0))  # type: ignore[arg-type]
    metrics.failure(Failure(400, "InvalidOption", "wrong"))
    metrics.failure(Failure(500, "NonFiniteOutput", "NaN"))
    metrics.canceled(2)
    metrics.batch(3, 4)
    metrics.active(5)
    own = ["m", "Model"]
    assert written == {
        "prelim_preprocess_seconds": [(0.02, own)],
        "prelim_vision_seconds": [(0.0, own)],
        "prelim_decode_seconds": [(1.5, own)],
        "prelim_queue_seconds": [(2.03, own)],
        "prelim_report_seconds": [(4.5, own)],
        "prelim_tokens_generated_total": [(7, own)],
        "prelim_rejected_total": [(1, ["400", "InvalidOption", *own]), (1, ["500", "NonFiniteOutput", *own])],
        "prelim_non_finite_total": [(1, own)],
        "prelim_cancelled_total": [(2, own)],
        "prelim_batch_occupancy_ratio": [(0.75, own)],
        "prelim_active_requests": [(5, own)],
    }
    written.clear()
    for compiled in (True, False):
        metrics.describe(6, compiled=compiled, instructions="avx2" if compiled else None)
    assert written["prelim_compiled_step"] == [(1, ["avx2", *own]), (0, ["none", *own])]
    assert [value for value, _ in written["prelim_slots"]] == [6, 6]
    zeros = {name for name, values in written.items() if {value for value, _ in values} == {0}}
    assert zeros == {
        *("prelim_tokens_generated_total", "prelim_non_finite_total", "prelim_cancelled_total"),
        *("prelim_draft_tokens_total", "prelim_accepted_tokens_total"),
        *("prelim_active_requests", "prelim_rejected_total"),
    }
    assert {tuple(dimensions) for _, dimensions in written["prelim_rejected_total"]} == {
        ("500", "InternalError", *own), ("500", "NonFiniteOutput", *own), ("504", "DeadlineExceeded", *own),
    }  # fmt: skip
