"""What data sets call their splits, and the keys that name them."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from training.datasets.study import DatasetError
from training.datasets.values import fold_key, read_record, read_value

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "development": "val",
    "tune": "val",
    "tuning": "val",
    "internal val": "val",
    "internal validation": "val",
    "test": "test",
    "testing": "test",
    "internal test": "test",
    "external": "test",
    "external test": "test",
    "external validation": "test",
    "held out": "test",
    "held out test": "test",
    "hold out": "test",
    "hold out test": "test",
    "holdout": "test",
    "holdout test": "test",
    "heldout": "test",
}
"""What data sets call the three splits, in lower case, with spaces for hyphens and underscores, without `set`."""

ONLY_SPLITS = ("split", "splitname")
"""Keys that name nothing but a split, as `fold_key` writes them."""

SPLIT_KEYS = (*ONLY_SPLITS, "datasplit", "datasetsplit", "set", "subset", "partition")
"""What data sets call the column of the splits, as `fold_key` writes it."""


class SplitReader:
    """Reads the split of one record of a data set after the other.

    A key that may say something else, such as `set`, counts where its values are splits: all of them, or none.
    """

    def __init__(self) -> None:
        self._named: dict[str, str] = {}
        self._others: dict[str, tuple[str, str]] = {}

    def read(self, record: Mapping[str, Any], place: str) -> str | None:
        """The split that a record names under one of SPLIT_KEYS, in any case; None where it names none.

        Raises DatasetError for a split that is not known, and for a key with a split in one record, and not in another.
        """
        for key, item in record.items():
            if is_split_key(key) and isinstance(item, list | dict):
                name_split(item, place)
        found = read_record(record)
        for key in SPLIT_KEYS:
            value = found.get(key)
            if value is None:
                continue
            if key in ONLY_SPLITS:
                return name_split(value, place)
            split = SPLIT_NAMES.get(_fold(value))
            if split is None:
                self._others.setdefault(key, (place, value))
            else:
                self._named.setdefault(key, place)
            if key in self._named and key in self._others:
                where, other = self._others[key]
                raise DatasetError(
                    f"{where}: {key} is {other!r}, which is not a split, but {self._named[key]} has one there; "
                    f"allowed: {', '.join(SPLIT_NAMES)}"
                )
            if split is not None:
                return split
        return None


def is_split_key(key: str, keys: Iterable[str] = ONLY_SPLITS) -> bool:
    """Whether a key of a record, however it is written, is one of `keys`."""
    return fold_key(key) in keys


def name_split(name: Any, place: str) -> str | None:
    """`train`, `val` or `test` for what a data set calls it; None where it is unknown.

    Raises DatasetError for others.
    """
    plain = str(name) if isinstance(name, list | dict) else read_value(name)
    if plain is None:
        return None
    split = SPLIT_NAMES.get(_fold(plain))
    if split is None:
        raise DatasetError(f"{place}: the split is {name!r}; allowed: {', '.join(SPLIT_NAMES)}")
    return split


def find_split(path: str) -> str | None:
    """The split that a path names, in any case: the last of SPLIT_NAMES among its words; None where it names none."""
    words = re.split(r"[^a-z]+|(?=data\.csv)", path.lower())
    return next((SPLIT_NAMES[word] for word in reversed(words) if word in SPLIT_NAMES), None)


def _fold(value: str) -> str:
    """`Test_Set` and `test2` are `test`."""
    words = re.sub(r"[\s_-]+", " ", value.lower()).strip()
    return re.sub(r"(?: set)?(?: ?\d+)?$", "", words)
