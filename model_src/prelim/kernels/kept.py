"""Compiled kernels, and where their machine code is kept for the next process that needs the same.

A worker compiles its kernels in five to eight seconds when it first decodes. Where PRELIM_KERNELS names a folder, the
machine code is kept there, and the next worker reads it instead: docs/decisions/0043-kept-kernels.md.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from numba.core import config
from numba.core.registry import cpu_target
from numba.core.runtime.nrt import rtsys

from prelim.kernels import KEPT_IN
from prelim.kernels.instructions import restricted_to

if (_least := restricted_to()) is not None:
    # What is forced here, a processor that has nothing better would run.
    config.CPU_NAME, config.CPU_FEATURES = _least


@dataclass(frozen=True)
class Kernel:
    """Machine code of a function that gets one address.

    address : where it begins
    kept    : whether it was read, and not compiled
    holder  : frees the code at its end
    """

    address: int
    kept: bool
    holder: object


def kernel(make: Callable[..., Any]) -> Callable[..., Kernel]:
    """Decorate what makes a numba cfunc for some kinds of numbers, which have names: each is made once a process."""

    @cache
    def make_once(*numbers: Any) -> Kernel:
        folder = os.environ.get(KEPT_IN)
        if not folder:
            return _compile(make(*numbers))
        name = " ".join((make.__module__, make.__qualname__, *(kind.name for kind in numbers)))
        path = Path(folder) / hashlib.sha256(f"{_origin()} {name}".encode()).hexdigest()
        return _read(path) or _keep(make(*numbers), path)

    return make_once


def _compile(function: Any) -> Kernel:
    return Kernel(function.address, kept=False, holder=function)


def _keep(function: Any, path: Path) -> Kernel:
    """Write the machine code of a cfunc, all at once; whatever prevents it, the function is there."""
    library = function._library
    # Addresses in the code would be those of this process.
    if not library.has_dynamic_globals:
        _, _, (code, _) = library.serialize_using_object_code()
        contents = function.native_name.encode() + b"\n" + code
        with contextlib.suppress(OSError):
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                file.write(hashlib.sha256(contents).digest() + contents)
            Path(file.name).replace(path)
    return _compile(function)


def _read(path: Path) -> Kernel | None:
    """Load what was kept; None where nothing was, or not all of it."""
    try:
        written = path.read_bytes()
    except OSError:
        return None
    digest, contents = written[:32], written[32:]
    if hashlib.sha256(contents).digest() != digest:
        return None
    name, _, code = contents.partition(b"\n")
    # The code finds what numba allocates memory with by names, which this makes known.
    rtsys.initialize(cpu_target.target_context)
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return Kernel(engine.get_function_address(name.decode()), kept=True, holder=engine)


@cache
def _origin() -> str:
    """What machine code follows from besides its name: the code here, the compiler, its settings, the processor."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    settings = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("NUMBA_"))
    processor = cpu_target.target_context.codegen().magic_tuple()
    compiler = (version(name) for name in ("numba", "llvmlite", "numpy"))
    return " ".join((digest.hexdigest(), *compiler, *processor, *settings))
