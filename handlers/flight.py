"""The requests that have no outcome yet, and what happens to them when something fails."""

import time
from collections.abc import Callable, Collection

from handlers.exchange import Exchange
from handlers.failure import INTERNAL, Failure, attempt
from handlers.journal import log
from prelim.errors import DeadlineExceeded, RequestError
from prelim.report import Report
from prelim.report_generator import ReportGenerator

MAX_FAILURES_IN_A_ROW = 3

ReportOrFailure = Report | Failure


class Flight:
    """The requests that have no outcome yet, and the policy of failures. The generator owns what is decoded.

    generator  : reads the images and decodes
    on_batch   : called before each decode with the number of requests that are decoded together
    deadline_s : seconds from its arrival, the wait for a slot included, after which a request fails
    exchanges  : requests without an outcome, by request id, in the order of their arrival
    """

    def __init__(self, generator: ReportGenerator, on_batch: Callable[[int], None], deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.exchanges: dict[str, Exchange] = {}
        self._generator = generator
        self._on_batch = on_batch
        self._failures_in_a_row = 0

    def enter(self, request_id: str, exchange: Exchange) -> None:
        """Let a request wait for a slot. Raises InputError for what the model cannot take."""
        self._generator.add(request_id, exchange.request)
        self.exchanges[request_id] = exchange

    def drop_absent(self, present: Collection[str]) -> list[Exchange]:
        """Free the slots of requests that the frontend no longer sends: their clients have gone."""
        gone = {request_id: exchange for request_id, exchange in self.exchanges.items() if request_id not in present}
        for request_id in gone:
            self._leave(request_id)
        return list(gone.values())

    def advance(self, max_steps: int) -> dict[str, ReportOrFailure]:
        """Fail late requests and decode the others, at most `max_steps` steps.

        returns : the outcomes of the requests that have ended
        """
        outcomes = self._end_late()
        outcomes |= self._step(max_steps)
        for request_id in outcomes:
            self._leave(request_id)
        return outcomes

    def advance_to_end(self, max_steps: int) -> dict[str, ReportOrFailure]:
        """Decode until every request has an outcome, which takes no longer than the deadline."""
        outcomes: dict[str, ReportOrFailure] = {}
        while self.exchanges:
            outcomes |= self.advance(max_steps)
        return outcomes

    def _end_late(self) -> dict[str, ReportOrFailure]:
        """Fail the requests that are over the deadline; their slots are free for others at once."""
        begin = time.monotonic() - self.deadline_s
        late = [request_id for request_id, exchange in self.exchanges.items() if exchange.arrived < begin]
        for request_id in late:
            self._leave(request_id)
        error = DeadlineExceeded(
            f"no report after {self.deadline_s:g} s, the wait for a slot included; ask for fewer beams or tokens, or "
            "try again when the server is less busy"
        )
        return dict.fromkeys(late, Failure.of(error))

    def _step(self, max_steps: int) -> dict[str, ReportOrFailure]:
        """Decode. An exception here has no single request as its cause: all fail."""
        if not self.exchanges:
            return {}
        self._on_batch(min(len(self.exchanges), self._generator.slots))
        ends = attempt(lambda: self._generator.step(max_steps))
        if not isinstance(ends, Failure):
            self._failures_in_a_row = 0
            return {key: Failure.of(end) if isinstance(end, RequestError) else end for key, end in ends.items()}
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            # A device that is lost stays lost for this process. TorchServe starts another worker and answers
            # the requests of this one with 507.
            log("worker_gives_up", failures_in_a_row=self._failures_in_a_row)
            raise SystemExit(1)
        self._generator.reset()
        return dict.fromkeys(self.exchanges, INTERNAL)

    def _leave(self, request_id: str) -> None:
        self.exchanges.pop(request_id, None)
        self._generator.cancel(request_id)
