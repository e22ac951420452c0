"""A generator that writes words by counting, and fails where a test wants it to."""

from collections.abc import Collection, Mapping
from types import SimpleNamespace

from prelim.errors import DecodingFailed, NonFiniteOutput, NotAnImage, RequestError
from prelim.generation.options import GenerationOptions
from prelim.report import Report, sections
from prelim.report_generator import ReportRequest


class FakeGenerator:
    """The API of ReportGenerator. An image is a word, and its report repeats this word `max_new_tokens` times.

    b"broken" is not an image, b"bug" raises in `admit`; b"nan" and b"crash" fail in their first step, and b"lost" has a
    report without a log-probability; while `faulty` is set, `step` raises.
    """

    def __init__(self, slots: int = 4) -> None:
        self.config = SimpleNamespace(
            name="fake", version="7", architecture="words", generation=GenerationOptions(max_new_tokens=6)
        )
        self.sha256 = "0" * 64
        self.image_features_shape = (49, 576)
        self.slots = slots
        self.not_compiled: str | None = None
        self.max_columns, self.max_cache_mb = 2560, 7.5
        self.faulty = False
        self.warmed_up = False
        self.batches: list[set[str]] = []
        self.seen: dict[str, ReportRequest] = {}
        self._in_flight: dict[str, int] = {}
        self._told: dict[str, int] = {}

    @property
    def active(self) -> Collection[str]:
        """Ids of the requests that are being decoded."""
        return self._in_flight.keys()

    @property
    def free_slots(self) -> int:
        """How many more requests can be admitted now."""
        return self.slots - len(self._in_flight)

    def admit(self, requests: Mapping[str, ReportRequest]) -> dict[str, RequestError]:
        """Let new requests into the batch; returns those that failed."""
        assert len(requests) <= self.free_slots
        failed: dict[str, RequestError] = {}
        for request_id, request in requests.items():
            self.seen[request_id] = request
            if request.image == b"bug":
                raise ZeroDivisionError("patient Mueller")
            if request.image == b"broken":
                failed[request_id] = NotAnImage("these bytes are not an image")
            else:
                self._in_flight[request_id] = 0
        return failed

    def step(self, max_steps: int = 1) -> dict[str, Report | RequestError]:
        """Write up to `max_steps` words of every request; returns the ones that end."""
        self.batches.append(set(self._in_flight))
        if self.faulty:
            raise RuntimeError("patient Mueller")
        failed = {key: _error(self.seen[key].image) for key in self._in_flight}
        if ended := {key: error for key, error in failed.items() if error is not None}:
            for request_id in ended:
                del self._in_flight[request_id]
            return ended
        finished = []
        for _ in range(max_steps):
            for request_id in self._in_flight:
                self._in_flight[request_id] += 1
            finished = [i for i, done in self._in_flight.items() if done >= self.seen[i].options.max_new_tokens]
            if finished:
                break
        return {request_id: self._report(request_id) for request_id in finished}

    def new_text(self, request_id: str) -> str:
        """The words since the last call, but for the last one, which is not decided yet."""
        decided = self._text(request_id).rpartition(" ")[0]
        told, self._told[request_id] = self._told.get(request_id, 0), len(decided)
        return decided[told:]

    def cancel(self, request_id: str) -> None:
        """Forget a request."""
        self._in_flight.pop(request_id, None)

    def reset(self) -> None:
        """Forget all requests."""
        self._in_flight.clear()

    def warm_up(self) -> None:
        """Note that it was called."""
        self.warmed_up = True

    def _text(self, request_id: str) -> str:
        word = (self.seen[request_id].image or b"features").decode()
        return " ".join([word] * self._in_flight[request_id])

    def _report(self, request_id: str) -> Report:
        text = self._text(request_id)
        tokens = self._in_flight.pop(request_id)
        timing = {"queue": 0.0, "preprocess": 1.0, "vision": 2.0, "decode": 3.0}
        logprob = float("nan") if self.seen[request_id].image == b"lost" else -0.5
        return Report(text, *sections(text), "length", tuple(range(tokens)), logprob, timing_ms=timing)


def _error(image: bytes | None) -> RequestError | None:
    if image == b"nan":
        return NonFiniteOutput("the decoder computed NaN or infinity for this request")
    if image == b"crash":
        error = DecodingFailed()
        try:
            raise LookupError("patient Mueller")
        except LookupError as cause:
            error.__cause__ = cause
        return error
    return None
