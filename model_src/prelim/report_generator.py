"""The straight line, in one place: bytes -> radiograph -> pixel_values -> image_features -> image_embeds -> report."""

import math
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from prelim.archive.archive import (
    CONFIDENCE,
    CONFIG,
    DECODER,
    DRAFTS,
    Archive,
    load_decoder,
    load_tokenizer,
    read_archive,
    unpack_archive,
)
from prelim.archive.model_config import ModelConfig
from prelim.decoders.decoder import Decoder, expand_images
from prelim.encoding.image_encoder import ImageEncoder
from prelim.encoding.report_request import PendingReport, ReportRequest
from prelim.errors import ArchiveError, InvalidOption, RequestError
from prelim.generation.columns import DEFAULT_COLUMNS, columns_needed
from prelim.generation.confidence import DISTANCE, Confidence, read_confidence
from prelim.generation.constraint import Constraints
from prelim.generation.drafts import Drafts, read_drafts
from prelim.generation.engine import Engine
from prelim.generation.image_roles import default_options
from prelim.generation.options import MAX_NEW_TOKENS, USUAL_NEW_TOKENS, GenerationOptions
from prelim.generation.outcome import isolate
from prelim.generation.report_reader import ReportReader
from prelim.kernels import family, instructions
from prelim.report import Report
from prelim.report_writer import EMPTY_REPORT, ReportWriter

__all__ = ["EMPTY_REPORT", "ReportGenerator", "ReportRequest"]

_MB = 2**20

SMALL_DECODER = 2**24
"""Bytes of weights that stay in a core's cache. A second thread would make a step hardly shorter, and much longer where
the other cores have something to do, such as to read the next image."""


class ReportGenerator:
    """Writes reports with one model, many at once.

    Requests enter with `add` at any time, `step` decodes up to `slots` of them together and returns those that have
    ended. `generate` does both for a caller that has all its requests already.

    archive : an unpacked archive
    device  : "cpu", or PyTorch's name of a GPU, such as "cuda:0"
    slots   : how many requests are decoded together
    threads : threads of ONNX Runtime; None takes PyTorch's number
    share_weights : weights are used where they lie in their file, which several processes can share;
              otherwise a CPU packs a copy of them, with which it is faster
    max_cache_mb : bound of the KV cache's memory in units of 2**20 bytes, from which follows how many beams and
              tokens a request may ask for; None: DEFAULT_COLUMNS columns for each slot, more where the model's
              default options need them
    max_new_tokens : limit on that option of a request, for which the cache has room with one row; None:
              USUAL_NEW_TOKENS, or the model's default if that is more

    not_compiled : why decoding steps are not compiled, None where they are
    instructions : those of `prelim.kernels.instructions.KNOWN` that they are compiled to, None where they are not
    other_family : the kind of processor for which a precision was chosen, None if it is this one's

    Raises ArchiveError when `max_cache_mb` is too small for the model's default options or for `max_new_tokens`, and
    when that is below the model's default.
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
        max_new_tokens: int | None = None,
    ) -> None:
        self.config: ModelConfig = archive.config
        self.sha256 = archive.sha256
        self.slots = slots
        threads = threads or torch.get_num_threads()
        self._images = ImageEncoder(archive, device, threads, packed=not share_weights)
        self._tokenizer = load_tokenizer(archive.folder)
        self._reader = ReportReader(self._tokenizer, self.config.output)
        self._prompter = self.config.prompter(self._tokenizer)
        tokens = self.config.tokenizer
        constraints = Constraints(
            self._tokenizer, tokens.eos_token_ids, self.config.decoder.get("vocab_size"), self.config.output
        )
        try:
            constraints.check(self.config.generation)
        except InvalidOption as error:
            raise ArchiveError(f"{archive.folder / CONFIG}, section generation: {error}") from error
        self._writer = ReportWriter(
            self.config, self._tokenizer, self._reader, self._prompter.answer, self._calibration(archive)
        )
        self.max_new_tokens = self._limit(max_new_tokens)
        decoder = load_decoder(archive, device, packed=not share_weights)
        self.not_compiled = decoder.not_compiled
        compiled_to = instructions.chosen() if self.not_compiled is None else None
        self.instructions = None if compiled_to is None else compiled_to.name
        self.other_family = next((other for other in self.config.families if other != family(device)), None)
        self._engine: Engine[PendingReport] = Engine(
            decoder,
            slots=slots,
            eos_token_ids=tokens.eos_token_ids,
            pad_token_id=tokens.pad_token_id,
            detokenize=self._reader.report_so_far,
            max_columns=self._max_columns(decoder, max_cache_mb, max_new_tokens or 1),
            constraints=constraints,
            drafts=self._drafts(archive),
            threads=1 if (archive.folder / DECODER).stat().st_size <= SMALL_DECODER else None,
        )

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
        """Shape of the features that a client can send instead of an image; see `ImageEncoder`."""
        return self._images.image_features_shape

    @property
    def encoded_together(self) -> int:
        """Largest number of images that are encoded together."""
        return self._images.together

    @property
    def encoder_device(self) -> str:
        """Where images are encoded: on the CPU also where ONNX Runtime cannot use the GPU."""
        return self._images.device

    @property
    def takes_prompts(self) -> bool:
        """Whether the model reads a prompt next to the image."""
        return self._prompter.takes_prompts

    @property
    def takes_messages(self) -> bool:
        """Whether the model holds a conversation about the image."""
        return self._prompter.takes_messages

    @property
    def accepts(self) -> tuple[str, ...]:
        """Which fields of the clinical context the model reads next to the image; see `read_context`."""
        return self._prompter.accepts

    @property
    def active(self) -> Collection[str]:
        """Ids of the requests that have not ended: those that run, and those that wait for a slot."""
        return self._engine.active

    @property
    def running(self) -> Collection[str]:
        """Ids of the requests that have a slot."""
        return self._engine.running

    @property
    def max_cache_mb(self) -> float:
        """What the KV cache never exceeds, in units of 2**20 bytes."""
        return self._engine.max_cache_bytes / _MB

    @property
    def max_columns(self) -> int:
        """Columns of the KV cache that one request may use."""
        return self._engine.max_columns

    def take_draft_counts(self) -> tuple[int, int]:
        """How many draft tokens were proposed, and how many became part of a report, since this was last asked."""
        return self._engine.take_draft_counts()

    def add(self, request_id: str, request: ReportRequest) -> None:
        """Let a request wait for a slot, in which its image is read.

        Raises InputError as `ReportRequest.check` does, and for a prompt or an option that this model cannot take;
        ValueError for the id of a request that has not ended.
        """
        request.check()
        request = request.in_order(self._prompter.roles)
        if request.return_attention and not self._images.has_insights:
            raise InvalidOption(
                f"return_attention is true, but {self.config.name} has no attention map to return; leave it out"
            )
        options = request.options or default_options(self.config.generation, request.roles)
        if options.max_new_tokens > self.max_new_tokens:
            raise InvalidOption(
                f"max_new_tokens is {options.max_new_tokens}; allowed here: 1 to {self.max_new_tokens}; for more ask "
                "the operator for a larger max_new_tokens",
                "max_new_tokens",
            )
        pending = PendingReport(None, self._prompt_ids(request), options, request=request, images=self._images)
        self._engine.add({request_id: pending})

    def step(self, max_steps: int = 1) -> dict[str, Report | RequestError]:
        """Let waiting requests in and decode up to `max_steps` (1 or more) tokens of each; stops when one has ended.

        returns : by request id the finished reports, and the errors of requests that failed; the others are not
                  affected by them
        """
        ended = self._engine.step()
        for _ in range(max_steps - 1):
            if ended or not self._engine.active:
                break
            ended = self._engine.step()
        return {request_id: isolate(partial(self._writer.write, pending)) for request_id, pending in ended.items()}

    def generate(self, requests: Sequence[ReportRequest]) -> list[Report | RequestError]:
        """Reports for all requests, in their order. A request that fails has its error instead of a report.

        Raises RuntimeError while requests of `add` have not ended, whose reports it would take from `step`. After an
        exception no request is left.
        """
        if self.active:
            raise RuntimeError(f"{len(self.active)} requests have not ended; use add and step for all, or generate")
        done: dict[str, Report | RequestError] = {}
        try:
            for index, request in enumerate(requests):
                if error := isolate(partial(self.add, f"{index}", request)):
                    done[f"{index}"] = error
            while len(done) < len(requests):
                done.update(self.step())
        except BaseException:
            self.reset()
            raise
        return [done[f"{index}"] for index in range(len(requests))]

    def new_text(self, request_id: str) -> str:
        """What is decided of the report's text and was not at the call before.

        All that this has returned is a beginning of the report's text; the rest comes with the report.
        """
        pending = self._engine.find(request_id)
        if pending.selection is None or self._prompter.answers_at_end:
            return ""
        if pending.stream is None:
            pending.stream = self._reader.open(pending.options.stop)
        return pending.stream.feed(pending.selection.decided())

    def cancel(self, request_id: str) -> None:
        """Forget a request and free its slot; unknown ones are ignored."""
        self._engine.cancel(request_id)

    def reset(self) -> None:
        """Forget all requests, for use after an unexpected failure."""
        self._images.forget()
        self._engine.reset()

    def warm_up(self) -> None:
        """Run the whole line once on a gray image, so that the first request does not pay for lazy set-up."""
        features = self._images.gray()
        with self._images.without_gate():
            for options in (GenerationOptions(max_new_tokens=2), GenerationOptions(max_new_tokens=2, num_beams=3)):
                self.generate([ReportRequest(image_features=features, options=options)])

    def _calibration(self, archive: Archive) -> Confidence | None:
        """The archive's calibration; None if it has none. Raises ArchiveError if it needs a gate that is not there."""
        if CONFIDENCE not in archive.files:
            return None
        confidence = read_confidence(archive.folder / CONFIDENCE)
        if DISTANCE in confidence.inputs and not self._images.has_gate:
            raise ArchiveError(f"{archive.folder / CONFIDENCE} has the input {DISTANCE}, but the archive has no gate")
        return confidence

    def _drafts(self, archive: Archive) -> Drafts | None:
        """The archive's table of draft tokens, where a step gives a row the same bits as it would have alone."""
        if DRAFTS not in archive.files:
            return None
        table = read_drafts(archive.folder / DRAFTS, self.config.decoder["vocab_size"])
        return table if self.not_compiled is None else None

    def _limit(self, max_new_tokens: int | None) -> int:
        """Largest `max_new_tokens` of a request. Raises ArchiveError if the model's default is larger."""
        default = self.config.generation.max_new_tokens
        if max_new_tokens is None:
            return max(USUAL_NEW_TOKENS, default)
        if not default <= max_new_tokens <= MAX_NEW_TOKENS:
            raise ArchiveError(
                f"max_new_tokens is {max_new_tokens}; allowed: {default}, the default of {self.config.name}, to "
                f"{MAX_NEW_TOKENS}"
            )
        return max_new_tokens

    def _max_columns(self, decoder: Decoder[Any], max_cache_mb: float | None, new_tokens: int) -> int:
        """Columns of the KV cache that one request may use, with room for a row of `new_tokens`."""
        roles = self._prompter.roles
        together = [tuple(joined.split("+")) for joined in self._prompter.combinations] or [roles]
        largest = (
            ReportRequest(images=(b"",) * self.max_images),
            *(ReportRequest(images=(b"",) * len(some), roles=some) for some in together),
        )
        prefix = max(
            len(expand_images(self._prompt_ids(request), (self._images.most_tokens,) * request.num_images))
            for request in largest
        )
        needed = max(
            columns_needed(prefix, options)
            for options in (self.config.generation, GenerationOptions(max_new_tokens=new_tokens))
        )
        if max_cache_mb is None:
            return max(DEFAULT_COLUMNS, needed)
        column_mb = self.slots * decoder.new_state(self.slots).cache.column_bytes / _MB
        columns = int(max_cache_mb / column_mb)
        if columns < needed:
            raise ArchiveError(
                f"max_cache_mb is {max_cache_mb:g}; {self.slots} slots with max_new_tokens or the default options "
                f"of {self.config.name} can need {math.ceil(needed * column_mb)}; raise it, or lower "
                "batchSize or max_new_tokens"
            )
        return columns

    @property
    def max_images(self) -> int:
        """Largest number of images of a request that names no roles."""
        return self._prompter.max_images

    def _prompt_ids(self, request: ReportRequest) -> tuple[int, ...]:
        """Tokens that stand before the report."""
        words = request.context_words
        return self._prompter.ids(request.prompt, request.messages, request.num_images, words, request.roles)
