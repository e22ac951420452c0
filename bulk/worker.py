"""The work of one actor: blocks of studies in, files of the output out."""

import os
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bulk.attempts import Attempts
from bulk.decoding import DecodingThread
from bulk.errors import JobError
from bulk.output import Output, ReportRow
from bulk.settings import Job
from bulk.storage import Location
from bulk.studies import BulkStudy
from bulk.todo import Todo
from prelim.errors import InputError, RequestError, UnreadableInput
from prelim.generation.options import GenerationOptions
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest

CALLS = 2
"""Blocks that an actor has in hand: the second one fills the slots that the end of the first leaves free."""

MAX_FILE_BYTES = 512 * 2**20

NO_IMAGE = "the input names no image for this study, or one whose name is not UTF-8"

BlockColumns = Mapping[str, npt.NDArray[Any]]


class BlockWorker:
    """Writes the reports of blocks. Ray Data calls it from CALLS threads at once.

    run : owner of the output, see Output.own
    """

    def __init__(self, job: Job, todo: Todo, run: str) -> None:
        import torch

        torch.set_num_threads(job.threads)
        self._job, self._todo, self._run = job, todo, run
        self._output = Output(job.output)
        with job.archive.local() as archive:
            self._generator = ReportGenerator.load(archive, slots=job.slots, threads=job.threads)
        self._generator.warm_up()
        config = self._generator.config
        self._options = GenerationOptions.from_mapping(job.options, config.generation)
        self._model = {
            "model": config.name,
            "model_version": config.version,
            "model_sha256": self._generator.sha256,
        }
        # Raised by the first call: of an error in the constructor Ray prints pages.
        self._refusal = self._find_refusal()
        self._decoding = DecodingThread(self._generator)
        # Threads read files while others wait for their reports, and bound how many images are in memory.
        self._studies = ThreadPoolExecutor(max_workers=2 * job.slots, thread_name_prefix="study")

    def _find_refusal(self) -> str | None:
        """Why no study would get a report with this prompt and these options."""
        try:
            self._generator.add("check", self._request((b"none",)))
        except InputError as error:
            return str(error)
        self._generator.cancel("check")
        return None

    def __call__(self, batch: BlockColumns) -> BlockColumns:
        """Write the blocks of a batch; returns for each how many reports and errors are new."""
        counts = [self._write(int(number)) for number in batch["block"]]
        return {"reports": np.array([r for r, _ in counts]), "errors": np.array([e for _, e in counts])}

    def _write(self, number: int) -> tuple[int, int]:
        """Write one block. Raises JobError where that fails, or where the folder is another run's by now."""
        if self._refusal is not None:
            raise JobError(f"no study can get a report: {self._refusal}")
        try:
            return self._write_once(number)
        except OSError as error:
            self._output.check_owned_by(self._run)
            raise JobError(f"{self._output.folder.url}: {error}") from error

    def _write_once(self, number: int) -> tuple[int, int]:
        """Write one block, unless an attempt before this one has: that died after it, or lost its answer."""
        block, studies = self._todo.name(number), self._todo.read(number)
        if not self._output.has_part(block):
            attempts = Attempts(self._output, block)
            rows = (
                list(self._studies.map(self._row, studies)) if attempts.first else self._one_by_one(attempts, studies)
            )
            self._output.write_part(block, rows, self._model, self._run)
            attempts.end()
            failed = sum(row.error is not None for row in rows)
            return len(rows) - failed, failed
        return len(studies), 0

    def _one_by_one(self, attempts: Attempts, studies: Sequence[BulkStudy]) -> list[ReportRow]:
        return [
            self._row(study)
            if allowed
            else ReportRow(
                study.study_id,
                study.images,
                error="WorkerDied",
                message="workers died each time while they decoded this study alone, out of memory for example",
            )
            for study, allowed in attempts.survivors(studies)
        ]

    def _row(self, study: BulkStudy) -> ReportRow:
        """The report of one study, or the reason that there is none."""
        if not study.images:
            return ReportRow(study.study_id, study.images, error="NoImage", message=NO_IMAGE)
        started = time.perf_counter()
        used = study.images[: self._generator.max_images]
        try:
            images = tuple(_read_image(Location(image)) for image in used)
            read = time.perf_counter() - started
            report = self._decoding.submit(self._request(images)).result()
        except (RequestError, OSError, JobError) as error:
            return ReportRow(study.study_id, study.images, error=type(error).__name__, message=_reason(error))
        except Exception as error:  # noqa: BLE001 - one study never ends the job
            return ReportRow(study.study_id, study.images, error="InternalError", message=_place(error))
        return _report_row(study, report, read, unused=len(study.images) - len(used))

    def _request(self, images: tuple[bytes, ...]) -> ReportRequest:
        given: dict[str, Any] = {"image": images[0]} if len(images) == 1 else {"images": images}
        return ReportRequest(**given, prompt=self._job.prompt, options=self._options)


def _read_image(file: Location) -> bytes:
    """The bytes of an image. Raises OSError, and UnreadableInput for an empty file."""
    info = file.info()
    if not info.is_file:
        raise FileNotFoundError(os.strerror(2), "the file does not exist")
    if (info.size or 0) > MAX_FILE_BYTES:
        raise OSError(27, f"the file has {info.size} bytes; at most {MAX_FILE_BYTES} are read")
    contents = file.read()
    if not contents:
        raise UnreadableInput("the file is empty")
    return contents


def _reason(error: RequestError | OSError | JobError) -> str:
    """What an error says. It never quotes the image."""
    if isinstance(error, JobError):
        return str(error)
    if isinstance(error, OSError):
        return str(error.strerror or type(error).__name__)
    return str(error) if error.__cause__ is None else _place(error.__cause__)


def _place(error: BaseException) -> str:
    """Kind and place of an unexpected error, whose text may quote the input."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"unexpected {type(error).__name__}{place}"


def _report_row(study: BulkStudy, report: Report, read: float, *, unused: int) -> ReportRow:
    warnings = list(report.warnings)
    if unused:
        warnings.append(f"{unused} of the study's images were not used; the model reads {len(study.images) - unused}")
    return ReportRow(
        study_id=study.study_id,
        images=study.images,
        report=report.text,
        findings=report.findings,
        impression=report.impression,
        finish_reason=report.finish_reason,
        num_tokens=report.num_tokens,
        token_ids=report.token_ids,
        avg_logprob=report.avg_logprob,
        alternatives=[alternative.text for alternative in report.alternatives],
        warnings=warnings,
        seconds={"read": read, **{stage: ms / 1000 for stage, ms in report.timing_ms.items()}},
    )
