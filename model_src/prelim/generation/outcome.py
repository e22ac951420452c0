"""How a request ends: with its sequences, or with an error of its own."""

from collections.abc import Callable
from typing import TypeVar

import torch

from prelim.errors import InternalError, RequestError
from prelim.generation.hypothesis import Hypothesis

Outcome = tuple[Hypothesis, ...] | RequestError
"""The returned sequences of a request, best first, or the error that ended it."""

Result = TypeVar("Result")


def isolate(work: Callable[[], Result]) -> Result | RequestError:
    """The result of `work` for one request, or the error that ends this request alone.

    Raises torch.AcceleratorError: a failed device is not the fault of one request.
    """
    try:
        return work()
    except RequestError as error:
        return error
    except torch.AcceleratorError:
        raise
    except Exception as error:  # noqa: BLE001 - an exception escaping here would end the neighbors too
        failed = InternalError()
        failed.__cause__ = error
        return failed
