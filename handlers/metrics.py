"""What is measured while serving. Names, units and kinds are declared in metrics.yaml, which the server reads too."""

from typing import Any

from ts.metrics.metric_cache_errors import MetricsCacheKeyError
from ts.metrics.metric_type_enum import MetricTypes

from handlers.exchange import Exchange
from handlers.failure import Failure
from handlers.response import timing_ms
from prelim.errors import DeadlineExceeded, InternalError, NonFiniteOutput
from prelim.report import Report

LEVEL = "Model"

NONE = "none"
"""The instructions of steps that are not compiled."""

KINDS = {
    "prelim_queue_seconds": MetricTypes.HISTOGRAM,
    "prelim_preprocess_seconds": MetricTypes.HISTOGRAM,
    "prelim_vision_seconds": MetricTypes.HISTOGRAM,
    "prelim_decode_seconds": MetricTypes.HISTOGRAM,
    "prelim_report_seconds": MetricTypes.HISTOGRAM,
    "prelim_batch_occupancy_ratio": MetricTypes.HISTOGRAM,
    "prelim_draft_tokens_total": MetricTypes.COUNTER,
    "prelim_accepted_tokens_total": MetricTypes.COUNTER,
    "prelim_tokens_generated_total": MetricTypes.COUNTER,
    "prelim_rejected_total": MetricTypes.COUNTER,
    "prelim_non_finite_total": MetricTypes.COUNTER,
    "prelim_cancelled_total": MetricTypes.COUNTER,
    "prelim_active_requests": MetricTypes.GAUGE,
    "prelim_slots": MetricTypes.GAUGE,
    "prelim_compiled_step": MetricTypes.GAUGE,
}


class Metrics:
    """Writes one model's metrics.

    cache      : TorchServe's metric cache, made from metrics.yaml
    model_name : the dimension that tells models apart
    """

    def __init__(self, cache: Any, model_name: str) -> None:
        self._metrics = {name: _declare(cache, name, kind) for name, kind in KINDS.items()}
        self._model_name = model_name

    def report(self, report: Report, exchange: Exchange) -> None:
        """A report went out: where its time went, and how long it is."""
        for part, milliseconds in timing_ms(report, exchange).items():
            self._write(f"prelim_{part}_seconds", milliseconds / 1000)
        self._write("prelim_report_seconds", exchange.queued_ms / 1000 + exchange.seconds)
        self._write("prelim_tokens_generated_total", report.num_tokens)

    def failure(self, failure: Failure) -> None:
        """A request got an error instead of a report."""
        self._write("prelim_rejected_total", 1, str(failure.code), failure.type)
        if failure.type == NonFiniteOutput.__name__:
            self._write("prelim_non_finite_total", 1)

    def canceled(self, count: int) -> None:
        """So many clients went away before their reports were finished."""
        self._write("prelim_cancelled_total", count)

    def drafts(self, proposed: int, accepted: int) -> None:
        """So many draft tokens were proposed, and so many of them became part of a report."""
        if proposed:
            self._write("prelim_draft_tokens_total", proposed)
            self._write("prelim_accepted_tokens_total", accepted)

    def batch(self, active: int, slots: int) -> None:
        """How full the batch is that is decoded next."""
        self._write("prelim_batch_occupancy_ratio", active / slots)

    def active(self, count: int) -> None:
        """How many requests are still in the batch after a call of the handler."""
        self._write("prelim_active_requests", count)

    def describe(self, slots: int, *, compiled: bool, instructions: str | None) -> None:
        """Write what a loaded model is.

        slots        : how many requests it decodes together
        compiled     : whether its steps are compiled, or need not be
        instructions : those that they are compiled to
        """
        # Prometheus would miss the first increase of a counter that begins with it.
        for name, kind in KINDS.items():
            if kind is MetricTypes.COUNTER and name != "prelim_rejected_total":
                self._write(name, 0)
        self._write("prelim_active_requests", 0)
        for error in (InternalError, NonFiniteOutput, DeadlineExceeded):
            self._write("prelim_rejected_total", 0, str(error.status), error.__name__)
        self._write("prelim_slots", slots)
        self._write("prelim_compiled_step", int(compiled), instructions or NONE)

    def _write(self, name: str, value: float, *dimensions: str) -> None:
        self._metrics[name].add_or_update(value, [*dimensions, self._model_name, LEVEL])


def _declare(cache: Any, name: str, kind: MetricTypes) -> Any:
    try:
        return cache.get_metric(name, kind)
    except MetricsCacheKeyError as error:
        raise RuntimeError(
            f"the metric {name} is not declared; config.properties must say metrics_config=handlers/metrics.yaml"
        ) from error
