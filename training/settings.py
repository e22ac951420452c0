"""Every setting of a training run, on one page."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from prelim.errors import PrelimError, reason_of
from training.datasets.source import Source
from training.datasets.study import DatasetError


class SettingsError(PrelimError):
    """A setting is unknown or has a value that cannot be used."""


@dataclass(frozen=True)
class DatasetSettings(Source):
    """Section `dataset`: the studies, see training.datasets.source, and how they are learned from."""

    max_tokens: int = 0  # of a report; longer ones are cut; 0: generation.max_new_tokens of the model
    balance: tuple[str, ...] = ()  # labels of a study, each combination of whose values is a kind: the rarer the kind,
    # the more often an example comes, by the inverse square root, at most twice the mean; empty: all alike
    features: str = ""  # folder of training.extract_features: the vision encoder is not run and stays as it is
    limit: int = 0  # at most this many examples of each split; 0: all


@dataclass(frozen=True)
class StartSettings:
    """Section `start`: what training begins with."""

    weights: str = ""  # a model folder, as export.import_checkpoint or training writes; empty: random weights
    vision: str = ""  # pretrained weights of the vision encoder alone: a state dict in a .safetensors, .pth or .pt file
    tokenizer: str = ""  # folder or file of a tokenizer.json; empty: that of `weights`, else word pieces of the reports
    vocab_size: int = 8000  # upper bound for word pieces that are made of the reports


@dataclass(frozen=True)
class LoraSettings:
    """Section `lora`: low-rank adapters instead of training the decoder (Hu et al., ICLR 2022)."""

    rank: int = 0  # 0: no adapters
    alpha: float = 16.0  # the adapter's output is scaled by alpha / rank
    dropout: float = 0.0
    layers: tuple[str, ...] = ()  # names of linear layers; empty: queries, keys, values and output of attention
    quantize: str = ""  # "nf4": linear layers of the decoder's body in 4 bits (QLoRA, Dettmers et al., 2023)
    keep: bool = False  # adapters stay separate from their layers in the model folder; otherwise they are merged


@dataclass(frozen=True)
class Augmentation:
    """Section `augment`: random changes of images that keep their reports valid. All off by default.

    Flips are off for a reason: a left-right flip makes "left effusion" a lie, moves the heart to the right side (which
    is a finding of its own, dextrocardia) and mirrors the side marker. `flip` is for data whose texts name no side.
    """

    side: int = (
        0  # pixels at which images are read before they are changed, so that a crop has detail; 0: as the network
    )
    rotation: float = 0.0  # degrees, either way
    zoom: float = 0.0  # natural logarithm of the scale, either way
    aspect: float = 0.0  # natural logarithm of width over height, either way
    shift: float = 0.0  # fraction of the image, either way
    gamma: float = 0.0  # natural logarithm of the exponent, either way
    contrast: float = 0.0  # fraction, either way
    brightness: float = 0.0  # of gray values in [0, 1], either way
    noise: float = 0.0  # standard deviation, at most
    blur: float = 0.0  # fraction of images that are blurred
    erase: float = 0.0  # fraction of images with one rectangle erased
    flip: float = 0.0  # fraction of images that are mirrored left to right

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        return any(getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "side")


@dataclass(frozen=True)
class AuxiliarySettings:
    """Section `auxiliary`: a classifier on the image features that exists only while training.

    It teaches the encoder faster than reports alone.
    """

    labels: tuple[str, ...] = ()  # of a study; each combination of their values is a class; empty: no classifier
    weight: float = 1.0  # of its loss, that of the reports being 1
    smoothing: float = 0.1  # of its targets
    reports: float = (
        1.0  # fraction of a batch whose reports are learned too: a decoder costs as much as a small encoder
    )


@dataclass(frozen=True)
class OptimizationSettings:
    """Section `optimization`: optimizer and schedule. AdamW; a step's loss is the mean over all its report tokens."""

    seed: int = 20251122
    epochs: int = 10
    max_steps: int = 0  # ends earlier than `epochs`; 0: does not
    batch_size: int = 16  # examples of one process in one forward pass
    accumulate: int = 1  # forward passes of one process in one step
    learning_rate: float = 1e-4
    part_rates: Mapping[str, float] = field(default_factory=dict)  # {vision: 0.1}: a tenth of learning_rate there
    schedule: str = "cosine"  # or "linear", "constant"
    warmup: float = 0.0  # linear; below 1 a fraction of all steps, else a number of steps
    floor: float = 0.0  # where cosine and linear end, as a fraction of learning_rate
    weight_decay: float = 0.01  # not of biases, norms and embeddings
    gradient_clip: float = 1.0  # largest norm of the gradient; 0: any
    ema_decay: float = 0.0  # per step, of averaged weights, which are then validated and written; 0: none
    batch_norm_momentum: float = 0.0  # 0: that of the architecture
    mixed_precision: str = "no"  # or "bf16", "fp16"
    gradient_checkpointing: bool = False  # compute layers twice instead of keeping what is in them


@dataclass(frozen=True)
class RunSettings:
    """Section `run`: where things go and when; nothing here changes what is learned, but for `threads`' rounding."""

    folder: str = "runs/model"  # checkpoints, curves, TensorBoard
    out: str = "models/trained"  # the model folder that is written at the end
    dtype: str = "float32"  # of the written weights; or "float16", "bfloat16"
    device: str = ""  # "cpu"; empty: what accelerate finds
    threads: int = 0  # of PyTorch; 0: its own choice. The same number gives the same weights bit for bit
    workers: int = 0  # processes that read images
    cache: bool = False  # every image is read once and kept in memory, one byte a pixel
    validate_every: int = 1  # epochs
    save_every: int = 500  # steps between checkpoints; there is one at every validation and at a stop, too
    patience: int = 0  # validations without a lower loss after which training ends; 0: it does not
    resume: bool = False  # continue from folder/last.pt, with the settings in the folder if no file is given
    stop_after: int = 0  # steps of this session, then save and stop; 0: to the end


@dataclass(frozen=True)
class Settings:
    """What training reads: a YAML file of these sections, then `section.key=value` on the command line.

    `model` has keys of model.yaml, which override the model.yaml of `start.weights`, or, without start.weights, the
    published model of the `architecture`. `freeze` names parts of the network, such as
    `vision` or `decoder.body.embed_tokens`; a part is frozen with all that is in it, its batch norms included.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()
    dataset: DatasetSettings = DatasetSettings()
    start: StartSettings = StartSettings()
    lora: LoraSettings = LoraSettings()
    augment: Augmentation = Augmentation()
    auxiliary: AuxiliarySettings = AuxiliarySettings()
    optimization: OptimizationSettings = OptimizationSettings()
    run: RunSettings = RunSettings()

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            section, _, key = name.partition(".")
            value = getattr(getattr(self, section), key)
            if value not in allowed:
                raise SettingsError(f"{name} is {value!r}; allowed: {', '.join(map(repr, allowed))}")
        for name in ("batch_size", "accumulate", "epochs"):
            if getattr(self.optimization, name) < 1:
                raise SettingsError(f"optimization.{name} is {getattr(self.optimization, name)}; allowed: 1 and more")
        if not 0 <= self.auxiliary.reports <= 1:
            raise SettingsError(f"auxiliary.reports is {self.auxiliary.reports}; allowed: 0 to 1")
        if self.lora.quantize and not self.lora.rank:
            raise SettingsError("lora.quantize needs lora.rank: weights of 4 bits cannot be trained, adapters can")
        if self.dataset.features and self.augment.active:
            raise SettingsError("dataset.features is set, and augment too; features are of unchanged images: drop one")

    def as_dict(self) -> dict[str, Any]:
        """All settings, section by section."""
        return dataclasses.asdict(self)


_CHOICES: dict[str, tuple[str, ...]] = {
    "lora.quantize": ("", "nf4"),
    "optimization.schedule": ("cosine", "linear", "constant"),
    "optimization.mixed_precision": ("no", "bf16", "fp16"),
    "run.dtype": ("float32", "float16", "bfloat16"),
    "run.device": ("", "cpu"),
}


def read_settings(path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Settings from a YAML file and `section.key=value` overrides.

    Raises SettingsError for a file that cannot be read, an unknown key, and a value that cannot be used.
    """
    values = _read_yaml(path)
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise SettingsError(f"{override!r} is not a setting; write section.key=value, such as run.threads=2")
        *sections, key = name.split(".")
        section = values
        for part in sections:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise SettingsError(f"{name}: {part} is {section!r} and has no keys")
        try:
            section[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise SettingsError(
                f"{name} is {value!r}, which is not YAML: {getattr(error, 'problem', error)}; put texts with signs "
                "such as ?, : or # between quotes"
            ) from error
    return make_settings(values)


def _read_yaml(path: str | Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} cannot be read: {reason_of(error)}; give a YAML file") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path} is {type(values).__name__}; it must be a mapping of sections")
    return values


def make_settings(values: Mapping[str, Any]) -> Settings:
    """Settings from nested mappings, each value converted to the type of its default."""
    settings: Settings = _make_section(Settings, values, "")
    return settings


def make_dataset_settings(values: Mapping[str, Any]) -> DatasetSettings:
    """Section `dataset` alone, converted and checked likewise."""
    settings: DatasetSettings = _make_section(DatasetSettings, values, "dataset")
    return settings


def read_dataset_settings(path: str | Path, overrides: Mapping[str, Any]) -> DatasetSettings:
    """Section `dataset` of a YAML file, the other sections being for training to check.

    overrides : keys of the section that count more than the file

    Raises SettingsError.
    """
    section = _read_yaml(path).get("dataset")
    if not isinstance(section, Mapping) or not {"format", "path"} <= set(section):
        raise SettingsError(f"{path} has no section dataset with the keys format and path")
    return make_dataset_settings({**section, **overrides})


def _make_section(cls: Any, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise SettingsError(f"{where or 'the file'} is {values!r}; it must be a mapping of keys and values")
    defaults = {f.name: getattr(cls(), f.name) for f in dataclasses.fields(cls)}
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in defaults:
            kind = f"settings of section {where}" if where else "sections and settings"
            raise SettingsError(f"unknown setting {prefix + str(key)!r}; the {kind} are: {', '.join(defaults)}")
    try:
        return cls(**{key: _convert(value, defaults[key], prefix + key) for key, value in values.items()})
    except DatasetError as error:  # of the section that describes the data set
        raise SettingsError(str(error)) from error


def _convert(value: Any, default: Any, name: str) -> Any:
    if dataclasses.is_dataclass(default):
        return _make_section(type(default), {} if value is None else value, name)
    if isinstance(default, Mapping):
        if not isinstance(value, Mapping):
            raise SettingsError(f"{name} is {value!r}; it must be a mapping of keys and values")
        return dict(value)
    if isinstance(default, tuple):
        items = (value,) if isinstance(value, str) else value  # one name needs no brackets
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise SettingsError(f"{name} is {value!r}; it must be a list of names")
        return tuple(items)
    wanted = type(default)
    try:  # YAML reads 1e-3 as text and 1 as a whole number
        found = float(value) if wanted is float and not isinstance(value, bool) else value
    except (TypeError, ValueError):
        found = None
    if not isinstance(found, wanted) or (wanted is int and isinstance(found, bool)):
        raise SettingsError(f"{name} is {value!r}; it must be of type {wanted.__name__}, such as {default!r}")
    return found
