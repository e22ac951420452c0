"""Failures as values: TorchServe fails a whole batch for one exception, so no exception may leave the handler."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from handlers.journal import log
from prelim.errors import InternalError, RequestError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """Why one request gets no report.

    code    : HTTP status code
    type    : name of the error, of a class in prelim.errors
    message : for the client; quotes no patient data
    field   : of the request, that is at fault
    """

    code: int
    type: str
    message: str
    field: str | None = None

    @classmethod
    def of(cls, error: RequestError) -> "Failure":
        """The failure that an error describes; an unexpected exception that is its cause is logged."""
        if error.status >= 500 and isinstance(error.__cause__, Exception):
            _log(error.__cause__)
        return cls(error.status, type(error).__name__, str(error), error.field)


INTERNAL = Failure.of(InternalError())


def attempt(work: Callable[[], Result]) -> Result | Failure:
    """The result of `work`, or the failure that stopped it.

    Of an unexpected exception only type and place are logged, because its text may quote the input.
    """
    try:
        return work()
    except RequestError as error:
        return Failure.of(error)
    except Exception as error:  # noqa: BLE001 - the one boundary: an exception escaping here would fail the whole batch
        _log(error)
        return INTERNAL


def _log(error: Exception) -> None:
    last = traceback.extract_tb(error.__traceback__)[-1]
    log("unexpected", reason=type(error).__name__, place=f"{Path(last.filename).name}:{last.lineno or 0}")
