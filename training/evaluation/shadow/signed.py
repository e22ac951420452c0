"""Agreement of drafts with signed reports, from what the bridge writes: counts by day, model and finding."""

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prelim.errors import PrelimError
from prelim.labels.labeler import FINDINGS
from training.evaluation.shadow.control import Group

BOTH, DRAFT, SIGNED, NEITHER = range(4)
"""Who says that a finding is there."""


class SignedError(PrelimError):
    """The file is not what `python -m bridge agreement --out` writes."""


@dataclass(frozen=True)
class Stretch:
    """Studies whose reports were signed in one stretch of time.

    name    : a week, or its first day where stretches are of so many studies
    studies : their number
    cells   : int64, shape (findings, 4), studies by finding and by who says that it is there
    models  : that wrote the drafts
    """

    name: str
    studies: int
    cells: np.ndarray
    models: tuple[str, ...]

    def group(self, finding: int) -> Group:
        """The studies of which draft and signed report do not say the same of a finding."""
        return Group(self.name, self.studies, int(self.cells[finding, [DRAFT, SIGNED]].sum()))


@dataclass(frozen=True)
class Signed:
    """What the bridge writes.

    counts : by what was counted
    days   : (date, model, studies, cells as in `Stretch`), in order
    """

    counts: Mapping[str, int]
    days: tuple[tuple[datetime.date, str, int, np.ndarray], ...]

    @classmethod
    def read(cls, path: Path) -> "Signed":
        """Read the file. Raises SignedError."""
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
            days = sorted((_read_day(row) for row in given["days"]), key=lambda day: day[:2])
            return cls({str(name): int(count) for name, count in given["counts"].items()}, tuple(days))
        except OSError as error:
            raise SignedError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SignedError(f"{path} is not what python -m bridge agreement --out writes") from error

    def stretches(self, size: int | None = None) -> list[Stretch]:
        """Weeks, which begin on Mondays; or stretches of whole days with at least `size` studies."""
        return [_join(name, days) for name, days in (_weeks(self.days) if size is None else _pieces(self.days, size))]


_Day = tuple[datetime.date, str, int, np.ndarray]


def _read_day(row: Mapping[str, Any]) -> _Day:
    cells = np.array([row["findings"][finding] for finding in FINDINGS], dtype=np.int64)
    if cells.shape != (len(FINDINGS), 4) or (cells < 0).any() or (cells.sum(axis=1) != row["studies"]).any():
        raise ValueError
    return datetime.date.fromisoformat(row["day"]), str(row["model"]), int(row["studies"]), cells


def _weeks(days: Iterable[_Day]) -> Iterator[tuple[str, list[_Day]]]:
    found: dict[str, list[_Day]] = {}
    for day in days:
        found.setdefault(f"{day[0] - datetime.timedelta(days=day[0].weekday())}", []).append(day)
    yield from found.items()


def _pieces(days: Iterable[_Day], size: int) -> Iterator[tuple[str, list[_Day]]]:
    """A rest of fewer studies at the end waits for more."""
    piece: list[_Day] = []
    for day in days:
        piece.append(day)
        if sum(one[2] for one in piece) >= size:
            yield f"{piece[0][0]}", piece
            piece = []


def _join(name: str, days: list[_Day]) -> Stretch:
    models = tuple(dict.fromkeys(day[1] for day in days))
    return Stretch(name, sum(day[2] for day in days), np.sum([day[3] for day in days], axis=0), models)
