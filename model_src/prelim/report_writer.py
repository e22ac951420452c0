"""From a request that has ended to what is answered: its report, or the error that ended it."""

import math
import time
from collections.abc import Callable

from tokenizers import Tokenizer

from prelim.archive.model_config import ModelConfig
from prelim.encoding.report_request import PendingReport
from prelim.errors import InvalidOption, NonFiniteOutput
from prelim.generation.confidence import Confidence, Sentence, read_sentences
from prelim.generation.hypothesis import Hypothesis
from prelim.generation.image_roles import FRONTAL
from prelim.generation.report_reader import ReportReader, Written
from prelim.report import Alternative, Region, Report, Token, sections

EMPTY_REPORT = "empty_report: the model wrote no text with these options"


class ReportWriter:
    """Writes what is answered to requests of one model.

    reader     : of its sequences
    answer     : the part of a text that is answered
    confidence : its calibration, None if it has none
    """

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer,
        reader: ReportReader,
        answer: Callable[[str], str],
        confidence: Confidence | None,
    ) -> None:
        self.config = config
        self._tokenizer = tokenizer
        self._reader = reader
        self._answer = answer
        self._confidence = confidence

    def write(self, pending: PendingReport) -> Report:
        """Write the report of a request that has ended. Raises the error that ended it."""
        try:
            hypotheses = pending.hypotheses
        except NonFiniteOutput as error:
            if pending.request.image_features is None:
                raise
            raise InvalidOption(f"image_features: {error}; send what the model's vision encoder gives") from None
        now = time.perf_counter()
        stop, first = pending.options.stop, hypotheses[0]
        written = [self._reader.read(h.token_ids, stop, self._answer) for h in hypotheses]
        text, best = written[0].text, written[0]
        findings, impression = sections(text)
        preprocess, vision = (
            sum(getattr(image, stage) for image in pending.prepared) for stage in ("preprocess", "vision")
        )
        # The next image is read while one is encoded.
        queue = max(0.0, pending.started - pending.arrived - preprocess - vision)
        return Report(
            text=text,
            findings=findings,
            impression=impression,
            finish_reason=first.finish_reason,
            token_ids=first.token_ids,
            avg_logprob=_avg_logprob(first, best),
            alternatives=tuple(
                Alternative(
                    text=other.text,
                    avg_logprob=_avg_logprob(h, other),
                    finish_reason=h.finish_reason,
                    num_tokens=len(h.token_ids),
                    tokens=self._tokens(pending, h, other),
                    token_ids=h.token_ids,
                    logprobs=h.logprobs,
                    regions=self._regions(pending, other),
                    reasoning=self._reasoning(pending, other),
                )
                for other, h in zip(written[1:], hypotheses[1:], strict=True)
            ),
            warnings=(*pending.warnings, *best.warnings, *(() if text.strip() else (EMPTY_REPORT,))),
            insights=pending.insights,
            pictures=pending.pictures,
            sentences=self._sentences(pending, first, best),
            regions=self._regions(pending, best),
            reasoning=self._reasoning(pending, best),
            tokens=self._tokens(pending, first, best),
            logprobs=first.logprobs,
            num_prompt_tokens=len(pending.prefix_ids),
            timing_ms={
                "queue": 1000 * queue,
                "preprocess": 1000 * preprocess,
                "vision": 1000 * vision,
                "decode": 1000 * (now - pending.started),
            },
        )

    def _sentences(self, pending: PendingReport, hypothesis: Hypothesis, best: Written) -> tuple[Sentence, ...] | None:
        """The sentences of a report with their confidence; None where the model is not calibrated."""
        if self._confidence is None:
            return None
        distances = [image.distance for image in pending.prepared if image.distance is not None]
        # The warm-up has no gate, and no distance that means anything.
        places = None if self.config.output is None else best.places
        read = read_sentences(best.text, hypothesis, self._reader.detokenize, max(distances, default=0.0), places)
        return self._confidence.sentences(read, self.config.confirm_below)

    def _regions(self, pending: PendingReport, written: Written) -> tuple[Region, ...] | None:
        """The boxes of a sequence; None where the model writes none."""
        if self.config.output is None or not self.config.output.has_boxes:
            return None
        number = (pending.request.roles or (FRONTAL,)).index(FRONTAL)
        placement = pending.prepared[number].placement
        return tuple(
            Region(
                text=written.text[box.start : box.end],
                start=box.start,
                end=box.end,
                box=None if placement is None else placement.locate(sides, self.config.preprocess),
                picture_box=sides,
                image=number + 1,
            )
            for box in written.boxes
            for sides in [self.config.output.sides_of(box.bins)]
        )

    def _reasoning(self, pending: PendingReport, written: Written) -> str | None:
        """What the model thought, where that was requested."""
        output = self.config.output
        asked = pending.request.return_reasoning or (output is not None and output.return_reasoning)
        return written.reasoning if asked else None

    def _tokens(self, pending: PendingReport, hypothesis: Hypothesis, written: Written) -> tuple[Token, ...]:
        """The tokens of a sequence, where they were requested; those of reasoning only with it."""
        if not pending.request.return_logprobs:
            return ()
        shown = written.own if self._reasoning(pending, written) is None else range(len(hypothesis.token_ids))
        return tuple(
            Token(self._tokenizer.id_to_token(hypothesis.token_ids[i]) or "", hypothesis.logprobs[i]) for i in shown
        )


def _avg_logprob(hypothesis: Hypothesis, written: Written) -> float:
    """Mean log-probability of the tokens of a report; of all, if there is none."""
    own = [hypothesis.logprobs[i] for i in written.own]
    return math.fsum(own) / len(own) if own and len(own) < len(hypothesis.logprobs) else hypothesis.avg_logprob
