"""The fence around third-party decoders: nothing that quotes a file comes through."""

import logging
import signal
import warnings

import pytest

from prelim.errors import Refused, TooLarge, UnreadableInput
from prelim.images.decoder_fence import allow_cpu_seconds, fence


def test_warnings_stay_inside() -> None:
    """A decoder's warning is neither shown nor an error; the filter outside is as before."""
    before = list(warnings.filters)

    with fence("the PNG image"):
        warnings.warn("Doe^Jane", UserWarning, stacklevel=1)

    assert list(warnings.filters) == before


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        (Refused("as it is"), Refused, "as it is"),
        (MemoryError("Doe^Jane"), TooLarge, "the PNG image needs more memory than is available; send it reduced"),
        (
            KeyError("Doe^Jane"),
            UnreadableInput,
            "the PNG image cannot be decoded (KeyError): it is damaged or truncated; send it again",
        ),
    ],
)
def test_errors_quote_nothing(raised: Exception, error: type[Exception], message: str) -> None:
    """An InputError passes as it is; any other error is named by its type alone, and no chain leads to them."""
    with pytest.raises(error) as caught, fence("the PNG image"):
        raise raised

    assert str(caught.value) == message
    assert caught.value is raised or (caught.value.__cause__ is None and caught.value.__suppress_context__)


@pytest.mark.parametrize("name", ["pydicom", "PIL", "pylibjpeg", "openjpeg", "tifffile"])
def test_decoders_log_nothing(name: str) -> None:
    """Not even what is critical."""
    assert not logging.getLogger(name).isEnabledFor(logging.CRITICAL)


def test_cpu_time_is_only_ever_extended() -> None:
    """A process without a limit gets none, a lower limit becomes the one that is asked for, a higher one stays."""
    before = signal.getitimer(signal.ITIMER_PROF)[0]
    assert before == 0, "the tests run without a limit"
    try:
        allow_cpu_seconds(500)
        assert signal.getitimer(signal.ITIMER_PROF)[0] == 0
        signal.setitimer(signal.ITIMER_PROF, 300)
        allow_cpu_seconds(200)
        assert 250 < signal.getitimer(signal.ITIMER_PROF)[0] <= 301
        allow_cpu_seconds(500)
        assert 450 < signal.getitimer(signal.ITIMER_PROF)[0] <= 501
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
