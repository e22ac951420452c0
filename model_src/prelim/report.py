"""What is answered: a preliminary report that nobody has verified."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from prelim.encoding.onnx_session import Array
from prelim.generation.confidence import Sentence
from prelim.generation.hypothesis import FinishReason

UNVERIFIED = "UNVERIFIED"

NOTICE = f"{UNVERIFIED}. Not a medical device, not for clinical use, not to be read as a diagnosis."
"""What every model card says."""

_HEADING = re.compile(r"\b(findings|impression)\s*:\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Token:
    """One token of a report.

    text    : the vocabulary's entry, in the vocabulary's notation of spaces and bytes
    logprob : what the model gave it, in nats
    """

    text: str
    logprob: float


@dataclass(frozen=True)
class Region:
    """Where the model sees what a phrase of the report says.

    text        : the phrase
    start, end  : of the phrase, in characters of the report
    box         : left, top, right, bottom in pixels of the stored image; None if only its features were sent
    picture_box : the same in parts of the side of the picture that the network reads
    image       : the number of the image, from 1, in the order in which the model reads them
    """

    text: str
    start: int
    end: int
    box: tuple[float, float, float, float] | None
    picture_box: tuple[float, float, float, float]
    image: int = 1


@dataclass(frozen=True)
class Alternative:
    """Another report for the same image, less likely than the first or another draw.

    avg_logprob, finish_reason, num_tokens, tokens, token_ids, logprobs, regions, reasoning : as in `Report`
    """

    text: str
    avg_logprob: float
    finish_reason: FinishReason
    num_tokens: int
    tokens: tuple[Token, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    regions: tuple[Region, ...] | None = None
    reasoning: str | None = None


@dataclass(frozen=True)
class Report:
    """One report.

    text                 : the whole report
    findings, impression : its sections, None where the text has no such heading
    finish_reason        : "eos" the model ended it, "length" max_new_tokens did, "stop" a stop text did
    token_ids            : the generated tokens, the end-of-text token included
    avg_logprob          : mean log-probability of a token of the report, in nats; those of reasoning do not count
    alternatives         : the other sequences that num_return_sequences asked for
    warnings             : remarks of the reader of the image file
    pictures             : PNG of each image as the network reads it, where that was requested
    insights             : further outputs of the model, by name, where they were requested
    sentences            : of `text`, each with its confidence, None where the model is not calibrated
    regions              : boxes of phrases, None where the model writes none
    reasoning            : what the model thought before it reported, where that was requested
    tokens               : what `token_ids` are, with their log-probabilities, where they were requested; those of
                           reasoning with it
    logprobs             : log-probability of each of `token_ids`, in nats
    num_prompt_tokens    : positions that image and prompt take
    timing_ms            : milliseconds in `queue`, `preprocess`, `vision` and `decode`
    status               : always "UNVERIFIED"
    """

    text: str
    findings: str | None
    impression: str | None
    finish_reason: FinishReason
    token_ids: tuple[int, ...]
    avg_logprob: float
    alternatives: tuple[Alternative, ...] = ()
    warnings: tuple[str, ...] = ()
    insights: Mapping[str, Array] = field(default_factory=dict)
    pictures: tuple[bytes, ...] = ()
    sentences: tuple[Sentence, ...] | None = None
    regions: tuple[Region, ...] | None = None
    reasoning: str | None = None
    tokens: tuple[Token, ...] = ()
    logprobs: tuple[float, ...] = ()
    num_prompt_tokens: int = 0
    timing_ms: Mapping[str, float] = field(default_factory=dict)
    status: str = UNVERIFIED

    @property
    def num_tokens(self) -> int:
        """How many tokens were generated."""
        return len(self.token_ids)


def sections(text: str) -> tuple[str | None, str | None]:
    """Findings and impression of a report, by their headings; None where a heading is missing."""
    parts = _HEADING.split(text)
    found: dict[str, str] = {}
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        found.setdefault(heading.lower(), body.strip())
    return found.get("findings"), found.get("impression")
