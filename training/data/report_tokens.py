"""Reports as the decoder reads and writes them: the same prompt as while serving, then the report and its end."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prelim.archive.model_config import ModelConfig
from prelim.decoders.decoder import PADDING
from training.settings import SettingsError


class ReportTokens:
    """Token ids of prompts and reports for one model.

    config    : the model's
    max_tokens : of a report, its end included; 0: as many as the model writes by default
    """

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, max_tokens: int = 0) -> None:
        self._config, self._tokenizer = config, tokenizer
        self.max_tokens = max_tokens or config.generation.max_new_tokens
        tokenizer.encode_special_tokens = True  # a report's words are only ever words
        self._prompter = config.prompter(tokenizer)
        # The server stops at a stop text where the model has one: that is then how a report ends.
        stop = config.generation.stop
        self._end = tuple(self._encode(stop[0])) if stop else config.tokenizer.eos_token_ids[:1]
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
        return self._prompter.takes_prompts

    def prompt(self, words: str = "") -> tuple[int, ...]:
        """What precedes the report, with IMAGE for the image where it is a part of it.

        words : what is asked; a model that takes no prompts ignores it
        """
        return self._prompter.ids(words if self.takes_prompts else None, None)

    def report(self, text: str) -> tuple[int, ...]:
        """A report and its end; one that is too long is cut and has no end, because it did not end there."""
        return (*self._encode(text), *self._end)[: self.max_tokens]

    def is_cut(self, text: str) -> bool:
        """Whether a report is too long."""
        return len(self._encode(text)) + len(self._end) > self.max_tokens

    def batch(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[Tensor, Tensor]:
        """Prompts and reports of several examples, as `Decoder.teacher_forcing` takes them.

        returns : prompt_ids and report_ids, two Tensors of int64, shape (len(pairs), length of the longest)
        """
        prompts, reports = zip(*pairs, strict=True)
        return _pad(prompts), _pad(reports)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _pad(rows: Sequence[Sequence[int]]) -> Tensor:
    return pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], batch_first=True, padding_value=PADDING)
