"""Optimizer, learning-rate schedule and moving average of the weights."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.network.trainable import moving
from training.settings import OptimizationSettings, SettingsError


def make_optimizer(model: nn.Module, settings: OptimizationSettings) -> torch.optim.AdamW:
    """AdamW over what is trained; biases, norms and embeddings do not decay.

    Its groups have a `rate` in addition to `lr`: by what the learning rate is multiplied for them.

    Raises SettingsError for an invalid rate, or one for a part that is not trained.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            part = next((part for part in settings.part_rates if name.startswith(f"network.{part}.")), "")
            groups.setdefault((part, p.ndim < 2 or "embed" in name), []).append(p)
    for part, factor in settings.part_rates.items():
        if not isinstance(factor, int | float) or not 0 < factor < math.inf:
            raise SettingsError(f"optimization.part_rates.{part} is {factor!r}; allowed: numbers above 0")
        if not groups.keys() & {(part, False), (part, True)}:
            raise SettingsError(f"optimization.part_rates has {part!r}, and no such part of the network is trained")
    return torch.optim.AdamW(
        [
            {
                "params": groups[part, still],
                "weight_decay": 0.0 if still else settings.weight_decay,
                "rate": settings.part_rates.get(part, 1.0),
            }
            for part, still in sorted(groups)
        ],
        lr=settings.learning_rate,
    )


def learning_rate(step: int, steps: int, settings: OptimizationSettings) -> float:
    """The rate of a step, a function of its number: linear warm-up, then constant, or down to `floor` at the last step.

    Source of the cosine: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.
    """
    warmup = settings.warmup * steps if settings.warmup < 1 else settings.warmup
    if step < warmup:
        return settings.learning_rate * (step + 1) / math.ceil(warmup)
    if settings.schedule == "constant":
        return settings.learning_rate
    progress = min(1.0, (step - warmup) / max(steps - 1 - warmup, 1))
    left = 0.5 * (1 + math.cos(math.pi * progress)) if settings.schedule == "cosine" else 1 - progress
    return settings.learning_rate * (settings.floor + (1 - settings.floor) * left)


class Average:
    """The exponential moving average of what training changes, batch-norm statistics included."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self.weights: dict[str, Tensor] = {name: value.clone() for name, value in moving(model).items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move toward the weights after a step.

        The average is short at first, or it would remember the first weights for a thousand steps.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        current = moving(self._model)
        for name, value in self.weights.items():
            if value.is_floating_point():
                value.lerp_(current[name], 1 - decay)
            else:
                value.copy_(current[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with the averaged weights, while this lasts."""
        current = {name: value.clone() for name, value in moving(self._model).items()}
        self._model.load_state_dict(self.weights, strict=False)
        try:
            yield
        finally:
            self._model.load_state_dict(current, strict=False)
