"""How the weights move: optimiser, learning rate, average."""

import math

import torch
from torch import nn

from training.settings import Settings


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.AdamW:
    """AdamW; biases, norms and embeddings do not decay."""
    parameters = list(model.named_parameters())
    still = [p for name, p in parameters if p.ndim < 2 or "embedding" in name]
    decaying = [p for name, p in parameters if p.ndim >= 2 and "embedding" not in name]
    return torch.optim.AdamW(
        [{"params": decaying, "weight_decay": settings.weight_decay}, {"params": still, "weight_decay": 0.0}],
        lr=settings.learning_rate,
    )


def learning_rate(step: int, steps: int, steps_per_epoch: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine down to a hundredth, then others from a lower peak.

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.
    """
    warmup = settings.warmup_epochs * steps_per_epoch
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    bounds = [warmup, *(epoch * steps_per_epoch for epoch in settings.restart_epochs), steps]
    cycle = max(i for i, bound in enumerate(bounds[:-1]) if step >= bound)
    start, end = bounds[cycle], min(bounds[cycle + 1], steps)
    peak = settings.restart_learning_rate if cycle else settings.learning_rate
    progress = (step - start) / max(end - start, 1)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move the averaged weights, and the averaged batch-norm statistics, towards the current ones.

    The average is short at first, or it would remember the random weights for a thousand steps.
    """
    decay = min(decay, (1 + step) / (10 + step))
    current = model.state_dict()
    for name, tensor in ema.state_dict().items():
        if tensor.is_floating_point():
            tensor.lerp_(current[name], 1 - decay)
        else:
            tensor.copy_(current[name])
