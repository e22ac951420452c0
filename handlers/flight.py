"""The requests that are being decoded, and what happens to them when something fails."""

import logging
import time
from collections.abc import Callable, Collection

from handlers.failure import INTERNAL, Failure, attempt
from handlers.request import Exchange
from prelim.report import Report
from prelim.report_generator import ReportGenerator

logger = logging.getLogger(__name__)

MAX_FAILURES_IN_A_ROW = 3

Outcome = Report | Failure


class Flight:
    """Everything between a request's arrival and its outcome.

    generator : reads the images and decodes
    exchanges : requests that have no outcome yet, by request id, in the order of their arrival
    on_batch  : is told before every decoding how many requests take part
    """

    def __init__(self, generator: ReportGenerator, on_batch: Callable[[int], None]) -> None:
        self.generator = generator
        self.on_batch = on_batch
        self.exchanges: dict[str, Exchange] = {}
        self._waiting: dict[str, Exchange] = {}
        self._failures_in_a_row = 0

    def enter(self, request_id: str, exchange: Exchange) -> None:
        """Let a request wait for a slot."""
        self.exchanges[request_id] = exchange
        self._waiting[request_id] = exchange

    def drop_absent(self, present: Collection[str]) -> list[str]:
        """Free the slots of requests that the frontend no longer sends: their clients have gone."""
        gone = [request_id for request_id in self.exchanges if request_id not in present]
        for request_id in gone:
            self._leave(request_id)
        return gone

    def advance(self, max_steps: int) -> dict[str, Outcome]:
        """Admit those that wait while there are slots, decode at most `max_steps` steps, return who is finished."""
        outcomes = self._admit_waiting()
        outcomes |= self._step(max_steps)
        for request_id in outcomes:
            self._leave(request_id)
        return outcomes

    def advance_to_end(self, max_steps: int, seconds: float) -> dict[str, Outcome]:
        """Decode until every request has an outcome; those that have none after `seconds` fail."""
        deadline = time.monotonic() + seconds
        outcomes: dict[str, Outcome] = {}
        while self.exchanges and time.monotonic() < deadline:
            outcomes |= self.advance(max_steps)
        late = Failure(503, "Overloaded", f"no report after {seconds:.0f} s; ask for fewer tokens or try again later")
        for request_id in list(self.exchanges):
            outcomes[request_id] = late
            self._leave(request_id)
        return outcomes

    def _admit_waiting(self) -> dict[str, Outcome]:
        batch = list(self._waiting)[: self.generator.free_slots]
        return self._admit(batch) if batch else {}

    def _admit(self, batch: list[str]) -> dict[str, Outcome]:
        """Admit a batch together; if that fails unexpectedly one by one, so that only the culprit fails."""
        now = time.monotonic()
        requests = {request_id: self._waiting[request_id].request for request_id in batch}
        refused = attempt(lambda: self.generator.admit(requests))
        if isinstance(refused, Failure):
            self._cancel(batch)
            if len(batch) == 1:
                return {batch[0]: refused}
            outcomes: dict[str, Outcome] = {}
            for request_id in batch:
                outcomes |= self._admit([request_id])
            return outcomes
        for request_id in batch:
            exchange = self._waiting.pop(request_id)
            exchange.queued_ms += 1000 * (now - exchange.arrived)
        return {request_id: Failure.of(error) for request_id, error in refused.items()}

    def _step(self, max_steps: int) -> dict[str, Outcome]:
        """Decode. A failure here cannot be blamed on one request: all that are in the batch fail."""
        if not self.generator.active:
            return {}
        self.on_batch(len(self.generator.active))
        reports = attempt(lambda: self.generator.step(max_steps))
        if not isinstance(reports, Failure):
            self._failures_in_a_row = 0
            return dict(reports)
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            # A device that is lost stays lost for this process. TorchServe starts another worker and answers
            # the requests of this one with 507.
            logger.error("decoding failed %d times in a row; the worker ends", self._failures_in_a_row)
            raise SystemExit(1)
        failed: dict[str, Outcome] = dict.fromkeys(self.generator.active, INTERNAL)
        self.generator.reset()
        return failed

    def _leave(self, request_id: str) -> None:
        self.exchanges.pop(request_id, None)
        self._waiting.pop(request_id, None)
        self._cancel([request_id])

    def _cancel(self, request_ids: Collection[str]) -> None:
        for request_id in set(request_ids) & set(self.generator.active):
            self.generator.cancel(request_id)
