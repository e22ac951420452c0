"""The classification head that exists only while training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss

from training.labels import Labels


class LabelHead(nn.Module):
    """Classifies the label combination from the mean image feature.

    It teaches the encoder faster than captions alone, and sees every picture of a batch.
    """

    def __init__(self, width: int, labels: Sequence[Labels]) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(width, len(labels))
        groups = [(*label[:3], label.finding_group) for label in labels]
        order = sorted(set(groups))
        member = torch.tensor([[group == other for other in order] for group in groups])
        self.register_buffer("log_member", torch.where(member, 0.0, -torch.inf))  # (labels, groups)
        self.register_buffer("group_of", member.long().argmax(dim=1))  # (labels,)

    def forward(self, image_features: Tensor) -> Tensor:
        """Logits, shape (batch, labels), from image_features of shape (batch, num_tokens, width)."""
        return self.linear(self.dropout(image_features.mean(dim=1)))

    def losses(self, logits: Tensor, label: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the label combination, and of its finding group, whose probability is the sum of its labels.

        logits : Tensor, shape (batch, labels)
        label  : Tensor of int64, shape (batch,)
        """
        grouped = torch.logsumexp(logits.log_softmax(dim=-1)[:, :, None] + self.log_member, dim=1)
        return cross_entropy(logits, label, label_smoothing=smoothing), nll_loss(grouped, self.group_of[label])
