"""The entry point of every archive: TorchServe calls `initialize` once and `handle` for every batch.

With continuousBatching, `handle` is called again and again with all requests that have no final answer yet, and
one that is not finished is left out of the answer: see docs/decisions/0008-in-flight-batching-over-http-and-grpc.md.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from handlers import completion_response, response
from handlers.auditor import Auditor
from handlers.completion import read_completion
from handlers.device import choose_device, warn_of_gpu
from handlers.exchange import Exchange
from handlers.failure import Failure, attempt
from handlers.flight import Flight, ReportOrFailure
from handlers.journal import log
from handlers.metrics import NONE, Metrics
from handlers.only_worker import claim
from handlers.request import read_request
from handlers.response import Answer, AnswerFormat, ServedModel, model_answer
from handlers.route import COMPLETIONS, MODELS, OPENAI, find_id, is_grpc, path_of, unknown_path
from handlers.settings import Settings
from prelim.audit.machine import describe_processor
from prelim.errors import ArchiveError, AuditError, InvalidOption
from prelim.images.decoding_process import DECODING
from prelim.report import Report
from prelim.report_generator import ReportGenerator


class ReportHandler:
    """Serves one archive. Requests are in `flight`, and what is decoded of them in `generator`, by request id."""

    initialized = False

    def initialize(self, context: Any) -> None:
        """Load the archive that TorchServe has unpacked, and warm it up.

        Raises RuntimeError, which TorchServe reports as a failed load, when the archive cannot be used.
        """
        properties = context.system_properties
        device = choose_device(properties.get("gpu_id"))
        on_gpu = device != "cpu"
        started = time.monotonic()
        try:
            self.settings = Settings.read(context.model_yaml_config)
            if self.settings.in_flight:
                self._claim = claim(Path(properties["model_dir"]))
            torch.set_num_threads(self.settings.threads)
            self.generator = ReportGenerator.load(
                Path(properties["model_dir"]),
                device=device,
                slots=properties.get("batch_size") or 1,
                threads=self.settings.threads,
                share_weights=self.settings.share_weights,
                max_cache_mb=self.settings.max_cache_mb,
                max_new_tokens=self.settings.max_new_tokens,
            )
            generator, config = self.generator, self.generator.config
            self.model = ServedModel.of(config, generator.sha256)
            self.auditor = Auditor.of_site(os.environ, self.model, config.generation, self.settings, device)
        except (ArchiveError, AuditError) as error:
            raise RuntimeError(str(error)) from None
        self.metrics = Metrics(context.metrics, context.model_name)
        self.flight = Flight(
            self.generator, lambda running: self.metrics.batch(running, self.generator.slots), self.settings.deadline_s
        )
        generator.warm_up()
        # On a GPU, steps are PyTorch's: that is not a fault.
        compiled = generator.not_compiled is None or on_gpu
        self.metrics.describe(generator.slots, compiled=compiled, instructions=generator.instructions)
        if generator.not_compiled is not None:
            log("not_compiled", reason=generator.not_compiled)
        if generator.other_family is not None:
            log("other_processor", chosen_for=generator.other_family, precision=config.precision)
        warn_of_gpu(device, generator.encoder_device, config.precision)
        self.initialized = True
        log(
            "ready",
            model=config.name,
            version=config.version,
            seconds=round(time.monotonic() - started, 1),
            device=device,
            processor=describe_processor(device),
            encoder_device=generator.encoder_device,
            slots=generator.slots,
            threads=self.settings.threads,
            instructions=generator.instructions or NONE,
            cache_mb=round(generator.max_cache_mb),
            columns_per_slot=generator.max_columns,
            encoded_together=generator.encoded_together,
            deadline_s=self.settings.deadline_s,
            sandbox="bubblewrap" if DECODING.is_sandboxed else "none",
            audit="off" if self.auditor is None else "on",
        )

    def handle(self, data: list[Mapping[str, Any]], context: Any) -> list[bytes]:
        """Answer or advance every request of a batch. Never raises for what a request contains."""
        ids = dict(context.request_ids)
        gone = self.flight.drop_absent(set(ids.values()))
        if gone:
            self.metrics.canceled(len(gone))
            for exchange in gone:
                log("client_gone", request=exchange.name, seconds=exchange.seconds)
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
                answers[index] = self._answer(outcomes[request_id], exchanges[request_id])
        return self._respond(ids, answers, exchanges, context)

    def _enter(self, request_id: str, row: Mapping[str, Any], headers: Mapping[str, Any]) -> Answer | None:
        """Take a new request in; an answer, if it needs no decoding."""
        # The management API asks so, without any field. A client's header of that name must not change its request.
        if headers.get("describe") == "True" and not row:
            return model_answer(self.model)
        path, name = path_of(headers), find_id(row, headers, request_id)
        if path in (MODELS, f"{MODELS}/{self.model.name}"):
            return completion_response.models_answer(path, self.generator, self.model)
        form: AnswerFormat = completion_response if path.startswith(OPENAI) else response
        exchange = attempt(lambda: self._read(row, headers, name))
        if isinstance(exchange, Failure):
            return self._failed(name, exchange, form.failure_answer(exchange, name))
        refused = attempt(lambda: self.flight.enter(request_id, exchange))
        return None if refused is None else self._failed(name, refused, form.failure_answer(refused, name, exchange))

    def _read(self, row: Mapping[str, Any], headers: Mapping[str, Any], name: str) -> Exchange:
        if path_of(headers) == COMPLETIONS:
            exchange = read_completion(row, headers, self.generator)
        elif path_of(headers).startswith(OPENAI):
            raise unknown_path(path_of(headers), self.model.name)
        else:
            num_features = math.prod(self.generator.image_features_shape)
            exchange = read_request(row, headers, self.generator.config.generation, num_features)
        if exchange.stream and not self.settings.in_flight:
            raise InvalidOption("stream is true, but this model is served with continuousBatching: false", "stream")
        exchange.name = name
        if self.auditor is not None:
            exchange.request = self.auditor.repeatable(exchange.request)
        return exchange

    def _decode(self) -> dict[str, ReportOrFailure]:
        if not self.flight.exchanges:
            return {}
        steps = self.settings.steps_per_handle
        outcomes = self.flight.advance(steps) if self.settings.in_flight else self.flight.advance_to_end(steps)
        self.metrics.active(len(self.generator.running))
        self.metrics.drafts(*self.generator.take_draft_counts())
        return outcomes

    def _answer(self, outcome: ReportOrFailure, exchange: Exchange) -> Answer:
        form, name = _answer_format(exchange), exchange.name
        if isinstance(outcome, Failure):
            return self._failed(name, outcome, form.failure_answer(outcome, name, exchange))
        answer = attempt(lambda: self._recorded(form, outcome, exchange))
        if isinstance(answer, Failure):
            return self._failed(name, answer, form.failure_answer(answer, name, exchange))
        self.metrics.report(outcome, exchange)
        log(
            "answer",
            request=name,
            code=200,
            tokens=outcome.num_tokens,
            finish_reason=outcome.finish_reason,
            warnings=len(outcome.warnings),
            seconds=exchange.seconds,
        )
        return answer

    def _recorded(self, form: AnswerFormat, report: Report, exchange: Exchange) -> Answer:
        """The answer with a report, which is in the audit log before. Raises NotAudited if it cannot be."""
        answer = form.report_answer(report, exchange, self.model)
        if self.auditor is not None:
            self.auditor.record(report, exchange)
        return answer

    def _failed(self, name: str, failure: Failure, answer: Answer) -> Answer:
        self.metrics.failure(failure)
        if self.auditor is not None:
            self.auditor.refuse(name, failure)
        log("answer", request=name, code=failure.code, reason=failure.type)
        return answer

    def _respond(
        self, ids: Mapping[int, str], answers: Mapping[int, Answer], exchanges: Mapping[str, Exchange], context: Any
    ) -> list[bytes]:
        """Bodies by index; one that is not sent is empty, and its index is removed from the context."""
        bodies = [b""] * len(ids)
        # For the frontend, after each body. False: more chunks follow; True: last chunk; None: complete response.
        stops: list[bool | None] = [None] * len(ids)
        for index, request_id in ids.items():
            exchange = exchanges.get(request_id)
            grpc = is_grpc(context.get_all_request_header(index))
            if index in answers:
                answer = answers[index]
                bodies[index] = answer.body
                stops[index] = True if exchange is not None and exchange.chunked else None
                context.set_response_content_type(index, answer.content_type)
                if answer.code != 200 and stops[index] is None:
                    context.set_response_status(answer.code, answer.phrase, index)
                    # nginx drops the body of an error that may be TorchServe's (docs/gateway.md).
                    context.set_response_header(index, "X-Prelim-Error", json.dumps(json.loads(answer.body)))
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
