"""Machine code that one process keeps for the next computes the same, and belongs to what it was compiled from."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from prelim import kernels
from prelim.kernels import KEPT_IN, unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason="nothing can be compiled here")


class Kind:
    """Of numbers, as a kernel has it."""

    def __init__(self, name: str, factor: int) -> None:
        self.name, self.factor = name, factor


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where kernels are kept."""
    path = tmp_path / "kernels"
    path.mkdir(mode=0o700)
    monkeypatch.setenv(KEPT_IN, str(path))
    unavailable.cache_clear()
    yield path
    unavailable.cache_clear()


@pytest.fixture
def once() -> Callable[[Kind], tuple[bool, list[int]]]:
    """Makes a kernel as a new process does and runs it: whether it was kept, and what its two threads wrote."""
    from numba import carray, cfunc, types

    from prelim.kernels import team
    from prelim.kernels.kept import kernel

    barrier, thread_number, team_size = team.barrier, team.thread_number, team.team_size

    def make(kind: Kind) -> Any:
        factor = kind.factor

        @cfunc(types.void(types.CPointer(types.int64)))
        def write(pointer: Any) -> None:
            room = np.empty(2, np.int64)
            room[0] = factor * (thread_number() + 1)
            barrier()
            out = carray(pointer, 2)
            out[thread_number()] = room[0] + team_size()

        return write

    def run(kind: Kind) -> tuple[bool, list[int]]:
        made, out = kernel(make)(kind), np.zeros(2, np.int64)
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            team.run(made, out.ctypes.data)
        finally:
            torch.set_num_threads(threads)
        return made.kept, out.tolist()

    return run


def test_kept_code_computes_the_same(folder: Path, once: Callable[[Kind], tuple[bool, list[int]]]) -> None:
    """The second process reads what the first has compiled; without a folder, each compiles."""
    kind = Kind("ten", 10)

    assert [once(kind), once(kind)] == [(False, [12, 22]), (True, [12, 22])]
    assert [path.stat().st_mode & 0o077 for path in folder.iterdir()] == [0]


def test_nothing_is_kept_without_a_folder(
    monkeypatch: pytest.MonkeyPatch, once: Callable[[Kind], tuple[bool, list[int]]]
) -> None:
    """As by default."""
    monkeypatch.delenv(KEPT_IN)
    kind = Kind("ten", 10)

    assert [once(kind), once(kind)] == 2 * [(False, [12, 22])]


def test_other_numbers_and_another_origin_are_compiled(
    folder: Path, once: Callable[[Kind], tuple[bool, list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code belongs to its numbers, to a release of the compiler, to a processor and to the source."""
    once(Kind("ten", 10))
    assert once(Kind("nine", 9)) == (False, [11, 20])
    monkeypatch.setattr("prelim.kernels.kept._origin", lambda: "another processor")
    assert once(Kind("ten", 7)) == (False, [9, 16])
    assert len(list(folder.iterdir())) == 3


def test_where_machine_code_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file here, settings of numba and the processor tell one origin from another; nothing else does."""
    from prelim.kernels import kept

    def origin() -> str:
        return str(kept._origin.__wrapped__())

    before, read = origin(), Path.read_bytes
    assert origin() == before
    for path in Path(kept.__file__).parent.glob("*.py"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", lambda file, path=path: read(file) + b"#" * (file == path))
            assert origin() != before, path.name
    monkeypatch.setenv("OTHER_SETTING", "1")
    assert origin() == before
    monkeypatch.setenv("NUMBA_OPT", "1")
    assert origin() != before
    monkeypatch.delenv("NUMBA_OPT")
    codegen = SimpleNamespace(magic_tuple=lambda: ("another", "processor", ""))
    monkeypatch.setattr(type(kept.cpu_target.target_context), "codegen", lambda _: codegen)
    assert origin() != before


@pytest.mark.parametrize(
    "damage", [lambda code: code[:-1], lambda code: b"", lambda code: code[:99] + b"?" + code[100:]]
)
def test_damaged_code_is_compiled_again(
    folder: Path, once: Callable[[Kind], tuple[bool, list[int]]], damage: Callable[[bytes], bytes]
) -> None:
    """It is never executed, and replaced."""
    kind = Kind("ten", 10)
    once(kind)
    (path,) = folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))

    assert [once(kind)[0], once(kind)[0]] == [False, True]


@pytest.mark.parametrize(
    ("mode", "owner", "allowed"),
    [
        *((mode, owner, True) for mode in (0o40700, 0o40755, 0o40711) for owner in (0, 7)),
        *((mode, 7, False) for mode in (0o40720, 0o40702, 0o40777, 0o100700)),
        *((0o40700, owner, False) for owner in (1, 6, 8)),
    ],
)
def test_who_may_write_in_the_folder(monkeypatch: pytest.MonkeyPatch, mode: int, owner: int, allowed: bool) -> None:
    """Who runs this, here 7, and root; neither their group nor others, in no folder of a third."""
    monkeypatch.setattr("os.geteuid", lambda: 7)
    monkeypatch.setattr(Path, "stat", lambda _: SimpleNamespace(st_mode=mode, st_uid=owner))
    assert (kernels._why_not_kept("kept") is None) == allowed


def test_folder_of_others_is_not_used(folder: Path) -> None:
    """Decoders go on with PyTorch's operations and name the reason."""
    assert unavailable() is None
    folder.chmod(0o777)
    unavailable.cache_clear()
    assert unavailable() == f"{KEPT_IN} is {folder}, which is not a folder in which only its owner may write"
    folder.rmdir()
    unavailable.cache_clear()
    assert unavailable() == f"{KEPT_IN} is {folder}: No such file or directory"
