"""Facts about a checkpoint that the shapes of its weights do not show."""

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from prelim.errors import ArchiveError


@dataclass(frozen=True)
class Facts:
    """Values that cannot be inferred from the shapes of the weights.

    Each value comes from an option of the import, from a settings file of the checkpoint, or is assumed to be that of
    the published model. The import prints what is assumed, and writes it to the model card.

    options : name in model.yaml, such as `decoder.heads` -> value given by the user
    config  : config.json of one of the system's model types; empty if the checkpoint has none
    preprocessor : preprocessor_config.json of `transformers`; empty if the checkpoint has none
    assumed : name -> value of the published model
    asked   : all names that were asked for, which are the allowed options
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    preprocessor: Mapping[str, Any] = field(default_factory=dict)
    assumed: dict[str, Any] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)

    def value(self, name: str, published: Any, *, stored: Any = None) -> Any:
        """The value of one name; `stored` is that of a settings file, None if there is none.

        Raises ArchiveError for an option of another type, and for a stored number that is not finite.
        """
        self.asked.add(name)
        if name in self.options:
            return self._option(name, published)
        if stored is not None:
            if isinstance(stored, float) and not math.isfinite(stored):
                raise ArchiveError(f"{name} is {stored} in the checkpoint's settings; give it with --set {name}=VALUE")
            return stored
        self.assumed[name] = published
        return published

    def _option(self, name: str, published: Any) -> Any:
        value = self.options[name]
        if isinstance(published, float) and isinstance(value, str):
            # YAML takes 1e-6, without a point, for a text.
            with suppress(ValueError):
                value = float(value)
        number = isinstance(published, float) and isinstance(value, int) and not isinstance(value, bool)
        if isinstance(published, bool | int | float | str) and not number and type(value) is not type(published):
            raise ArchiveError(f"--set {name}: {value!r} is of another type than the published value, {published!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ArchiveError(f"--set {name}: {value!r} is not finite")
        if _is_number(published) and published > 0 and value <= 0 and name not in _ANY_NUMBER:
            raise ArchiveError(f"--set {name}: {value!r}; allowed: numbers above 0")
        return value

    def unknown_options(self) -> list[str]:
        """Options that no part of the system asked for."""
        return sorted(self.options.keys() - self.asked)


_ANY_NUMBER = ("adapter.lora_alpha",)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def numbered(names: Iterable[str], ending: str) -> int:
    """How many of the names have this ending: the number of layers that contain such a weight."""
    return sum(name.endswith(ending) for name in names)
