"""Checkpoints of a run: all that is needed to go on, or the best weights so far."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from training.network.optimization import Average
from training.network.trainable import moving
from training.settings import Settings, SettingsError

LAST, BEST, SETTINGS = "last.pt", "best.pt", "settings.yaml"

LENGTH = ("optimization.epochs", "optimization.max_steps")
"""Settings with which a run can be made longer; its learning rates are from then on those of the longer schedule."""


@dataclass
class RunProgress:
    """How far a run is. All that is random follows from `step`, see training.data.seeds.

    step    : steps that are done
    seconds : that they took
    lowest  : validation loss so far
    waited  : validations since then
    train   : [step, loss of reports, loss of the auxiliary classifier, learning rate] of every step
    val     : [step, loss of reports, fraction of right tokens] of every validation
    """

    step: int = 0
    seconds: float = 0.0
    lowest: float = float("inf")
    waited: int = 0
    train: list[list[float]] = field(default_factory=list)
    val: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class Moving:
    """What changes in a run besides its progress; frozen weights do not."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average | None
    scaler: Any


def save(folder: Path, settings: Settings, progress: RunProgress, parts: Moving, data: str) -> None:
    """Write last.pt; a crash meanwhile leaves the one before whole.

    data : Prepared.data
    """
    state = {
        "settings": _flatten(settings),
        "data": data,
        "progress": vars(progress),
        "model": moving(parts.model),
        "optimizer": parts.optimizer.state_dict(),
        "average": parts.average.weights if parts.average else None,
        "scaler": parts.scaler.state_dict() if parts.scaler else None,
    }
    _write(folder / LAST, state)


def restore(folder: Path, settings: Settings, parts: Moving, data: str) -> RunProgress:
    """Restore the state saved in last.pt.

    data : Prepared.data

    Raises SettingsError where there is none, and where the data or settings that decide what is learned have changed;
    `optimization.epochs` and `max_steps` may grow.
    """
    path = folder / LAST
    if not path.is_file():
        raise SettingsError(f"run.resume is true, but {path} does not exist; begin with run.resume=false")
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, value in _flatten(settings).items():
        before = state["settings"].get(name)
        if before != value and name not in LENGTH:
            raise SettingsError(
                f"{name} is {value}, in {path} it is {before}; a run continues as it began: "
                "set it back, or start again with run.resume=false and another run.folder"
            )
    if state.get("data") != data:
        raise SettingsError(
            f"{settings.dataset.path} has other studies, texts or splits than when {path} was written; restore them, "
            "or start again with run.resume=false and another run.folder"
        )
    parts.model.load_state_dict(state["model"], strict=False)
    parts.optimizer.load_state_dict(state["optimizer"])
    if parts.average:
        for name, value in state["average"].items():
            parts.average.weights[name].copy_(value)
    if parts.scaler and state["scaler"]:
        parts.scaler.load_state_dict(state["scaler"])
    return RunProgress(**state["progress"])


def save_best(folder: Path, model: nn.Module) -> None:
    """Write best.pt, the weights that the last validation was made with."""
    _write(folder / BEST, moving(model))


def load_best(folder: Path) -> dict[str, Tensor]:
    """The weights of best.pt."""
    weights: dict[str, Tensor] = torch.load(folder / BEST, map_location="cpu", weights_only=True)
    return weights


def write_settings(folder: Path, settings: Settings) -> None:
    """Keep the settings of a run in its folder, for `run.resume=true run.folder=...`."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = json.loads(json.dumps(settings.as_dict()))  # JSON has no tuples
    (folder / SETTINGS).write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")


def _flatten(settings: Settings) -> dict[str, Any]:
    """`section.key` of all settings but those of `run`; how many passes make a step may change with the processes."""
    flat: dict[str, Any] = {}
    for section, values in settings.as_dict().items():
        if section != "run":
            flat |= (
                {f"{section}.{key}": v for key, v in values.items()} if isinstance(values, dict) else {section: values}
            )
    flat.pop("optimization.accumulate", None)
    return {name: str(value) for name, value in flat.items()}


def _write(path: Path, contents: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(contents, part)
    part.replace(path)
