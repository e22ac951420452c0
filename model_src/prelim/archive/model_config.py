"""model.yaml: everything about a model except its weights and its tokenizer."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer

from prelim.archive.encoder_config import AUTO, EXACT, EncoderConfig
from prelim.archive.terms import GAP, USES
from prelim.decoders.precision import PRECISIONS
from prelim.errors import ArchiveError, InvalidOption, reason_of
from prelim.generation.options import GenerationOptions
from prelim.generation.output_config import OutputConfig
from prelim.generation.prompt import NoPrompt, Prompter
from prelim.generation.prompt_config import PromptConfig
from prelim.images.preprocess import PreprocessConfig
from prelim.images.radiograph import InputConfig


@dataclass(frozen=True)
class SpecialTokens:
    """Section `tokenizer` of model.yaml; the vocabulary itself is in tokenizer.json.

    eos_token_id : of the token that ends a report, or a list if several do; the first is the one for training
    """

    bos_token_id: int
    eos_token_id: int | tuple[int, ...]
    pad_token_id: int

    def __post_init__(self) -> None:
        if not self.eos_token_ids:
            raise ValueError("eos_token_id is an empty list; it needs the id of a token that ends a report")

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every token that ends a report."""
        return (self.eos_token_id,) if isinstance(self.eos_token_id, int) else self.eos_token_id


@dataclass(frozen=True)
class ChosenPrecision:
    """Section `chosen_precision` of an archive's model.yaml: what `precision: auto` became when it was packaged.

    precision : the first that changes few enough tokens
    family    : the kind of processor that it was chosen for and measured on, of `prelim.kernels.family`
    images, tokens : images that fp32 wrote for, and all tokens of these texts
    changed   : precision -> share of the tokens that it changes, of those that were tried
    """

    precision: str
    family: str
    images: int
    tokens: int
    changed: Mapping[str, float]


@dataclass(frozen=True)
class MeasuredPart:
    """Sections `measured_encoder` and `measured_connector` of an archive's model.yaml: what one not in fp32 changes.

    family   : the kind of processor that it was measured on, of `prelim.kernels.family`
    images, tokens : images that fp32 wrote for, and all tokens of these texts
    changed  : precision -> share of the tokens that it changes, of those that were tried, all else in fp32
    together : the same with the decoder in its own precision, too, and for the connector with the encoder in its own
    features : precision -> largest change of image_features, relative to the largest of them; empty for the connector
    embeds   : precision -> the same of what the decoder reads, image_embeds; of all that is not in fp32 before it
    """

    family: str
    images: int
    tokens: int
    changed: Mapping[str, float]
    together: Mapping[str, float]
    features: Mapping[str, float] = field(default_factory=dict)
    embeds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelConfig:
    """The contents of model.yaml.

    name         : of the archive and of the served model
    version      : of the weights; TorchServe serves it as the model's version
    licence      : of the weights
    architecture : a name in prelim.networks.architectures.ARCHITECTURES
    vision, connector, decoder : dimensions of the three parts, as the architecture takes them; `decoder` has also
                   the `kind` by which the server finds its class
    tokenizer    : ids of the special tokens
    input        : which images are accepted and how they are rendered
    preprocess   : how they become pixel_values
    generation   : defaults of the generation options
    precision    : one of PRECISIONS: in what an archive stores the decoder's weights, and the server computes with
                   them; or AUTO, which packaging replaces by one
    chosen_precision : how it did, in archives
    encoder      : what runs vision encoder and connector on a CPU; None: EXACT, and with `precision` AUTO what
                   packaging chooses
    measured_encoder, measured_connector : what that changes, in archives where they are not in fp32
    prompt       : the words that the decoder reads before it writes, and the place of the image among them
    confirm_below : of models with confidence.json: sentences with a lower confidence are to be confirmed. At 0.9 these
                   are 90 % of the wrong ones
    output       : what the model writes besides its report; None: nothing
    use          : one of USES: what the license allows, as whoever imported or trained the model states it
    """

    name: str
    version: str
    licence: str
    architecture: str
    vision: Mapping[str, Any]
    connector: Mapping[str, Any]
    decoder: Mapping[str, Any]
    tokenizer: SpecialTokens
    input: InputConfig
    preprocess: PreprocessConfig
    generation: GenerationOptions
    precision: str = "fp32"
    chosen_precision: ChosenPrecision | None = None
    encoder: EncoderConfig | None = None
    measured_encoder: MeasuredPart | None = None
    measured_connector: MeasuredPart | None = None
    prompt: PromptConfig | None = None
    confirm_below: float = 0.9
    output: OutputConfig | None = None
    use: str = GAP

    def __post_init__(self) -> None:
        if not isinstance(self.licence, str) or not self.licence.strip():
            raise ArchiveError(f"licence = {self.licence!r:.40}; allowed: the name of a license, or {GAP}")
        if self.use not in USES:
            raise ArchiveError(f"use is {self.use!r:.40}; allowed: {', '.join(USES)}")
        if not isinstance(self.confirm_below, int | float) or not 0 < self.confirm_below < 1:
            raise ArchiveError(f"confirm_below is {self.confirm_below!r}; allowed: above 0 and below 1")
        if self.precision not in (allowed := (*PRECISIONS, AUTO)):
            raise ArchiveError(f"precision is {self.precision!r}; allowed: {', '.join(allowed)}")

    @property
    def served_encoder(self) -> EncoderConfig:
        """What runs vision encoder and connector."""
        return self.encoder or EXACT

    @property
    def families(self) -> tuple[str, ...]:
        """The kinds of processors that precisions were measured on."""
        measured = (self.chosen_precision, self.measured_encoder, self.measured_connector)
        return tuple(part.family for part in measured if part is not None)

    @classmethod
    def read(cls, path: Path) -> "ModelConfig":
        """Read model.yaml.

        Raises ArchiveError: for a missing or unknown key, listing the known ones, and for a value that is not
        allowed; the message names the file.
        """
        try:
            contents = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise ArchiveError(f"{path} cannot be read: {reason_of(error)}") from error
        return cls.from_mapping(contents, str(path))

    @classmethod
    def from_mapping(cls, contents: Any, source: str) -> "ModelConfig":
        """What `read` gives for a file with these contents; `source` stands for the file in messages."""
        try:
            values = dict(_check(cls, contents))
            for name, section in _SECTIONS.items():
                values[name] = section(**_check(section, values.get(name), name))
            for name, section in _OPTIONAL.items():
                if values.get(name) is not None:
                    values[name] = section(**_check(section, values[name], name))
            values["generation"] = GenerationOptions.from_mapping(values.get("generation") or {})
            return cls(**values)
        except (TypeError, ValueError, InvalidOption, ArchiveError) as error:
            raise ArchiveError(f"{source}: {error}") from error

    def prompter(self, tokenizer: Tokenizer) -> Prompter | NoPrompt:
        """What this model reads before the report, by its tokenizer."""
        if self.prompt is None:
            return NoPrompt(self.name, self.tokenizer.bos_token_id)
        one_text = self.decoder.get("image_token_id") is not None
        apart = self.decoder.get("kind") == "cross_attention" or bool(self.decoder.get("add_cross_attention"))
        return Prompter(self.prompt, tokenizer, self.decoder.get("vocab_size"), one_text=one_text, apart=apart)

    def write(self, path: Path) -> None:
        """Write model.yaml; what `read` gives for it equals this."""
        path.write_text(yaml.safe_dump(self.to_mapping(), sort_keys=False), encoding="utf-8")

    def to_mapping(self) -> dict[str, Any]:
        """The contents of model.yaml, key by key, in values of YAML."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}


_SECTIONS: dict[str, Any] = {"tokenizer": SpecialTokens, "input": InputConfig, "preprocess": PreprocessConfig}
_OPTIONAL: dict[str, Any] = {
    "prompt": PromptConfig,
    "chosen_precision": ChosenPrecision,
    "output": OutputConfig,
    "encoder": EncoderConfig,
    "measured_encoder": MeasuredPart,
    "measured_connector": MeasuredPart,
}


def _check(cls: Any, values: Any, section: str = "") -> Mapping[str, Any]:
    """The values of one dataclass, if their keys are right; lists become tuples."""
    where = f"section {section}" if section else "the file"
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {type(values).__name__}, it must be a mapping")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(f"{where} has the unknown key {unknown[0]!r}; known: {', '.join(fields)}")
    needed = {name for name, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    missing = sorted(needed - set(values) - {"generation"})
    if missing:
        raise ValueError(f"{where} lacks the key {missing[0]!r}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
