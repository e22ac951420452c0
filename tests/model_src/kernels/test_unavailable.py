"""Where nothing can be compiled, decoders go on with PyTorch's operations and say why."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from prelim.kernels import unavailable

SCRIPT = """
import torch
from tests.model_src.generation.test_batch_invariance import random_decoder
from prelim.decoders.decoder import IMAGE
decoder = random_decoder("biogpt", "int8_dynamic", shared=False)
state = decoder.new_state(1)
state.cache.reserve(1, 8)
places = state.cache.prefix_places(slice(0, 1), 5)
with torch.inference_mode():
    logits = decoder.prefill(state, places, torch.randn(1, 3, 128), torch.tensor([[1, IMAGE, 5]]))
assert logits.isfinite().all()
print(decoder.compiled, decoder.not_compiled)
"""


def test_another_processor_for_numba_ends_no_process() -> None:
    """LLVM would abort because instructions are missing; instead the decoder loads, decodes and names the setting."""
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "None NUMBA_CPU_NAME is set to 'generic'; unset it"


@pytest.fixture
def asked_again() -> Iterator[None]:
    """What `unavailable` remembers is forgotten, before and after."""
    unavailable.cache_clear()
    yield
    unavailable.cache_clear()


@pytest.mark.usefixtures("asked_again")
@pytest.mark.parametrize(
    ("setting", "value", "variable"),
    [
        ("DISABLE_JIT", 1, "NUMBA_DISABLE_JIT"),
        ("CPU_FEATURES", "+sse2", "NUMBA_CPU_FEATURES"),
        ("ENABLE_AVX", 0, "NUMBA_ENABLE_AVX"),
    ],
)
def test_settings_of_numba_are_named(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: int | str, variable: str
) -> None:
    """Each setting with which the kernels would not compile, or not for this processor."""
    monkeypatch.setattr(f"numba.core.config.{setting}", value)
    assert variable in str(unavailable())
