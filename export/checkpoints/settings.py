"""Reads the JSON settings of checkpoints: config.json, adapter_config.json, generation_config.json, ..."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.checkpoints.keras_archive import SUFFIX, read_keras_settings
from prelim.errors import ArchiveError
from prelim.networks.architectures.architecture import Published

JSON = ".json"
GGUF = ".gguf"
"""Suffix of a file with weights, settings and tokenizer in one."""

INDEX = ".index.json"
"""Suffix of the file that maps each weight to its shard."""

KERAS = "saved_model.keras"
"""Weights file of XREPORT's folders, which contains its settings."""

CONFIG, ADAPTER, GENERATION = "config.json", "adapter_config.json", "generation_config.json"
PREPROCESSOR = ("preprocessor_config.json", "processor_config.json")
SETTINGS = (CONFIG, ADAPTER, GENERATION, *PREPROCESSOR)
"""Files of a folder with settings that cannot be inferred from the shapes of the weights."""

SAVED_WITH_SETTINGS = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
"""Weights files that `transformers` and `peft` save with the settings, into the same folder."""

DEQUANTIZED = ("bitsandbytes",)
"""Allowed `quant_method` of a config.json."""


@dataclass(frozen=True)
class SettingsFile:
    """A JSON object.

    name : of its file, with the source's label
    """

    name: str
    contents: Mapping[str, Any]

    @property
    def file_name(self) -> str:
        """The name without the source's label."""
        return self.name.rsplit("/", 1)[-1]

    @property
    def is_adapter(self) -> bool:
        """Whether it describes an adapter of `peft`."""
        return self.file_name == ADAPTER or "peft_type" in self.contents or "lora_alpha" in self.contents

    @property
    def is_known(self) -> bool:
        """Whether anything is read from it."""
        return self.is_adapter or self.is_config or self.file_name in SETTINGS

    @property
    def is_config(self) -> bool:
        """Whether it describes a network."""
        named = "model_type" in self.contents or "architectures" in self.contents
        return not self.is_adapter and (named or self.file_name == CONFIG)


def read_settings(path: Path, label: str) -> list[SettingsFile]:
    """Read the settings of a folder, or one JSON file.

    A GGUF file gives the equivalent settings from its metadata, a .keras file those of its layers, and a file of
    SAVED_WITH_SETTINGS those of its folder; other weights files have none.

    Raises ArchiveError if one of them is not a JSON object.
    """
    if path.suffix == GGUF:
        # Imported here because its library takes seconds to import.
        from export.checkpoints.gguf_archive import read_gguf_settings

        return [SettingsFile(label, read_gguf_settings(path))]
    if path.suffix == SUFFIX:
        return [SettingsFile(label, read_keras_settings(path))]
    if path.name.endswith(INDEX):
        return read_settings(path.parent, label)
    if path.is_file() and path.suffix == JSON:
        return [SettingsFile(label, read_json(path))]
    if path.is_file():
        return read_settings(path.parent, f"{label}'s folder") if path.name in SAVED_WITH_SETTINGS else []
    archives = [path / KERAS] if (path / KERAS).is_file() else []
    files = [path / name for name in SETTINGS if (path / name).is_file()]
    return [
        *(file for archive in archives for file in read_settings(archive, f"{label}/{KERAS}")),
        *[SettingsFile(f"{label}/{file.name}", read_json(file)) for file in files],
    ]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ArchiveError if it is not one."""
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArchiveError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(contents, dict):
        raise ArchiveError(f"{path} contains {type(contents).__name__}; expected an object")
    return contents


def stored_model_type(path: Path) -> Any:
    """`model_type` of the config.json of a checkpoint; None if there is none. Raises ArchiveError as `read_json`."""
    configs = [file for file in read_settings(path, path.name) if file.is_config]
    return model_type_of(configs[0]) if configs else None


def preprocessor_config(found: Sequence[SettingsFile], own_code: Collection[str] = ()) -> Mapping[str, Any]:
    """The image processor's settings; empty if there are none.

    own_code : as in `Published`

    Raises ArchiveError if they are in two files that differ.
    """
    settings = [
        (file.name, _without_own_code(contents, own_code))
        for file in found
        if file.file_name in PREPROCESSOR and (contents := _image_processor(file)) is not None
    ]
    for name, contents in settings[1:]:
        first, given = settings[0]
        differing = sorted(key for key in {*given, *contents} - _CLASS_NAMES if given.get(key) != contents.get(key))
        if differing:
            key = differing[0]
            raise ArchiveError(
                f"{first} and {name} differ, first in {key}: {given.get(key)!r} and {contents.get(key)!r}; remove the "
                "one that is not used"
            )
    return settings[0][1] if settings else {}


_CLASS_NAMES = {"image_processor_type", "feature_extractor_type", "processor_class", "_valid_processor_keys"}


def _image_processor(file: SettingsFile) -> Mapping[str, Any] | None:
    """The settings of the image processor; None if the file has only those of the text."""
    inner = file.contents.get("image_processor")
    if inner is None:
        return None if file.file_name == PREPROCESSOR[1] else file.contents
    if not isinstance(inner, dict):
        raise ArchiveError(f"{file.name}: image_processor is {inner!r}; expected an object")
    return inner


def generation_config(found: Sequence[SettingsFile]) -> Mapping[str, Any] | None:
    """The contents of the first generation_config.json; None if there is none."""
    return next((file.contents for file in found if file.file_name == GENERATION), None)


def model_config(published: Published, system: str, found: Sequence[SettingsFile]) -> Mapping[str, Any]:
    """The config.json of the system's model type; empty if there is none.

    Raises ArchiveError for a foreign model, for code of its own, and for a kind of quantization that cannot be read.
    """
    configs = [file for file in found if file.is_config]
    for file in configs:
        _check_config(published, system, file)
    chosen = [
        {**_without_own_code(file.contents, published.own_code), "model_type": model_type_of(file)} for file in configs
    ]
    for other in chosen[1:]:
        differing = sorted(name for name in other if other[name] != chosen[0].get(name, other[name]))
        if differing:
            raise ArchiveError(
                f"two config.json differ, first in {differing[0]}: {chosen[0][differing[0]]!r} and "
                f"{other[differing[0]]!r}; give one decoder"
            )
    return chosen[0] if chosen else {}


def _check_config(published: Published, system: str, file: SettingsFile) -> None:
    contents = file.contents
    allowed = published.model_types
    kind = model_type_of(file)
    if kind not in allowed:
        raise ArchiveError(
            f"{file.name}: model_type is {kind!r}, whose network is another one; {system} takes "
            f"{', '.join(allowed) if allowed else 'no config.json'}"
        )
    if _without_own_code(contents, published.own_code).get("auto_map"):
        raise ArchiveError(f"{file.name}: auto_map names code of the model's own, which is not executed")
    for name in _OBJECTS:
        if not isinstance(contents.get(name) or {}, dict):
            raise ArchiveError(f"{file.name}: {name} is {contents[name]!r}; expected an object")
    method = (contents.get("quantization_config") or {}).get("quant_method", DEQUANTIZED[0])
    if method not in DEQUANTIZED:
        raise ArchiveError(
            f"{file.name}: quant_method is {method!r}; supported: {', '.join(DEQUANTIZED)}. Give the weights in 16 or "
            "32 bits"
        )


def _without_own_code(contents: Mapping[str, Any], own_code: Collection[str]) -> Mapping[str, Any]:
    """Settings without auto_map if all that it names is computed here.

    After loading from the hub the names begin with that of the model, and `--`.
    """
    named = contents.get("auto_map")
    if not isinstance(named, dict) or not all(str(name).rpartition("--")[2] in own_code for name in named.values()):
        return contents
    return {name: value for name, value in contents.items() if name != "auto_map"}


_OBJECTS = (
    *("quantization_config", "text_config", "vision_config", "rope_parameters", "rope_scaling"),
    *("encoder", "decoder"),
)


def model_type_of(file: SettingsFile) -> Any:
    """`model_type` of a config.json, or that of its architectures where it has none.

    Raises ArchiveError if it has neither, or foreign architectures.
    """
    kind = file.contents.get("model_type")
    classes = file.contents.get("architectures") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ArchiveError(f"{file.name}: architectures is {classes!r}; expected a list of names")
    types = [_CLASSES.get(name.lower()) for name in classes]
    if kind == "llava" and types == [_OWN_LLAVA]:
        return _OWN_LLAVA
    # A foreign model_type has a message of its own.
    foreign = [name for name, found in zip(classes, types, strict=True) if found is None or found != (kind or found)]
    if foreign and (kind is None or kind in _CLASSES.values()):
        raise ArchiveError(
            f"{file.name}: architectures contains {foreign[0]!r}; allowed: {', '.join(_NAMES)}, as model_type says. "
            "Save the model as one of these"
        )
    if kind is None and not classes:
        raise ArchiveError(f"{file.name} has neither model_type nor architectures; give the config.json of the model")
    return types[0] if kind is None else kind


_OWN_LLAVA = "llava_llama"
"""`model_type` of LLaVA's own code, whose older files say `llava`, as those of transformers' network do."""

_NAMES = {
    "BioGptForCausalLM": "biogpt",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "PhiForCausalLM": "phi",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "BlipForConditionalGeneration": "blip",
    "Gemma3ForConditionalGeneration": "gemma3",
    "LlavaForConditionalGeneration": "llava",
    "LlavaLlamaForCausalLM": _OWN_LLAVA,
    "LlavaMistralForCausalLM": "llava_mistral",
    "Maira2ForConditionalGeneration": "maira2",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
    "VisionEncoderDecoderModel": "vision-encoder-decoder",
}
_CLASSES = {name.lower(): kind for name, kind in _NAMES.items()}
"""Allowed entries of `architectures`, in lower case because old files write LLaMAForCausalLM -> model_type."""
