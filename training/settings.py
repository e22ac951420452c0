"""Every setting of a training run, on one page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml


class SettingsError(ValueError):
    """A setting is unknown or has a value that cannot be used."""


@dataclass(frozen=True)
class Settings:
    """What training reads; a YAML file of the same keys, then `key=value` on the command line, change it."""

    # data and results
    data: str = "../shared/data/open_radiology"  # folder with captions.csv, templates.json and images/
    out: str = "models/demo"  # the model folder to write
    run: str = "runs/demo"  # checkpoint, log and curves
    name: str = "demo"
    version: str = "1.0"
    licence: str = "weights: CC BY 4.0 (attributions in MODEL_CARD.md)"

    # network: system 1 of the design with smaller dimensions
    architecture: str = "mobilenet_graph"
    vocab_size: int = 400  # upper bound; the captions need fewer pieces
    width: int = 256
    layers: int = 3
    heads: int = 8
    feedforward: int = 512
    max_positions: int = 64
    dropout: float = 0.1
    max_new_tokens: int = 48

    # images
    image_size: int = 160  # pixels, a multiple of 32
    small_image_size: int = 128  # pixels, a multiple of 32; the first epochs are a third cheaper with it
    small_epochs: int = 20
    cache_size: int = 184  # pixels; a little larger than image_size, so that a crop still has detail
    mean: float = 0.45  # of grey values in [0, 1]
    std: float = 0.25

    # augmentation; never a left-right flip: sides matter in radiology
    rotation: float = 10.0  # degrees, either way
    zoom: float = 0.15  # natural logarithm of the scale, either way
    aspect: float = 0.12  # natural logarithm of width over height, either way: tall originals are stretched when served
    shift: float = 0.06  # fraction of the image, either way
    gamma: float = 0.35  # natural logarithm of the exponent, either way
    contrast: float = 0.25  # fraction, either way
    brightness: float = 0.1  # of grey values in [0, 1], either way
    noise: float = 0.04  # standard deviation, at most
    blur: float = 0.25  # fraction of images that are blurred
    erase: float = 0.3  # fraction of images with one rectangle erased

    # optimisation
    seed: int = 20251122
    epochs: int = 82
    batch_size: int = 64
    captions_per_batch: int = 16  # the decoder costs as much as the encoder and learns sooner, so it sees a part
    learning_rate: float = 1.5e-3  # after the warm-up; half a cosine leads down to a hundredth of it
    warmup_epochs: int = 3
    restart_epochs: tuple[int, ...] = (38, 62)  # here a cosine ends and the next one begins
    restart_learning_rate: float = 1e-3
    weight_decay: float = 0.05
    gradient_clip: float = 1.0
    batch_norm_momentum: float = 0.1  # as built it is 0.01, whose statistics lag behind a training this short
    label_smoothing: float = 0.1  # of the classification head that exists only while training
    caption_weight: float = 1.0
    label_weight: float = 1.0
    group_weight: float = 0.5
    ema_decay: float = 0.998  # per step

    # system
    threads: int = 2  # the same seed and the same number of threads give the same weights bit for bit
    validate_every: int = 5  # epochs
    resume: bool = False  # go on from the checkpoint in `run`
    stop_after: int = 0  # steps of this session, then save and stop; 0 runs to the end

    def __post_init__(self) -> None:
        for name in ("image_size", "small_image_size"):
            size = getattr(self, name)
            if size < 32 or size % 32:
                raise SettingsError(f"{name} is {size}; the encoder halves five times: use a multiple of 32")
        if not 0 < self.captions_per_batch <= self.batch_size:
            raise SettingsError(
                f"captions_per_batch is {self.captions_per_batch}; it must be 1 to batch_size ({self.batch_size})"
            )

    def as_dict(self) -> dict[str, Any]:
        """All settings, in the order above."""
        return asdict(self)


def read_settings(path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Settings from a YAML file and `key=value` overrides.

    Raises SettingsError for a key that is not a field of Settings and for a value of another type.
    """
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise SettingsError(f"{override!r} is not a setting; write key=value")
        values[key] = yaml.safe_load(value)
    return make_settings(values)


def make_settings(values: Mapping[str, Any]) -> Settings:
    """Settings from a mapping, each value converted to the type of its default."""
    defaults = {field.name: field.default for field in fields(Settings)}
    checked = {}
    for key, value in values.items():
        if key not in defaults:
            raise SettingsError(f"unknown setting {key!r}; the settings are: {', '.join(defaults)}")
        wanted = type(defaults[key])
        if wanted is tuple and isinstance(value, list):
            value = tuple(value)  # noqa: PLW2901 - YAML has lists where this has tuples
        try:  # YAML reads 1e-3 as text and 1 as an integer
            checked[key] = value if isinstance(value, wanted) else float(value) if wanted is float else None
        except (TypeError, ValueError):
            checked[key] = None
        if checked[key] is None or (wanted is int and isinstance(value, bool)):
            raise SettingsError(f"{key} is {value!r}; it must be of type {wanted.__name__}, such as {defaults[key]!r}")
    return Settings(**checked)
