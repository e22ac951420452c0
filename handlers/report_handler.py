"""The entry point of every archive: TorchServe calls `initialize` once and `handle` for every batch.

With continuousBatching, `handle` is called again and again with all requests that have no final answer yet, and
one that is not finished is left out of the answer: see docs/decisions/0008-in-flight-batching-over-http-and-grpc.md.
"""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from handlers import completion_response, response
from handlers.completion import read_completion
from handlers.exchange import Exchange
from handlers.failure import Failure, attempt
from handlers.flight import Flight, Outcome
from handlers.metrics import Metrics
from handlers.request import is_grpc, read_request
from handlers.response import Answer, AnswerFormat, ServedModel, model_answer
from handlers.route import COMPLETIONS, MODELS, OPENAI, path_of, unknown_path
from handlers.settings import Settings
from prelim.errors import ArchiveError, InvalidOption
from prelim.report_generator import ReportGenerator

logger = logging.getLogger(__name__)


class ReportHandler:
    """Serves one archive. Requests are in `flight`, and what is decoded of them in `generator`, by request id."""

    initialized = False

    def initialize(self, context: Any) -> None:
        """Load the archive that TorchServe has unpacked, and warm it up.

        Raises RuntimeError, which TorchServe reports as a failed load, when the archive cannot be used.
        """
        properties = context.system_properties
        on_gpu = properties.get("gpu_id") is not None and torch.cuda.is_available()
        device = f"cuda:{properties['gpu_id']}" if on_gpu else "cpu"
        started = time.monotonic()
        try:
            self.settings = Settings.read(context.model_yaml_config)
            torch.set_num_threads(self.settings.threads)
            self.generator = ReportGenerator.load(
                Path(properties["model_dir"]),
                device=device,
                slots=max(1, properties.get("batch_size") or 1),
                threads=self.settings.threads,
                share_weights=self.settings.share_weights,
                max_cache_mb=self.settings.max_cache_mb,
            )
        except ArchiveError as error:
            raise RuntimeError(str(error)) from None
        generator, config = self.generator, self.generator.config
        self.model = ServedModel(config.name, config.version, config.architecture, generator.sha256)
        self.metrics = Metrics(context.metrics, context.model_name)
        self.flight = Flight(
            self.generator, lambda running: self.metrics.batch(running, self.generator.slots), self.settings.deadline_s
        )
        generator.warm_up()
        self.metrics.compiled(generator.not_compiled is None)
        if generator.not_compiled is not None:
            logger.warning("decoding steps are not compiled, and slower: %s", generator.not_compiled)
        self.initialized = True
        logger.info(
            "%s %s is ready after %.1f s on %s with %d slots and %d threads",
            *(config.name, config.version, time.monotonic() - started, device, generator.slots, self.settings.threads),
        )
        logger.info(
            "KV cache: at most %.0f MB, %d columns for each of %d slots; deadline of a request: %g s",
            *(generator.max_cache_mb, generator.max_columns, generator.slots, self.settings.deadline_s),
        )

    def handle(self, data: list[Mapping[str, Any]], context: Any) -> list[bytes]:
        """Answer, or bring forward, every request of a batch. Never raises for what a request contains."""
        ids = dict(context.request_ids)
        gone = self.flight.drop_absent(set(ids.values()))
        if gone:
            self.metrics.cancelled(len(gone))
            logger.info("cancelled, the client has gone: %s", " ".join(gone))
        answers: dict[int, Answer] = {}
        for index, request_id in ids.items():
            if request_id not in self.flight.exchanges:
                answer = self._enter(request_id, data[index], context.get_all_request_header(index))
                if answer is not None:
                    answers[index] = answer
        exchanges = dict(self.flight.exchanges)
        outcomes = self._decode()
        for index, request_id in ids.items():
            if request_id in outcomes:
                answers[index] = self._answer(request_id, outcomes[request_id], exchanges[request_id])
        return self._respond(ids, answers, exchanges, context)

    def _enter(self, request_id: str, row: Mapping[str, Any], headers: Mapping[str, Any]) -> Answer | None:
        """Take a new request in; an answer, if it needs no decoding."""
        # The management API asks so, without any field. A client's header of that name must not change its request.
        if headers.get("describe") == "True" and not row:
            return model_answer(self.model)
        path = path_of(headers)
        if path in (MODELS, f"{MODELS}/{self.model.name}"):
            return completion_response.models_answer(path, self.generator, self.model)
        refused = attempt(lambda: self.flight.enter(request_id, self._read(row, headers)))
        if not isinstance(refused, Failure):
            return None
        form: AnswerFormat = completion_response if path.startswith(OPENAI) else response
        return self._failed(request_id, refused, form.failure_answer(refused))

    def _read(self, row: Mapping[str, Any], headers: Mapping[str, Any]) -> Exchange:
        if path_of(headers) == COMPLETIONS:
            exchange = read_completion(row, headers, self.generator)
        elif path_of(headers).startswith(OPENAI):
            raise unknown_path(path_of(headers), self.model.name)
        else:
            num_features = math.prod(self.generator.image_features_shape)
            exchange = read_request(row, headers, self.generator.config.generation, num_features)
        if exchange.stream and not self.settings.in_flight:
            raise InvalidOption("stream is true, but this model is served with continuousBatching: false")
        return exchange

    def _decode(self) -> dict[str, Outcome]:
        if not self.flight.exchanges:
            return {}
        steps = self.settings.steps_per_handle
        outcomes = self.flight.advance(steps) if self.settings.in_flight else self.flight.advance_to_end(steps)
        self.metrics.active(len(self.generator.running))
        return outcomes

    def _answer(self, request_id: str, outcome: Outcome, exchange: Exchange) -> Answer:
        form = _answer_format(exchange)
        if isinstance(outcome, Failure):
            return self._failed(request_id, outcome, form.failure_answer(outcome, exchange))
        answer = attempt(lambda: form.report_answer(outcome, exchange, self.model))
        if isinstance(answer, Failure):
            return self._failed(request_id, answer, form.failure_answer(answer, exchange))
        self.metrics.report(outcome, exchange)
        logger.info("%s: 200, %d tokens, %s", request_id, outcome.num_tokens, outcome.finish_reason)
        return answer

    def _failed(self, request_id: str, failure: Failure, answer: Answer) -> Answer:
        self.metrics.failure(failure)
        logger.info("%s: %d %s", request_id, failure.code, failure.type)
        return answer

    def _respond(
        self, ids: Mapping[int, str], answers: Mapping[int, Answer], exchanges: Mapping[str, Exchange], context: Any
    ) -> list[bytes]:
        """Bodies by index; one that is not sent is empty, and its index is removed from the context."""
        bodies = [b""] * len(ids)
        # What the frontend is told after each body: False more follows, True this was the last, None it was the only.
        stops: list[bool | None] = [None] * len(ids)
        for index, request_id in ids.items():
            exchange = exchanges.get(request_id)
            grpc = is_grpc(context.get_all_request_header(index))
            if index in answers:
                answer = answers[index]
                bodies[index] = answer.body
                stops[index] = True if exchange is not None and exchange.chunked else None
                context.set_response_content_type(index, answer.content_type)
                if answer.code != 200:
                    context.set_response_status(answer.code, answer.phrase, index)
                    # The gateway tells a 500 of ours, which is final, from that of a worker that has died by it.
                    context.set_response_header(index, "X-Answered-By", "handler")
                if grpc:
                    # StreamPredictions would otherwise end in a NullPointerException that kills the worker.
                    context.set_response_header(index, "ts_stream_next", "false")
            elif exchange is not None and (chunk := self._chunk(request_id, exchange)):
                bodies[index], stops[index], exchange.chunked = chunk, False, True
                context.set_response_content_type(index, _answer_format(exchange).content_type(exchange))
            else:
                del context.request_ids[index]
        if self.settings.in_flight:
            context.stopping_criteria = [lambda _, stop=stop: stop for stop in stops]
        return bodies

    def _chunk(self, request_id: str, exchange: Exchange) -> bytes:
        """What to send of an answer that is not finished; empty when there is nothing new to say."""
        form = _answer_format(exchange)
        if exchange.stream:
            text = attempt(lambda: self.generator.new_text(request_id))
            if text and not isinstance(text, Failure):
                chunk = form.text_chunk(text, exchange, self.model)
                exchange.sent_characters += len(text)
                return chunk
        old = time.monotonic() - exchange.arrived > self.settings.heartbeat_s
        return form.heartbeat(exchange) if old and not exchange.grpc else b""


def _answer_format(exchange: Exchange) -> AnswerFormat:
    return response if exchange.completion is None else completion_response
