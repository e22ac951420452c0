"""A generator that writes words by counting, and fails where a test wants it to."""

from collections.abc import Collection
from types import SimpleNamespace

from prelim.errors import InternalError, InvalidOption, NonFiniteOutput, NotAnImage, RequestError
from prelim.generation.options import GenerationOptions
from prelim.report import Alternative, Report, Token, sections
from prelim.report_generator import ReportRequest


class FakeGenerator:
    """The API of ReportGenerator. An image is a word, and its report repeats this word `max_new_tokens` times.

    b"broken" is not an image; b"nan" and b"crash" fail in their first step, and b"lost" has a
    report without a log-probability; while `faulty` is set, `step` raises.
    """

    def __init__(self, slots: int = 4) -> None:
        self.config = SimpleNamespace(
            name="fake",
            version="7",
            architecture="words",
            licence="none",
            use="research",
            precision="int8",
            generation=GenerationOptions(max_new_tokens=6),
        )
        self.sha256 = "0" * 64
        self.image_features_shape = (49, 576)
        self.slots = slots
        self.not_compiled: str | None = None
        self.instructions: str | None = "avx2"
        self.other_family: str | None = None
        self.encoder_device = "cpu"
        self.max_images = 4
        self.encoded_together = 1
        self.takes_prompts = self.takes_messages = True
        self.accepts = ("indication", "age")
        self.max_columns, self.max_cache_mb = 2560, 7.5
        self.faulty = False
        self.warmed_up = False
        self.batches: list[set[str]] = []
        self.seen: dict[str, ReportRequest] = {}
        self._written: dict[str, int] = {}
        self._told: dict[str, int] = {}

    @property
    def active(self) -> Collection[str]:
        """Ids of the requests that have not ended."""
        return self._written.keys()

    @property
    def running(self) -> Collection[str]:
        """Ids of the requests that have a slot."""
        return list(self._written)[: self.slots]

    def take_draft_counts(self) -> tuple[int, int]:
        """It has none."""
        return 0, 0

    def add(self, request_id: str, request: ReportRequest) -> None:
        """Let a request wait for a slot."""
        if request.prompt == "refused":
            raise InvalidOption("prompt is set, but fake takes none; leave it out")
        self.seen[request_id] = request
        self._written[request_id] = 0

    def step(self, max_steps: int = 1) -> dict[str, Report | RequestError]:
        """Write up to `max_steps` words of every request that has a slot; returns the ones that end."""
        self.batches.append(set(self.running))
        if self.faulty:
            raise RuntimeError("patient Mueller")
        failed = {key: _error(self.seen[key].image) for key in self.running}
        if ended := {key: error for key, error in failed.items() if error is not None}:
            for request_id in ended:
                del self._written[request_id]
            return ended
        finished = []
        for _ in range(max_steps):
            for request_id in self.running:
                self._written[request_id] += 1
            finished = [i for i, done in self._written.items() if done >= self.seen[i].options.max_new_tokens]
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
        self._written.pop(request_id, None)

    def reset(self) -> None:
        """Forget all requests."""
        self._written.clear()

    def warm_up(self) -> None:
        """Note that it was called."""
        self.warmed_up = True

    def _text(self, request_id: str) -> str:
        word = (self.seen[request_id].image or b"features").decode()
        return " ".join([word] * self._written[request_id])

    def _report(self, request_id: str) -> Report:
        text = self._text(request_id)
        request = self.seen[request_id]
        images = request.images or (request.image,)
        count = self._written.pop(request_id)
        tokens = tuple(Token("word", -0.5) for _ in range(count)) if request.return_logprobs else ()
        return Report(
            text,
            *sections(text),
            finish_reason="length",
            token_ids=tuple(range(count)),
            avg_logprob=float("nan") if request.image == b"lost" else -0.5,
            alternatives=(Alternative("another", -1.0, "eos", 2, tokens[:2]),) * (request.options.rows - 1),
            tokens=tokens,
            num_prompt_tokens=9,
            timing_ms={"queue": 0.0, "preprocess": 1.0, "vision": 2.0, "decode": 3.0},
            pictures=tuple(b"PNG of " + image for image in images) if request.return_image else (),
        )


def _error(image: bytes | None) -> RequestError | None:
    if image == b"broken":
        return NotAnImage("these bytes are not an image")
    if image == b"nan":
        return NonFiniteOutput("the decoder computed NaN or infinity for this request")
    if image == b"crash":
        error = InternalError()
        try:
            raise LookupError("patient Mueller")
        except LookupError as cause:
            error.__cause__ = cause
        return error
    return None
