"""Which instructions kernels are written in. What tells one kind of processor from another is in KNOWN alone."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

FORCED_BY = "PRELIM_INSTRUCTIONS"
"""Variable of the environment: the name of instructions to use in place of the best that the processor has."""


@dataclass(frozen=True)
class Instructions:
    """What kernels for one kind of processor are made of.

    name      : as FORCED_BY and the metrics have it
    family    : the kind of processor, a key of `prelim.decoders.precision.FASTEST_FIRST`
    lanes     : numbers of 32 bits in a register
    registers : how many there are
    integers  : how integers of 8 bits are multiplied, of `prelim.kernels.multiply_add`; None where no kernel does it
    bfloat16  : how bfloat16 is
    needs     : LLVM's names of the features of the processor that are used
    least     : LLVM's name of a processor that has little more, and what it lacks; for it all other code is compiled
                where these instructions are forced
    """

    name: str
    family: str
    lanes: int
    registers: int
    integers: str | None
    bfloat16: str
    needs: frozenset[str]
    least: tuple[str, str]


_CPUINFO = Path("/proc/cpuinfo")

_AVX2 = frozenset({"avx2", "fma"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
_VNNI, _BFLOAT16 = "avx512vnni", "avx512bf16"
_X86, _V3, _V4 = "x86-64 with", "x86-64-v3", "x86-64-v4"
_NEON, _DOTPROD = frozenset({"neon"}), frozenset({"neon", "dotprod"})

_ALL = (
    Instructions(
        *("avx512_bf16", f"{_X86} AVX512-VNNI", 16, 32, "vpdpbusd", "vdpbf16ps"),
        *(_AVX512 | {_VNNI, _BFLOAT16}, (_V4, f"+{_VNNI},+{_BFLOAT16}")),
    ),
    Instructions(
        *("avx512_vnni", f"{_X86} AVX512-VNNI", 16, 32, "vpdpbusd", "widened"), *(_AVX512 | {_VNNI}, (_V4, f"+{_VNNI}"))
    ),
    Instructions(*("avx512", f"{_X86} AVX512", 16, 32, "vpmaddubsw", "widened"), *(_AVX512, (_V4, ""))),
    Instructions(
        *("avx_vnni", f"{_X86} AVX-VNNI", 8, 16, "vpdpbusd", "widened"), *(_AVX2 | {"avxvnni"}, (_V3, "+avxvnni"))
    ),
    Instructions(*("avx2", f"{_X86} AVX2", 8, 16, "vpmaddubsw", "widened"), *(_AVX2, (_V3, ""))),
    Instructions(
        *("neon_dotprod", "aarch64 with SDOT", 4, 32, "sdot", "widened"), *(_DOTPROD, ("generic", "+dotprod"))
    ),
    Instructions(*("neon", "aarch64", 4, 32, None, "widened"), *(_NEON, ("generic", ""))),
)
KNOWN: Mapping[str, Instructions] = {one.name: one for one in _ALL}
"""By name, the best first."""


def _features() -> set[str]:
    """LLVM's names of what this processor has; none without llvmlite, where nothing can be compiled."""
    try:
        import llvmlite.binding as llvm
    except ImportError:
        return set()
    found = {name for name, has in llvm.get_host_cpu_features().items() if has}
    if platform.machine() == "aarch64":
        # Linux has names of its own, of which LLVM does not read that of the dot product.
        flags = _CPUINFO.read_text(encoding="utf-8").split()
        found |= {name for flag, name in (("asimd", "neon"), ("asimddp", "dotprod")) if flag in flags}
    return found


def available() -> list[Instructions]:
    """Those that this processor has, the best first."""
    found = _features()
    return [one for one in KNOWN.values() if one.needs <= found]


@cache
def chosen() -> Instructions | None:
    """Those that kernels use: the best, or the forced ones; None where the processor has none, or not these."""
    forced = os.environ.get(FORCED_BY)
    return next((one for one in available() if forced in (None, "", one.name)), None)


def why_none() -> str:
    """The reason where `chosen` gives None."""
    ours, forced = available(), os.environ.get(FORCED_BY)
    if ours:
        return f"{FORCED_BY} is {forced!r}; this processor has {', '.join(one.name for one in ours)}"
    if find_spec("llvmlite") is None:
        return "llvmlite is not installed"
    return "the processor has neither AVX2 with FMA nor NEON"


def restricted_to() -> tuple[str, str] | None:
    """The processor and its features, by LLVM's names, that all code is compiled for; None: the one at hand."""
    one = chosen()
    return None if one is None or one == available()[0] else one.least
