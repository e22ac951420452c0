"""The text of a report while its tokens arrive: what is decided of it is what no later token can change.

A tokenizer's decoder is a chain of steps, and later tokens can change what earlier ones gave: "covid -" and "19" make
"covid-19", and one character can be spread over four tokens. So each step is a stage here, which passes on what is
decided and holds the rest: an incomplete character, a possible beginning of a text to replace or of a stop text. What
leaves the last stage is a beginning of the whole text, whatever follows. Each piece is looked at once, except by rules
for whole words.

The library's own `DecodeStream` holds incomplete characters only: with the decoders of BERT and BioGPT it returns text
that later tokens change.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from tokenizers import Tokenizer, decoders, models

from prelim.generation.text_stages import (
    ByteRuns,
    Bytes,
    CloseHyphens,
    DropSpaces,
    EachToken,
    Replace,
    Stage,
    StopCut,
    Strip,
    Undecided,
    WordRules,
)

DecoderStep = Mapping[str, Any]
"""One decoder as tokenizer.json has it."""


class TextStreams:
    """Opens streams for texts of one tokenizer.

    From the first step of its decoder that is not known here on, nothing is decided before the end of a text.

    hidden : tokens that are not text; None: the special ones
    """

    def __init__(self, tokenizer: Tokenizer, hidden: Collection[str] | None = None) -> None:
        self._tokenizer = tokenizer
        special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        self._special = special if hidden is None else hidden
        self._stages = list(_stages(decoder_steps(json.loads(tokenizer.to_str())["decoder"])))

    def open(self, stop: Sequence[str] = (), then: Sequence[Stage] = ()) -> "TextStream":
        """A stream for one text, which ends where `cut_at_stop` cuts it; `then` are stages before that."""
        stages = [*(new_stage() for new_stage in self._stages), *then]
        return TextStream(self._token, [*stages, StopCut(stop)] if stop else stages)

    def _token(self, token_id: int) -> str | None:
        """The token, None for hidden tokens and unknown ids, which are not text."""
        token = self._tokenizer.id_to_token(token_id)
        return None if token in self._special else token


class TextStream:
    """The text of one sequence of tokens while it grows."""

    def __init__(self, token: Callable[[int], str | None], stages: Sequence[Stage]) -> None:
        self._token = token
        self._stages = stages
        self._fed = 0

    def feed(self, token_ids: Sequence[int]) -> str:
        """The newly decided text.

        token_ids : all tokens so far, beginning with those of the call before
        """
        tokens = map(self._token, token_ids[self._fed :])
        self._fed = len(token_ids)
        pieces = [token for token in tokens if token is not None]
        for stage in self._stages:
            pieces = stage.feed(pieces)
        return "".join(pieces)


def decoder_steps(decoder: DecoderStep | None) -> list[DecoderStep]:
    """The decoders of a chain in their order; a tokenizer without one has none."""
    if decoder is not None and decoder["type"] == "Sequence":
        return [step for inner in decoder["decoders"] for step in decoder_steps(inner)]
    return [{"type": "none"}] if decoder is None else [decoder]


def _stages(steps: Sequence[DecoderStep]) -> Iterator[Callable[[], Stage]]:
    """Constructors of the stages for a chain of decoders."""
    is_text = False
    for i, step in enumerate(steps):
        if step["type"] == "Fuse":
            is_text = True
            continue
        if is_text and are_word_rules(steps[i:]):
            yield partial(WordRules, library_decoder(steps[i:]))
            return
        new_stage = _text_stage(step) if is_text else _token_stage(step)
        yield new_stage or Undecided
        if new_stage is None:
            return
        is_text = is_text or step["type"] == "ByteLevel"


def _token_stage(step: DecoderStep) -> Callable[[], Stage] | None:
    """The constructor of the stage for a decoder of single tokens, None for an unknown one."""
    match step:
        case {"type": "ByteLevel"}:
            return Bytes
        case {"type": "ByteFallback"}:
            return ByteRuns
        case {"type": "WordPiece" | "Metaspace"} | {"type": "Replace", "pattern": {"String": str()}}:
            return partial(EachToken, library_decoder([step]))
    return None


def _text_stage(step: DecoderStep) -> Callable[[], Stage] | None:
    """The constructor of the stage for a decoder of text, None for an unknown one."""
    match step:
        case {"type": "Strip", "content": content, "start": start, "stop": 0}:
            return partial(Strip, content, start)
        case {"type": "Replace", "pattern": {"String": found}, "content": content} if found:
            return partial(Replace, found, content)
        case {"type": "Replace", "pattern": {"Regex": CloseHyphens.PATTERN}, "content": "-"}:
            return partial(CloseHyphens, library_decoder([step]))
        case {"type": "Replace", "pattern": {"Regex": pattern}, "content": ""} if pattern in DropSpaces.PATTERNS:
            return partial(DropSpaces, library_decoder([step]))
    return None


def are_word_rules(steps: Sequence[DecoderStep]) -> bool:
    """Whether a chain begins as BioGPT's does, which puts one space before, between and after the words."""
    patterns = [step.get("pattern", {}).get("Regex") for step in steps[1:3]]
    return patterns == list(WordRules.FRAME) and all(step["type"] == "Replace" for step in steps)


def library_decoder(steps: Sequence[DecoderStep]) -> decoders.Decoder:
    """The library's own decoder for a chain."""
    tokenizer = json.loads(Tokenizer(models.BPE()).to_str())
    tokenizer["decoder"] = {"type": "Sequence", "decoders": list(steps)}
    return Tokenizer.from_str(json.dumps(tokenizer)).decoder
