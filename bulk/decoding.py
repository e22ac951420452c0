"""One generator for many threads: it decodes in a thread of its own whatever they have asked for."""

import itertools
import queue
import threading
from concurrent.futures import Future

from prelim.errors import InputError, InternalError
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest

_STEPS = 8
"""Decoding steps between two looks at what has been asked for."""


class DecodingThread:
    """Decodes requests of several threads together.

    Slots that the end of one block leaves free are filled from the next one.
    """

    def __init__(self, generator: ReportGenerator) -> None:
        self._generator = generator
        self._asked: queue.SimpleQueue[tuple[ReportRequest, Future[Report]]] = queue.SimpleQueue()
        self._open: dict[str, Future[Report]] = {}
        self._numbers = itertools.count()
        threading.Thread(target=self._run, name="decoding", daemon=True).start()

    def submit(self, request: ReportRequest) -> "Future[Report]":
        """Ask for a report. The future has it, or a RequestError."""
        future: Future[Report] = Future()
        self._asked.put((request, future))
        return future

    def _run(self) -> None:
        while True:
            self._take()
            try:
                ended = self._generator.step(_STEPS)
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
                self._fail_all(error)
                continue
            for key, outcome in ended.items():
                future = self._open.pop(key)
                if isinstance(outcome, Report):
                    future.set_result(outcome)
                else:
                    future.set_exception(outcome)

    def _take(self) -> None:
        """Hand new requests to the generator; waits for one if it has none."""
        while True:
            try:
                request, future = self._asked.get(block=not self._open)
            except queue.Empty:
                return
            key = f"{next(self._numbers)}"
            try:
                self._generator.add(key, request)
            except InputError as error:
                future.set_exception(error)
            else:
                self._open[key] = future

    def _fail_all(self, error: Exception) -> None:
        """End all requests after a failure of a step, which may be of any of them."""
        self._generator.reset()
        for future in self._open.values():
            failure = InternalError()
            failure.__cause__ = error
            future.set_exception(failure)
        self._open.clear()
