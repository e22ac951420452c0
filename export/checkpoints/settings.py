"""Reads the JSON settings of checkpoints: config.json, adapter_config.json, generation_config.json, ..."""

import json
from collections.abc import Mapping, Sequence
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
    def is_adapter(self) -> bool:
        """Whether it describes an adapter of `peft`."""
        return self.name.endswith(ADAPTER) or "peft_type" in self.contents or "lora_alpha" in self.contents

    @property
    def is_config(self) -> bool:
        """Whether it describes a network."""
        return not self.is_adapter and ("model_type" in self.contents or "architectures" in self.contents)


def read_settings(path: Path, label: str) -> list[SettingsFile]:
    """Read the settings of a folder, or one JSON file.

    A GGUF file gives the equivalent settings from its metadata, a .keras file those of its layers; other weights files
    have none.

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
    if path.is_file():
        return [SettingsFile(label, read_json(path))] if path.suffix == JSON else []
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


def preprocessor_config(found: Sequence[SettingsFile]) -> Mapping[str, Any]:
    """The image processor's settings; empty if there are none."""
    for file in found:
        if file.name.endswith(PREPROCESSOR):
            return file.contents.get("image_processor") or file.contents
    return {}


def model_config(published: Published, system: str, found: Sequence[SettingsFile]) -> Mapping[str, Any]:
    """The config.json of the system's model type; empty if there is none.

    Raises ArchiveError for a foreign model, for code of its own, and for a kind of quantization that cannot be read.
    """
    configs = [file for file in found if file.is_config]
    for file in configs:
        _check_config(published, system, file)
    chosen = [file.contents for file in configs if "model_type" in file.contents]
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
    kind = contents.get("model_type")
    allowed = published.model_types
    if not allowed or (kind is not None and kind not in allowed):
        raise ArchiveError(
            f"{file.name}: model_type is {kind!r}, whose network is another one; {system} takes "
            f"{', '.join(allowed) if allowed else 'no config.json'}"
        )
    classes = contents.get("architectures") or []
    foreign = [name for name in classes if name.lower() not in _CLASSES]
    if foreign:
        raise ArchiveError(
            f"{file.name}: architectures contains {foreign[0]!r}; allowed: {', '.join(_CLASSES.values())}. Save the "
            "model as one of these"
        )
    if contents.get("auto_map"):
        raise ArchiveError(f"{file.name}: auto_map names code of the model's own, which is not executed")
    method = (contents.get("quantization_config") or {}).get("quant_method", DEQUANTIZED[0])
    if method not in DEQUANTIZED:
        raise ArchiveError(
            f"{file.name}: quant_method is {method!r}; supported: {', '.join(DEQUANTIZED)}. Give the weights in 16 or "
            "32 bits"
        )


_CLASSES = {
    name.lower(): name
    for name in (
        *("BioGptForCausalLM", "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"),
        "LlavaForConditionalGeneration",
    )
}
"""Allowed entries of `architectures`; old files write LLaMAForCausalLM."""
