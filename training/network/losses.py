"""Network plus losses: the forward pass of a training step."""

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from prelim.decoders.decoder import PADDING
from prelim.decoders.teacher_forcing import TooManyPositions
from prelim.networks.architectures.architecture import Network
from prelim.networks.trained_decoder import Trainable
from training.data.batches import Batch
from training.data.examples import Example
from training.settings import AuxiliarySettings, SettingsError


class LabelClasses:
    """The classes of the auxiliary classifier: each combination of labels that the training data has."""

    def __init__(self, names: Sequence[str], examples: Sequence[Example]) -> None:
        self._names = names
        found = {example.kind(names) for example in examples} if names else set()
        if names and all(not any(values) for values in found):
            known = sorted({name for example in examples for name in example.labels})
            raise SettingsError(
                f"auxiliary.labels: no study has {', '.join(names)}; its labels are: {', '.join(known)}"
            )
        self._index: Mapping[tuple[str, ...], int] = {values: i for i, values in enumerate(sorted(found))}

    def __len__(self) -> int:
        """How many classes there are; 0 without a classifier."""
        return len(self._index)

    def of(self, examples: Sequence[Example]) -> list[int]:
        """The class of each example, -1 where it is none of the training data."""
        return [self._index.get(example.kind(self._names), -1) for example in examples]


class LabelHead(nn.Module):
    """Classifies an image from the mean of its features; exists only while training."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(width, classes)

    def forward(self, image_features: Tensor) -> Tensor:
        """Logits, shape (batch, classes), of features of shape (batch, num_tokens, width) or (batch, width)."""
        mean = image_features.mean(dim=1) if image_features.ndim == 3 else image_features
        return self.linear(self.dropout(mean))


class Objective(nn.Module):
    """Network and auxiliary classifier; gives sums of cross-entropy, which steps divide by what they count."""

    def __init__(self, network: Network, head: LabelHead | None, settings: AuxiliarySettings) -> None:
        super().__init__()
        self.network, self.head = network, head
        self._smoothing = settings.smoothing

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy in nats, summed over report tokens, and over examples with a class (0 without a classifier)."""
        features = self._features(batch)
        report = _summed_cross_entropy(self._logits(batch, features), batch["report_ids"])
        if self.head is None:
            return report, report.new_zeros(())
        label = cross_entropy(
            self.head(features).float(),
            batch["labels"],
            ignore_index=-1,
            label_smoothing=self._smoothing,
            reduction="sum",
        )
        return report, label

    def score(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy summed over report tokens, and how many of these are the likeliest."""
        logits, report_ids = self._logits(batch, self._features(batch)), batch["report_ids"]
        return _summed_cross_entropy(logits, report_ids), (logits.argmax(dim=-1) == report_ids).sum()

    def _features(self, batch: Batch) -> Tensor:
        return batch["image_features"] if "image_features" in batch else self.network.vision(batch["pixel_values"])

    def _logits(self, batch: Batch, features: Tensor) -> Tensor:
        """Logits of the reports. Raises SettingsError for more positions than the decoder has."""
        prompt_ids, report_ids = batch["prompt_ids"], batch["report_ids"]
        embeds = self.network.connector(features[: len(report_ids)])
        try:
            return cast("Trainable", self.network.decoder).teacher_forcing(embeds, prompt_ids, report_ids)
        except TooManyPositions as error:
            raise SettingsError(f"{error}: lower dataset.max_tokens") from error


def _summed_cross_entropy(logits: Tensor, report_ids: Tensor) -> Tensor:
    return cross_entropy(logits.flatten(0, 1).float(), report_ids.flatten(), ignore_index=PADDING, reduction="sum")
