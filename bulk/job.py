"""One bulk job: list what is to do, let workers do it, say how it goes."""

import contextlib
import logging
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import ray
import ray.data
import yaml

import bulk
import prelim
import terminal
from bulk.errors import JobError
from bulk.output import STAGES, Output
from bulk.progress import Progress
from bulk.settings import Job
from bulk.storage import Location
from bulk.todo import Todo, write_todo
from bulk.worker import CALLS, BlockWorker
from prelim.archive.archive import CONFIG
from prelim.archive.mar import check_mar, read_file
from prelim.archive.model_config import ModelConfig
from prelim.errors import ArchiveError
from prelim.generation.options import GenerationOptions

_SHIPPED = (bulk, prelim, terminal)
"""Packages that are copied to the nodes of a cluster, which need only what these import."""

_MOST_TASKS = 4096
"""Tasks of Ray that a job is cut into; a task does one block after another."""


def run_job(job: Job) -> Mapping[str, Any]:
    """Run a job to its end; returns its summary, which is also in the output.

    There a run that finds nothing to do leaves the speed of the last one.

    Raises JobError, ArchiveError and InvalidOption before anything is decoded.
    """
    if job.address is not None:
        _check_reachable(job.address)
    _check_apart(job.source.location, job.output)
    output = Output(job.output)
    output.begin(_identity(job))
    run = uuid.uuid4().hex
    output.own(run)
    if job.retry_errors:
        output.forget_errors()
    todo = write_todo(job.source, output, job.limit)
    started = time.monotonic()
    workers = reports = 0
    if todo.blocks:
        with Progress(todo.studies, todo.total) as progress, _ray(job.address):
            cpus = ray.cluster_resources().get("CPU", 1)
            workers = _count_workers(job, int(cpus))
            for counts in _decode(job, todo, run, min(workers, todo.blocks)):
                progress.add(int(counts["reports"].sum()), int(counts["errors"].sum()))
                reports += int(counts["reports"].sum())
    seconds = time.monotonic() - started
    speed = {
        "new": todo.studies,
        "seconds": round(seconds, 1),
        "reports_per_s_and_core": round(reports / max(seconds, 1e-9) / max(1, workers * job.threads), 3),
    }
    earlier = {} if todo.blocks else {key: value for key, value in output.summary().items() if key in speed}
    summary = {"studies": todo.total, **_counts(output)}
    output.end(summary | speed | earlier, run)
    return summary | speed


def _count_workers(job: Job, cpus: int) -> int:
    """How many workers to start. Raises JobError where this machine has not enough processors for one."""
    # A cluster may add larger nodes when it is asked for them.
    if job.address is None and job.threads > cpus:
        raise JobError(
            f"--threads is {job.threads}, but this machine has {cpus} processors, and a worker would never start"
        )
    return job.workers or max(1, cpus // job.threads)


def _identity(job: Job) -> dict[str, Any]:
    """What must not change between the runs of a job. Raises ArchiveError and InvalidOption."""
    config, sha256 = _read_model(job.archive)
    options = GenerationOptions.from_mapping(job.options, config.generation)
    return {
        "model": config.name,
        "version": config.version,
        "sha256": sha256,
        "options": {key: list(value) if isinstance(value, tuple) else value for key, value in vars(options).items()},
        "prompt": job.prompt,
    }


def _read_model(archive: Location) -> tuple[ModelConfig, str]:
    if not archive.is_file():
        raise ArchiveError(f"{archive.url} does not exist; `make archive` builds an archive")
    with archive.local() as path:
        manifest = check_mar(path)
        return ModelConfig.from_mapping(yaml.safe_load(read_file(path, CONFIG)), CONFIG), manifest.sha256


def _decode(job: Job, todo: Todo, run: str, workers: int) -> Iterator[Mapping[str, Any]]:
    """Let actors decode all blocks; yields the counts of each as it is written."""
    blocks = ray.data.from_items(
        [{"block": number} for number in range(todo.blocks)], override_num_blocks=min(todo.blocks, _MOST_TASKS)
    )
    counts = blocks.map_batches(
        BlockWorker,
        fn_constructor_args=(job, todo, run),
        batch_size=1,
        batch_format="numpy",
        num_cpus=job.threads,
        compute=ray.data.ActorPoolStrategy(
            size=workers, max_concurrent_calls_per_actor=CALLS, enable_true_multi_threading=True
        ),
    )
    try:
        yield from counts.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)
    except ray.exceptions.RayError as error:
        Output(job.output).check_owned_by(run)
        raise JobError(
            f"a worker failed: {_reason(error)}; what has been written is kept, run the job again"
        ) from error


def _check_apart(source: Location, output: Location) -> None:
    """Raise JobError if the reports would be studies of the next run."""
    if source.contains(output):
        raise JobError(f"the output {output.url} is in the input folder; choose a folder outside of it")


def _check_reachable(address: str) -> None:
    """Raise JobError unless something listens at HOST:PORT; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise JobError(f"the address {address!r:.100} is not HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise JobError(f"no Ray cluster at {address}: {error}") from error


@contextlib.contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine, and end it afterwards."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # It warns of what Ray Data does itself.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # It prints what it raises, too.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # The paths of Ray's sockets, of at most 107 characters, begin with it.
    short = "/tmp" if len(tempfile.gettempdir()) > 24 else None  # noqa: S108 - a private folder is made in it
    with tempfile.TemporaryDirectory(prefix="prelim-ray-", dir=short, ignore_cleanup_errors=True) as folder:
        options: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "_temp_dir": folder}
        if address is not None:
            options = {"runtime_env": {"py_modules": [package.__path__[0] for package in _SHIPPED]}}
        try:
            with _no_stderr():
                ray.init(address, log_to_driver=False, logging_level="error", **options)
        except Exception as error:  # Ray raises bare ones, for a start that takes over 30 s
            if address is None:
                raise JobError(f"Ray did not start on this machine, which may be busy: {_last_line(error)}") from error
            raise JobError(
                f"no Ray cluster at {address}: {_last_line(error)}; if it wants a token, set RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN"
            ) from error
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """Drop what compiled code writes to stderr: Ray says there that its log level has been set."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _counts(output: Output) -> dict[str, Any]:
    """Outcomes of all studies, and percentiles of the seconds that the reports took."""
    kinds: dict[str, int] = {}
    seconds: list[Any] = []
    stages = [f"{stage}_s" for stage in STAGES if stage != "queue"]
    for table in output.columns("error", *stages):
        for kind in table["error"].to_pylist():
            kinds[kind or "report"] = kinds.get(kind or "report", 0) + 1
        written = table.filter(pc.is_null(table["error"]))
        seconds.append(np.sum([written[stage].to_numpy() for stage in stages], axis=0))
    taken = np.concatenate(seconds) if seconds else np.empty(0)
    percentiles = {f"p{p}": round(float(np.percentile(taken, p)), 3) for p in (50, 95, 99)} if len(taken) else {}
    return {"outcomes": dict(sorted(kinds.items())), "seconds_per_report": percentiles}


def _reason(error: BaseException) -> str:
    """What a worker said, which is in the middle of the tracebacks and the advice of Ray's error."""
    said = f"{JobError.__module__}.{JobError.__name__}: "
    return next((line.partition(said)[2] for line in str(error).splitlines() if said in line), _last_line(error))


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
