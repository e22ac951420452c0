"""Whose study a record is of, and in which split it is: read in the same way in every format."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from training.datasets.patients import find_patient
from training.datasets.split_names import SplitReader, is_split_key
from training.datasets.values import find_patient_value, name_patient_keys


class Membership(NamedTuple):
    """What a record says: see `Study`.

    keys : of the record, that say it: its other keys are labels
    """

    patient_id: str | None
    split: str | None
    keys: tuple[str, ...]


def read_membership(record: Mapping[str, Any], place: str, splits: SplitReader, name: str = "") -> Membership:
    """The patient under one of PATIENT_KEYS, else in the id or path `name`, and the split under one of SPLIT_KEYS.

    splits : one for all records of a data set

    Raises DatasetError as SplitReader does.
    """
    return Membership(
        find_patient_value(record) or find_patient(name),
        splits.read(record, place),
        (*name_patient_keys(record), *filter(is_split_key, record)),
    )
