"""The straight line, in one place: bytes -> radiograph -> pixel_values -> image_features -> image_embeds -> report."""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from prelim.archive.archive import Archive, load_decoder, load_tokenizer, read_archive, unpack_archive
from prelim.archive.model_config import ModelConfig
from prelim.decoders.decoder import Decoder
from prelim.encoding.image_encoder import ImageEncoder, View
from prelim.encoding.onnx_session import Array
from prelim.errors import ArchiveError, InputError, InvalidOption, Overloaded, RequestError
from prelim.generation.columns import DEFAULT_COLUMNS, columns_needed
from prelim.generation.engine import DecodeRequest, Engine
from prelim.generation.hypothesis import Hypothesis
from prelim.generation.options import GenerationOptions
from prelim.generation.outcome import Outcome, isolate
from prelim.generation.prompt import Prompter
from prelim.generation.text_stream import TextStream, TextStreams
from prelim.report import Alternative, Report, cut_at_stop, sections

_MB = 2**20

Messages = tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class ReportRequest:
    """What a report is asked for.

    image          : a file's bytes: DICOM, PNG, JPEG, WebP or TIFF
    image_features : instead of an image, what the vision encoder gave for it, shape (num_tokens, width)
    prompt         : text for models that take one
    messages       : a conversation for models that hold one, each {"role": ..., "content": ...}
    options        : how to decode; None takes the model's defaults
    return_attention : what else the model says of the image comes with the report, such as where it looked
    """

    image: bytes | None = None
    image_features: Array | None = None
    prompt: str | None = None
    messages: Messages | None = None
    options: GenerationOptions | None = None
    return_attention: bool = False


@dataclass
class _InFlight:
    """What a report needs in addition to its tokens. Times are in seconds, `started` when decoding began.

    stream : what `new_text` has returned so far, None before its first call
    """

    request: ReportRequest
    options: GenerationOptions
    view: View
    prompt_ids: tuple[int, ...]
    arrived: float
    insights: Mapping[str, Array] = field(default_factory=dict)
    started: float = 0.0
    stream: TextStream | None = None


class ReportGenerator:
    """Writes reports with one model, many at once.

    Requests enter with `admit` at any time, `step` decodes all of them together and returns those that are
    finished. `generate` does both for a caller that has all its requests at hand.

    archive : an unpacked archive
    device  : "cpu" or "cuda"
    slots   : how many requests are decoded together
    threads : threads of ONNX Runtime; None takes PyTorch's number
    share_weights : weights are used where they lie in their file, which several processes can share;
              otherwise a CPU packs a copy of them, with which it is faster
    max_cache_mb : bound of the KV cache's memory in units of 2**20 bytes, from which follows how many beams and
              tokens a request may ask for; None: DEFAULT_COLUMNS columns for each slot, more where the model's
              default options need them

    not_compiled : why decoding steps are not compiled, None where they are

    Raises ArchiveError when `max_cache_mb` is too small for the model's default options.
    """

    def __init__(
        self,
        archive: Archive,
        *,
        device: str = "cpu",
        slots: int = 8,
        threads: int | None = None,
        share_weights: bool = False,
        max_cache_mb: float | None = None,
    ) -> None:
        self.config: ModelConfig = archive.config
        self.sha256 = archive.sha256
        self.slots = slots
        threads = threads or torch.get_num_threads()
        self._images = ImageEncoder(archive, device, threads, packed=not share_weights)
        self._tokenizer = load_tokenizer(archive.folder)
        self._streams = TextStreams(self._tokenizer)
        prompt = self.config.prompt
        words = self.config.decoder.get("vocab_size")
        self._prompter = None if prompt is None else Prompter(prompt, self._tokenizer, words)
        tokens = self.config.tokenizer
        decoder = load_decoder(archive, device, packed=not share_weights)
        self.not_compiled = decoder.not_compiled
        self._engine = Engine(
            decoder,
            slots=slots,
            eos_token_ids=[tokens.eos_token_id],
            pad_token_id=tokens.pad_token_id,
            detokenize=self._detokenize,
            max_columns=self._max_columns(decoder, max_cache_mb),
        )
        self._in_flight: dict[str, _InFlight] = {}

    @classmethod
    def load(cls, path: Path, **options: Any) -> "ReportGenerator":
        """Load an archive, a .mar or the folder into which one was unpacked, with the options of the class.

        Raises ArchiveError naming the file that is at fault.
        """
        if path.is_dir():
            return cls(read_archive(path), **options)
        # Weights are memory-mapped: they stay readable after their folder has been removed.
        with TemporaryDirectory(prefix="prelim-") as folder:
            return cls(unpack_archive(path, Path(folder)), **options)

    @property
    def image_features_shape(self) -> tuple[int, ...]:
        """Shape of the features that a client can send instead of an image."""
        return self._images.image_features_shape

    @property
    def active(self) -> Collection[str]:
        """Ids of the requests that are being decoded."""
        return self._in_flight.keys()

    @property
    def free_slots(self) -> int:
        """How many more requests can be admitted now."""
        return self._engine.free_slots

    @property
    def max_cache_mb(self) -> float:
        """What the KV cache never exceeds, in units of 2**20 bytes."""
        return self._engine.max_cache_bytes / _MB

    @property
    def max_columns(self) -> int:
        """Columns of the KV cache that one request may use."""
        return self._engine.max_columns

    def admit(self, requests: Mapping[str, ReportRequest]) -> dict[str, RequestError]:
        """Read, preprocess and encode new requests and let them into the batch.

        returns : the requests that failed, each with its own error; the others are not affected by them
        """
        arrived = time.perf_counter()
        failed: dict[str, RequestError] = {}
        entering: dict[str, _InFlight] = {}
        for request_id, request in requests.items():
            try:
                if len(entering) >= self.free_slots:
                    raise Overloaded(f"all {self.slots} places of this worker are taken; try again later")
                view = self._images.view(request.image, request.image_features)
                prompt_ids = self._prompt_ids(request)
                if request.return_attention and not self._images.has_insights:
                    raise InvalidOption(
                        f"return_attention is true, but {self.config.name} has no attention map to return; leave it out"
                    )
            except InputError as error:
                failed[request_id] = error
                continue
            options = request.options or self.config.generation
            entering[request_id] = _InFlight(request, options, view, prompt_ids, arrived)
        if entering:
            failed.update(self._enter(entering))
        return failed

    def step(self, max_steps: int = 1) -> dict[str, Report | RequestError]:
        """Decode up to `max_steps` tokens of every request; stops early when one is finished.

        returns : by request id the finished reports, and the errors of requests that failed; the others are not
                  affected by them
        """
        for _ in range(max_steps):
            finished = self._engine.step()
            if finished or not self._in_flight:
                break
        return {request_id: self._end(request_id, outcome) for request_id, outcome in finished.items()}

    def generate(self, requests: Sequence[ReportRequest]) -> list[Report | RequestError]:
        """Reports for all requests, in their order; more than `slots` of them wait for a free place.

        A request that fails has its error instead of a report.
        """
        waiting = {f"{index}": request for index, request in enumerate(requests)}
        done: dict[str, Report | RequestError] = {}
        while len(done) < len(requests):
            entering = dict(list(waiting.items())[: self.free_slots])
            waiting = {key: value for key, value in waiting.items() if key not in entering}
            done.update(self.admit(entering))
            done.update(self.step())
        return [done[f"{index}"] for index in range(len(requests))]

    def new_text(self, request_id: str) -> str:
        """What is decided of the report's text and was not at the call before, for requests of one sequence.

        All that this has returned is a beginning of the report's text; the rest comes with the report.
        """
        if self._prompter is not None and self._prompter.answers_at_end:
            return ""
        state = self._in_flight[request_id]
        if state.stream is None:
            state.stream = self._streams.open(state.options.stop)
        return state.stream.feed(self._engine.leading(request_id))

    def cancel(self, request_id: str) -> None:
        """Forget a request and free its slot; unknown ones are ignored."""
        self._in_flight.pop(request_id, None)
        self._engine.cancel(request_id)

    def reset(self) -> None:
        """Forget all requests, for use after an unexpected failure."""
        self._in_flight.clear()
        self._images.forget()
        self._engine.reset()

    def warm_up(self) -> None:
        """Run the whole line once on a grey image, so that the first request does not pay for lazy set-up."""
        features = self._images.grey()
        for options in (GenerationOptions(max_new_tokens=2), GenerationOptions(max_new_tokens=2, num_beams=3)):
            self.generate([ReportRequest(image_features=features, options=options)])

    def _max_columns(self, decoder: Decoder[Any], max_cache_mb: float | None) -> int:
        """Columns of the KV cache that one request may use."""
        prompt_ids = self._prompt_ids(ReportRequest())
        prefix = decoder.prefix_length(self._images.num_tokens, prompt_ids)
        needed = columns_needed(prefix, self.config.generation)
        if max_cache_mb is None:
            return max(DEFAULT_COLUMNS, needed)
        column_mb = self.slots * decoder.new_state(self.slots).cache.column_bytes / _MB
        columns = int(max_cache_mb / column_mb)
        if columns < needed:
            raise ArchiveError(
                f"max_cache_mb is {max_cache_mb:g}; {self.slots} slots with the default options of "
                f"{self.config.name} can need {math.ceil(needed * column_mb)}; raise it, or lower batchSize"
            )
        return columns

    def _enter(self, entering: Mapping[str, _InFlight]) -> dict[str, RequestError]:
        """Encode the images and let the requests into the batch; those that do not fit fail."""
        views = [state.view for state in entering.values()]
        self._images.encode(views)
        failed: dict[str, RequestError] = {}
        accepted: dict[str, DecodeRequest] = {}
        for (request_id, state), embeds in zip(entering.items(), self._images.connect(views), strict=True):
            decode = DecodeRequest(embeds, state.prompt_ids, state.options)
            try:
                self._images.check(state.view, embeds)
                self._engine.check(decode)
                if state.request.return_attention:
                    state.insights = self._images.insights(state.view)
            except RequestError as error:
                failed[request_id] = error
                continue
            accepted[request_id] = decode
        began = time.perf_counter()
        for request_id in accepted:
            entering[request_id].started = began
            self._in_flight[request_id] = entering[request_id]
        self._engine.add(accepted)
        return failed

    def _prompt_ids(self, request: ReportRequest) -> tuple[int, ...]:
        """Tokens that stand before the report."""
        if self._prompter is not None:
            return self._prompter.ids(request.prompt, request.messages)
        for name in ("prompt", "messages"):
            if getattr(request, name):
                raise InvalidOption(f"{name} is set, but {self.config.name} takes none; leave it out")
        return (self.config.tokenizer.bos_token_id,)

    def _end(self, request_id: str, outcome: Outcome) -> Report | RequestError:
        state = self._in_flight.pop(request_id)
        return outcome if isinstance(outcome, RequestError) else isolate(lambda: self._report(state, outcome))

    def _report(self, state: _InFlight, hypotheses: Sequence[Hypothesis]) -> Report:
        now = time.perf_counter()
        stop = state.options.stop
        texts = [cut_at_stop(self._detokenize(hypothesis.token_ids), stop) for hypothesis in hypotheses]
        if self._prompter is not None:
            texts = [self._prompter.answer(text) for text in texts]
        findings, impression = sections(texts[0])
        view = state.view
        queue = state.started - state.arrived - view.preprocess - view.vision
        return Report(
            text=texts[0],
            findings=findings,
            impression=impression,
            finish_reason=hypotheses[0].finish_reason,
            token_ids=hypotheses[0].token_ids,
            avg_logprob=hypotheses[0].avg_logprob,
            alternatives=tuple(
                Alternative(text, hypothesis.avg_logprob)
                for text, hypothesis in zip(texts[1:], hypotheses[1:], strict=True)
            ),
            warnings=view.warnings,
            insights=state.insights,
            timing_ms={
                "queue": 1000 * queue,
                "preprocess": 1000 * view.preprocess,
                "vision": 1000 * view.vision,
                "decode": 1000 * (now - state.started),
            },
        )

    def _detokenize(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
