"""The micro-batches of a run, each a function of its number."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from training.data.examples import Example
from training.data.report_tokens import ReportTokens
from training.data.seeds import generator_of
from training.settings import Settings, SettingsError

Batch = dict[str, Tensor]
"""What a forward pass gets.

pixel_values or image_features : of the examples, shape (batch, ...)
prompt_ids, report_ids         : of those whose reports are learned, see `ReportTokens.batch`
labels                         : class of each example for the auxiliary classifier, -1 where it has none
"""


class ImageSource(Protocol):
    """Where images come from: files, or extracted features."""

    name: str

    def take(self, indices: Sequence[int], generator: Generator) -> Tensor:
        """What the network gets of some of the images, the first dimension being the batch."""


class MicroBatches(Dataset[Batch]):
    """The micro-batches of all epochs, in one row.

    examples : what is learned from
    images   : theirs
    labels   : class of each example, -1 where it has none
    tokens   : makes token ids
    epoch    : micro-batches of one epoch; the remainder is dropped, a different one in each epoch.
               0: the examples in their order, once, the last micro-batch being what is left
    """

    def __init__(
        self,
        examples: Sequence[Example],
        images: ImageSource,
        labels: Sequence[int],
        tokens: ReportTokens,
        settings: Settings,
        *,
        epoch: int = 0,
    ) -> None:
        self._images, self._tokens, self._epoch = images, tokens, epoch
        self._labels = torch.tensor(labels)
        self._seed, self._size = settings.optimization.seed, settings.optimization.batch_size
        self._told = max(1, round(settings.auxiliary.reports * self._size)) if epoch else self._size
        self._reports = [tokens.report(example.text) for example in examples]
        if settings.dataset.prompts and not tokens.takes_prompts:
            raise SettingsError(f"dataset.prompts is set, but {tokens.architecture} takes none; leave it out")
        self._prompts = [
            [tokens.prompt(words) for words in settings.dataset.prompts or (example.prompt,)] for example in examples
        ]
        self._weights = kind_weights(examples, settings.dataset.balance)
        self._order = lru_cache(2)(self._shuffle)

    def __len__(self) -> int:
        """Micro-batches of one pass over the examples."""
        return self._epoch or -(-len(self._reports) // self._size)

    def __getitem__(self, number: int) -> Batch:
        """The micro-batch of a number, the same whenever it is made."""
        generator = generator_of(self._seed, "augment", number)
        if self._epoch:
            epoch, place = divmod(number, self._epoch)
            order = self._order(epoch)
        else:
            place, order = number, list(range(len(self._reports)))
        chosen = order[place * self._size : (place + 1) * self._size]
        pairs = []
        for i in chosen[: self._told]:  # the order is random, so the first few are a fair choice
            prompts = self._prompts[i]
            drawn = int(torch.randint(len(prompts), (), generator=generator)) if len(prompts) > 1 else 0
            pairs.append((prompts[drawn], self._reports[i]))
        prompt_ids, report_ids = self._tokens.batch(pairs)
        return {
            self._images.name: self._images.take(chosen, generator),
            "prompt_ids": prompt_ids,
            "report_ids": report_ids,
            "labels": self._labels[chosen],
        }

    def _shuffle(self, epoch: int) -> list[int]:
        """The examples of an epoch in their order; with weights, as many, some of them twice and some not at all."""
        generator = generator_of(self._seed, "order", epoch)
        order = torch.randperm(len(self._reports), generator=generator)
        if self._weights is not None:
            # Systematic sampling (Madow, 1949): each comes as often as its weight says, rounded up or down.
            ends = self._weights[order].cumsum(0)
            marks = torch.arange(len(order)) + torch.rand((), generator=generator, dtype=torch.float64)
            order = order[torch.searchsorted(ends, marks).clamp(max=len(order) - 1)]
            order = order[torch.randperm(len(order), generator=generator)]
        found: list[int] = order.tolist()
        return found


def kind_weights(examples: Sequence[Example], balance: Sequence[str]) -> Tensor | None:
    """How often each example comes in an epoch, on average; float64, shape (examples,). None: once each.

    balance : labels, see `dataset.balance`

    Raises SettingsError for labels that no example has.
    """
    if not balance:
        return None
    kinds = [example.kind(balance) for example in examples]
    counts = Counter(kinds)
    if not any(any(kind) for kind in counts):
        raise SettingsError(f"dataset.balance: no study has the labels {', '.join(balance)}")
    weights = torch.tensor([counts[kind] ** -0.5 for kind in kinds], dtype=torch.float64)
    weights = (weights / weights.mean()).clamp(max=2)
    return weights / weights.mean()
