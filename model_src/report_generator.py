"""The straight line, in one place: bytes -> radiograph -> pixel_values -> image_features -> image_embeds -> report."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_src.archive import CONNECTOR, INSIGHT_SUFFIX, VISION, Archive, load_decoder, load_tokenizer, read_archive
from model_src.errors import InputError, InvalidOption, Overloaded
from model_src.feature_cache import Encoded, FeatureCache, digest_of
from model_src.generation.engine import DecodeRequest, Engine
from model_src.generation.hypothesis import Hypothesis
from model_src.generation.options import GenerationOptions
from model_src.model_config import ModelConfig
from model_src.onnx_session import Array, OnnxSession
from model_src.preprocess import preprocess
from model_src.prompt import Prompter
from model_src.radiograph import Radiograph, read_radiograph
from model_src.report import Alternative, Report, cut_at_stop, sections

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
    """What the report of a request needs beside its tokens. Times are in seconds, `started` when decoding began."""

    request: ReportRequest
    options: GenerationOptions
    prompt_ids: tuple[int, ...] = ()
    digest: str = ""
    warnings: tuple[str, ...] = ()
    insights: Mapping[str, Array] = field(default_factory=dict)
    arrived: float = 0.0
    preprocess: float = 0.0
    vision: float = 0.0
    started: float = 0.0


class ReportGenerator:
    """Writes reports with one model, many at once.

    Requests enter with `admit` at any time, `step` decodes all of them together and returns those that are
    finished. `generate` does both for a caller that has all its requests at hand.

    archive : an unpacked archive
    device  : "cpu" or "cuda"
    slots   : how many requests are decoded together
    threads : threads of ONNX Runtime; None takes PyTorch's number
    share_weights : the decoder's weights are used where they lie in their file, which several processes can share;
              otherwise a CPU packs a copy of them, with which it is faster
    """

    def __init__(
        self,
        archive: Archive,
        *,
        device: str = "cpu",
        slots: int = 8,
        threads: int | None = None,
        share_weights: bool = False,
    ) -> None:
        self.config: ModelConfig = archive.config
        self.sha256 = archive.sha256
        self.slots = slots
        threads = threads or torch.get_num_threads()
        self._vision = OnnxSession(archive.folder / VISION, device, threads)
        self._connector = OnnxSession(archive.folder / CONNECTOR, device, threads)
        self._insights = {
            name.removesuffix(INSIGHT_SUFFIX): OnnxSession(archive.folder / name, device, threads)
            for name in self.config.files
            if name.endswith(INSIGHT_SUFFIX)
        }
        self._tokenizer = load_tokenizer(archive.folder)
        prompt = self.config.prompt
        words = self.config.decoder.get("vocab_size")
        self._prompter = None if prompt is None else Prompter(prompt, self._tokenizer, words)
        tokens = self.config.tokenizer
        self._engine = Engine(
            load_decoder(archive, device, packed=not share_weights),
            slots=slots,
            eos_token_ids=[tokens.eos_token_id],
            pad_token_id=tokens.pad_token_id,
            detokenize=self._detokenize,
        )
        self._features = FeatureCache()
        self._in_flight: dict[str, _InFlight] = {}

    @classmethod
    def load(cls, folder: Path, **options: Any) -> "ReportGenerator":
        """A generator from an unpacked archive, with the options of the class.

        Raises ArchiveError naming the file that is at fault.
        """
        return cls(read_archive(folder), **options)

    @property
    def active(self) -> Collection[str]:
        """Ids of the requests that are being decoded."""
        return self._in_flight.keys()

    @property
    def free_slots(self) -> int:
        """How many more requests can be admitted now."""
        return self._engine.free_slots

    def admit(self, requests: Mapping[str, ReportRequest]) -> dict[str, InputError]:
        """Read, preprocess and encode new requests and let them into the batch.

        returns : the requests that failed, each with its own error; the others are not affected by them
        """
        arrived = time.perf_counter()
        failed: dict[str, InputError] = {}
        entering: dict[str, _InFlight] = {}
        pixel_values: dict[str, Array] = {}
        features: dict[str, Array] = {}
        for request_id, request in requests.items():
            state = _InFlight(request, request.options or self.config.generation, arrived=arrived)
            try:
                if len(entering) >= self.free_slots:
                    raise Overloaded(f"all {self.slots} places of this worker are taken; try again later")
                if request.image_features is not None:
                    features[request_id] = self._checked_features(request)
                elif (kept := self._kept(request, state)) is not None:
                    features[request_id] = kept
                else:
                    pixel_values[request_id] = self._read(request, state)
                state.prompt_ids = self._prompt_ids(request)
                if request.return_attention and not self._insights:
                    raise InvalidOption(
                        f"return_attention is true, but {self.config.name} has no attention map to return; leave it out"
                    )
            except InputError as error:
                failed[request_id] = error
                pixel_values.pop(request_id, None)
                features.pop(request_id, None)
                continue
            entering[request_id] = state
        self._encode(entering, pixel_values, features)
        failed.update(self._enter(entering, features))
        return failed

    def step(self, max_steps: int = 1) -> dict[str, Report]:
        """Decode up to `max_steps` tokens of every request; stops early when one is finished.

        returns : the finished reports by request id
        """
        for _ in range(max_steps):
            finished = self._engine.step()
            if finished or not self._in_flight:
                break
        return {request_id: self._report(request_id, hypotheses) for request_id, hypotheses in finished.items()}

    def generate(self, requests: Sequence[ReportRequest]) -> list[Report | InputError]:
        """Reports for all requests, in their order; more than `slots` of them wait for a free place.

        A request that cannot be answered has its InputError in the place of a report.
        """
        waiting = {f"{index}": request for index, request in enumerate(requests)}
        done: dict[str, Report | InputError] = {}
        while len(done) < len(requests):
            entering = dict(list(waiting.items())[: self.free_slots])
            waiting = {key: value for key, value in waiting.items() if key not in entering}
            done.update(self.admit(entering))
            done.update(self.step())
        return [done[f"{index}"] for index in range(len(requests))]

    def partial_text(self, request_id: str) -> str:
        """The text of a request in the batch that is decided so far; with beams it may still change."""
        text = self._detokenize(self._engine.leading(request_id))
        return cut_at_stop(text, self._in_flight[request_id].options.stop)

    def cancel(self, request_id: str) -> None:
        """Forget a request and free its slot; unknown ones are ignored."""
        self._in_flight.pop(request_id, None)
        self._engine.cancel(request_id)

    def reset(self) -> None:
        """Forget all requests, for use after an unexpected failure."""
        self._in_flight.clear()
        self._features.clear()
        self._engine.reset()

    def warm_up(self) -> None:
        """Run the whole line once on a grey image, so that the first request does not pay for lazy set-up."""
        p = self.config.preprocess
        grey = np.full((1, p.channels, p.size, p.size), 0.5, dtype=np.float32)
        features = self._vision.run(grey)[0]
        for options in (GenerationOptions(max_new_tokens=2), GenerationOptions(max_new_tokens=2, num_beams=3)):
            self.generate([ReportRequest(image_features=features, options=options)])

    def _kept(self, request: ReportRequest, state: _InFlight) -> Array | None:
        """image_features of an image that was asked about before."""
        if request.image is None:
            return None
        state.digest = digest_of(request.image)
        encoded = self._features.find(state.digest)
        if encoded is None:
            return None
        state.warnings = encoded.warnings
        return encoded.image_features

    def _read(self, request: ReportRequest, state: _InFlight) -> Array:
        """The image as pixel_values, shape (channels, size, size)."""
        if request.image is None:
            raise InvalidOption("the request has neither image nor image_features; send one of them")
        began = time.perf_counter()
        radiograph: Radiograph = read_radiograph(request.image, self.config.input)
        state.warnings = radiograph.warnings
        pixel_values = preprocess(radiograph, self.config.preprocess)
        state.preprocess = time.perf_counter() - began
        return pixel_values

    def _checked_features(self, request: ReportRequest) -> Array:
        """The client's image_features, if they have the shape that the vision encoder gives."""
        if request.image is not None:
            raise InvalidOption("the request has both image and image_features; send one of them")
        features = np.asarray(request.image_features, dtype=np.float32)
        expected = self._vision.output_shape
        if features.shape != expected:
            raise InvalidOption(f"image_features has shape {features.shape}; this model takes {expected}")
        if not np.isfinite(features).all():
            raise InvalidOption("image_features has values that are not finite")
        return features

    def _encode(
        self, entering: Mapping[str, _InFlight], pixel_values: Mapping[str, Array], features: dict[str, Array]
    ) -> None:
        """Turn pixel_values into image_features, all images in one batch; they are added to `features`."""
        if not pixel_values:
            return
        began = time.perf_counter()
        encoded = self._vision.run(np.stack(list(pixel_values.values())))
        took = time.perf_counter() - began
        for request_id, image_features in zip(pixel_values, encoded, strict=True):
            features[request_id] = image_features
            state = entering[request_id]
            state.vision = took
            self._features.keep(state.digest, Encoded(image_features, state.warnings))

    def _enter(self, entering: Mapping[str, _InFlight], features: Mapping[str, Array]) -> dict[str, InputError]:
        """Connect the images to the decoder and let the requests into the batch; those that do not fit fail."""
        if not entering:
            return {}
        image_embeds = torch.from_numpy(self._connector.run(np.stack([features[key] for key in entering])))
        failed: dict[str, InputError] = {}
        accepted: dict[str, DecodeRequest] = {}
        for (request_id, state), embeds in zip(entering.items(), image_embeds, strict=True):
            if state.request.return_attention:
                image_features = features[request_id][None]
                state.insights = {name: session.run(image_features)[0] for name, session in self._insights.items()}
            decode = DecodeRequest(embeds, state.prompt_ids, state.options)
            try:
                self._engine.check(decode)
            except InputError as error:
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

    def _report(self, request_id: str, hypotheses: Sequence[Hypothesis]) -> Report:
        state = self._in_flight.pop(request_id)
        now = time.perf_counter()
        stop = state.options.stop
        texts = [cut_at_stop(self._detokenize(hypothesis.token_ids), stop) for hypothesis in hypotheses]
        if self._prompter is not None:
            texts = [self._prompter.answer(text) for text in texts]
        findings, impression = sections(texts[0])
        queue = state.started - state.arrived - state.preprocess - state.vision
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
            warnings=state.warnings,
            insights=state.insights,
            timing_ms={
                "queue": 1000 * queue,
                "preprocess": 1000 * state.preprocess,
                "vision": 1000 * state.vision,
                "decode": 1000 * (now - state.started),
            },
        )

    def _detokenize(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
