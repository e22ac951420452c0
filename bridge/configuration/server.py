"""The section `server`: where reports come from, and what is asked of it."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridge.configuration.section import ConfigError, ConfigSection, check_range, check_url

LONGEST_WAIT_S = 3600

OPTIONS = frozenset(
    (
        *("num_beams", "do_sample", "temperature", "top_k", "top_p", "seed", "repetition_penalty", "length_penalty"),
        *("no_repeat_ngram_size", "early_stopping", "min_new_tokens", "max_new_tokens", "num_return_sequences", "stop"),
        *("banned_phrases", "grammar"),
    )
)
"""The server's generation options. Another field, such as a second image, would change what the draft is about."""

COMPARISON, LATERAL, PRIOR = "comparison", "lateral", "prior"
CONTEXT_FIELDS = ("indication", COMPARISON, "age", "sex", "technique", LATERAL, PRIOR)

MODEL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True)
class ServerSettings(ConfigSection):
    """The server that writes reports.

    options : generation options sent with every image (num_beams, ...), and `prompt` for a model that takes one
    images  : the largest number of frontal images read together for one report
    context : which of CONTEXT_FIELDS are sent; the model must accept them. Indication and technique are free texts of
              the study's headers, which can name a patient. `lateral` is an image of the study, `prior` one of the
              patient's latest earlier study in the PACS, and `comparison` says how much earlier that was
    """

    url: str = "http://127.0.0.1:8080"
    key_file: Path = Path("key_file.json")
    model: str = "demo"
    timeout_s: float = 120.0
    images: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    context: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_url("server.url", self.url)
        check_range("server.images", self.images, 1, 8)
        check_range("server.timeout_s", self.timeout_s, 1, LONGEST_WAIT_S)
        if not MODEL_NAME.fullmatch(self.model):
            raise ConfigError("server.model is not the name of a model; allowed: letters, digits, _ . -")
        if unknown := [name for name in self.context if name not in CONTEXT_FIELDS]:
            raise ConfigError(f"server.context has {unknown[0]!r:.40}; allowed: {', '.join(CONTEXT_FIELDS)}")
        if self.images > 1 and (roles := [name for name in (LATERAL, PRIOR) if name in self.context]):
            raise ConfigError(
                f"server.images is {self.images} and server.context has {roles[0]}; the server reads several frontal "
                "images, or one with a lateral and a prior: change one of the two"
            )
        for name, value in self.options.items():
            if name not in {*OPTIONS, "prompt"}:
                known = ", ".join(sorted(OPTIONS))
                raise ConfigError(f"server.options has the unknown option {name!r}; known: {known}, prompt")
            if not _is_option(value):
                raise ConfigError(f"server.options.{name} is a {type(value).__name__}; it must be a number or a text")


def _is_option(value: Any) -> bool:
    """Whether JSON can write a value, and options have its type; the server knows which values are allowed."""
    if isinstance(value, list):
        return all(isinstance(entry, str) for entry in value)
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
