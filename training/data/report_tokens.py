"""Reports as the decoder reads and writes them: the same prompt as while serving, then the report and its end."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from prelim.archive.model_config import ModelConfig
from prelim.decoders.decoder import IMAGE
from prelim.generation.prompt import Prompter
from prelim.networks.transformers_lm import TransformersLM
from training.settings import SettingsError

IGNORED = -100
"""Target of a place that is given, not learned: prompt, image and padding."""


class ReportTokens:
    """Token ids of prompts and reports for one model.

    config    : the model's
    max_tokens : of a report, its end included; 0: as many as the model writes by default
    """

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, max_tokens: int = 0) -> None:
        self._config, self._tokenizer = config, tokenizer
        self.max_tokens = max_tokens or config.generation.max_new_tokens
        tokenizer.encode_special_tokens = True  # a report's words are only ever words
        prompt = config.prompt
        self._prompter = None if prompt is None else Prompter(prompt, tokenizer, config.decoder.get("vocab_size"))
        # The server stops at a stop text where the model has one: that is then how a report ends.
        stop = config.generation.stop
        self._end = tuple(self._encode(stop[0])) if stop else (config.tokenizer.eos_token_id,)
        written = tokenizer.decode(list(self._end)).strip()
        if stop and written != stop[0].strip():
            raise SettingsError(
                f"generation.stop is {stop[0]!r}, which this tokenizer writes as {written!r}, where the server would "
                "never find it; set model.generation.stop=[], and reports end with the end-of-text token"
            )

    @property
    def architecture(self) -> str:
        """Of the model."""
        return self._config.architecture

    @property
    def takes_prompts(self) -> bool:
        """Whether the model can be asked something."""
        return self._prompter is not None

    def prompt(self, words: str = "") -> tuple[int, ...]:
        """What precedes the report, with IMAGE for the image where it is a part of it.

        words : what is asked; a model that takes no prompts ignores it
        """
        if self._prompter is not None:
            return self._prompter.ids(words, None)
        return (self._config.tokenizer.bos_token_id,)

    def report(self, text: str) -> tuple[int, ...]:
        """A report and its end; one that is too long is cut and has no end, because it did not end there."""
        return (*self._encode(text), *self._end)[: self.max_tokens]

    def is_cut(self, text: str) -> bool:
        """Whether a report is too long."""
        return len(self._encode(text)) + len(self._end) > self.max_tokens

    def batch(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[Tensor, Tensor]:
        """Prompts and reports of several examples, padded on the right.

        returns : token ids and targets, two Tensors of int64, shape (len(pairs), length); a target is the token of
                  the same place, or IGNORED
        """
        length = max(len(prompt) + len(report) for prompt, report in pairs)
        token_ids = torch.full((len(pairs), length), self._config.tokenizer.pad_token_id)
        targets = torch.full((len(pairs), length), IGNORED)
        for i, (prompt, report) in enumerate(pairs):
            end = len(prompt) + len(report)
            token_ids[i, :end] = torch.tensor([*prompt, *report])
            targets[i, len(prompt) : end] = torch.tensor(report)
        return token_ids, targets

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def report_logits(
    decoder: nn.Module, image_embeds: Tensor, token_ids: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Teacher forcing: what the decoder scores at every place, and the token that comes next there.

    The shift by one place is made here and nowhere else. Padding needs no mask: it is on the right, where no token of
    the report looks.

    image_embeds       : Tensor, shape (batch, num_tokens, width)
    token_ids, targets : as `ReportTokens.batch` gives them
    returns            : logits, shape (batch, places, vocab_size), and targets, shape (batch, places)

    Raises SettingsError for more places than the decoder has positions.
    """
    if isinstance(decoder, TransformersLM):
        place = int((token_ids[0] == IMAGE).nonzero()[0, 0])
        image = targets.new_full(image_embeds.shape[:2], IGNORED)
        targets = torch.cat([targets[:, :place], image, targets[:, place + 1 :]], dim=1)
        _check_length(targets.shape[1], decoder.config.max_position_embeddings)
        return decoder(decoder.embed(image_embeds, token_ids)[:, :-1]), targets[:, 1:]
    _check_length(token_ids.shape[1] - 1, int(decoder.max_positions))  # type: ignore[arg-type]
    return decoder(image_embeds, token_ids[:, :-1]), targets[:, 1:]


def _check_length(length: int, positions: int) -> None:
    if length > positions:
        raise SettingsError(
            f"image, prompt and report take {length} positions, the decoder has {positions}; lower dataset.max_tokens"
        )
