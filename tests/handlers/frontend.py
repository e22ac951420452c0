"""TorchServe's frontend as far as a handler can see it, with the real context and the real metric cache.

Its rules are those of docs/decisions/0008-in-flight-batching-over-http-and-grpc.md.
"""

import itertools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ts.context import Context, RequestProcessor
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

from handlers.report_handler import ReportHandler

HANDLERS = Path(__file__).resolve().parents[2] / "handlers"
METRICS = HANDLERS / "metrics.yaml"
LOG4J = HANDLERS / "log4j2.xml"
HTTP = {"explain": "False", "url_path": "", "Host": "127.0.0.1"}


@dataclass
class Job:
    """One request and what its client has been sent.

    answered : nothing more will come
    status   : the one the client saw, None while it saw none
    """

    row: dict[str, Any]
    headers: dict[str, Any]
    cached_in_backend: bool = False
    chunks: list[bytes] = field(default_factory=list)
    answered: bool = False
    gone: bool = False
    status: int | None = None
    content_type: str | None = None
    response_headers: dict[str, str] = field(default_factory=dict)
    calls: int = 0

    @property
    def grpc(self) -> bool:
        """It came over gRPC."""
        return not isinstance(self.headers.get("Host"), str)

    @property
    def body(self) -> dict[str, Any]:
        """The JSON that the client has received."""
        return dict(json.loads(b"".join(self.chunks)))


class Frontend:
    """Calls a handler with all requests that are not answered, as continuousBatching does.

    folder : of the unpacked archive
    slots  : TorchServe's batchSize
    """

    def __init__(self, folder: str, slots: int = 4, **model_config: Any) -> None:
        self.model_config = {"continuousBatching": True, "responseTimeout": 100, **model_config}
        cache = MetricsCacheYamlImpl(config_file_path=METRICS)
        cache.initialize_cache()
        cache.model_name = "fake"
        self.context = Context("fake", folder, None, slots, None, "0.12.0", True, cache, self.model_config)
        self.handler = ReportHandler()
        self.jobs: dict[str, Job] = {}
        self._numbers = itertools.count()

    def submit(self, row: dict[str, Any], headers: dict[str, Any] | None = None) -> Job:
        """A request over HTTP."""
        return self._submit(Job(row, HTTP | (headers or {})))

    def submit_grpc(self, **inputs: bytes) -> Job:
        """A request over gRPC."""
        return self._submit(Job(inputs, {name: {"content-type": ""} for name in inputs}))

    def call(self) -> None:
        """One call of `handle`, and its answers."""
        jobs = dict(self.jobs)
        self.context.request_ids = dict(enumerate(jobs))
        self.context.request_processor = [RequestProcessor(dict(job.headers)) for job in jobs.values()]
        bodies = self.handler.handle([{} if j.cached_in_backend else j.row for j in jobs.values()], self.context)
        assert len(bodies) == len(jobs)
        for index, request_id in self.context.request_ids.items():
            self._deliver(request_id, index, bodies[index])

    def run(self) -> None:
        """Call until every request is answered."""
        for _ in range(200):
            if not self.jobs:
                return
            self.call()
        raise AssertionError(f"never answered: {sorted(self.jobs)}")

    def _submit(self, job: Job) -> Job:
        request_id = f"request-{next(self._numbers)}"
        self.jobs[request_id] = job
        return job

    def _deliver(self, request_id: str, index: int, body: bytes) -> None:
        job = self.jobs[request_id]
        job.calls += 1
        criteria = self.context.stopping_criteria
        last = criteria[index](body) if self.model_config["continuousBatching"] else None
        code, phrase = self.context.get_response_status(index)
        stream_next = self.context.get_response_headers(index).get("ts_stream_next")
        assert "\n" not in (phrase or "")
        assert (phrase or "").isascii()
        assert stream_next == ("false" if job.grpc else None), "gRPC needs the guard, HTTP breaks on it"
        assert not (job.grpc and last is not None), "gRPC is dropped after a chunk"
        assert not (last is True and not job.chunks), "an answer that begins with its last chunk hangs"
        if job.status is None:
            job.status, job.content_type = code, self.context.get_response_content_type(index)
            job.response_headers = self.context.get_response_headers(index)
        job.chunks.append(body)
        job.answered = last is not False
        if job.answered or job.gone:
            del self.jobs[request_id]
        else:
            job.cached_in_backend = True


def image(word: bytes, **options: object) -> dict[str, object]:
    """An HTTP item with an image and options as multipart parts."""
    return {"image": bytearray(word)} | {name: str(value).encode() for name, value in options.items()}


def events(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    """The lines of the handler's log about an event; all of its lines are of the form that log4j2.xml passes on."""
    handler = re.search(r'name="handler">MODEL_LOG (.*)</Property>', LOG4J.read_text(encoding="utf-8"))
    assert handler is not None
    written = [record.getMessage() for record in caplog.records if record.name == "handlers.journal"]
    assert all(re.fullmatch(handler[1], line) for line in written)
    return [line for line in map(json.loads, written) if line["event"] == event]
