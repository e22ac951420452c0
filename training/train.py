"""Train any of the systems: from images and reports to a model folder.

$ python -m training.train training/configs/demo.yaml
$ python -m training.train training/configs/demo.yaml optimization.epochs=3 run.folder=runs/try run.out=models/try
$ python -m training.train run.resume=true run.folder=runs/demo           # after Ctrl-C or SIGTERM, which save
$ python -m training.train run.resume=true run.folder=runs/demo optimization.epochs=20      # a longer run
$ torchrun --nproc-per-node 2 -m training.train training/configs/demo.yaml

Every setting is explained in training/settings.py, and the published recipes are in training/configs.
"""

import ctypes
import json
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from prelim.decoders.decoder import PADDING
from prelim.errors import PrelimError
from prelim.networks.terms import write_terms
from training.data.batches import Batch
from training.data.seeds import seed_of
from training.datasets.trained_on import name_weights, write_trained_on
from training.network.optimization import Average, learning_rate, make_optimizer
from training.network.starting_model import CHANGE, starting_documents
from training.network.trainable import adapter_section, parameter_count, plain_weights, train_mode
from training.run.board import Board
from training.run.curves import plot_curves
from training.run.model_card import write_card
from training.run.model_folder import write_folder
from training.run.preparation import Prepared, prepare, record_studies
from training.run.run_state import (
    SETTINGS,
    Moving,
    RunProgress,
    load_best,
    restore,
    save,
    save_best,
    write_settings,
)
from training.settings import Settings, SettingsError, read_settings


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that Ctrl-C and SIGTERM append to: a step in progress ends whole, then the loop looks at it."""
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def keep_freed_memory() -> None:
    """Let the C library keep freed memory: a step on a CPU takes up to twice as long if it goes back to the system.

    Where the library is not glibc, nothing changes. Source: mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        trim_threshold, top_pad, mmap_max = -1, -2, -4
        for parameter, value in ((mmap_max, 0), (trim_threshold, -1), (top_pad, 1 << 28)):
            mallopt(parameter, value)


class Trainer:
    """A run: its network, where it is, and what a step and a validation do.

    Raises PrelimError (settings, data set or model folder) for what cannot be trained.
    """

    def __init__(self, settings: Settings) -> None:
        o, r = settings.optimization, settings.run
        self.settings, self.folder = settings, Path(r.folder)
        self.accelerator = Accelerator(
            # Unless it is told so, accelerate does not join processes of torchrun that have no accelerator.
            cpu=r.device == "cpu" or not torch.accelerator.is_available(),
            mixed_precision=o.mixed_precision,
            # Not every parameter has a part in the loss: system 2 carries a classifier of its own.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        if self.accelerator.device.type == "cpu":
            keep_freed_memory()
        if r.threads:
            torch.set_num_threads(r.threads)
        torch.use_deterministic_algorithms(self.accelerator.device.type == "cpu")
        self.main, self.processes = self.accelerator.is_main_process, self.accelerator.num_processes
        self.prepared = prepare(settings, self.processes, main=self.main)
        self.objective = self.prepared.objective
        self.model, self.optimizer = self.accelerator.prepare(self.objective, make_optimizer(self.objective, o))
        self.average = Average(self.objective, o.ema_decay) if o.ema_decay else None
        self.parts = Moving(self.objective, self.optimizer, self.average, self.accelerator.scaler)
        self.progress = RunProgress()
        if r.resume:
            self.progress = restore(self.folder, settings, self.parts, self.prepared.data)

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """Micro-batches of this process for the steps that are left, each with its number.

        The micro-batches of a step go round the processes: a step learns from the same ones however many there are.
        """
        o, r = self.settings.optimization, self.settings.run
        a_step = o.accumulate * self.processes
        first = self.progress.step * a_step + self.accelerator.process_index
        numbers = range(first, self.prepared.steps * a_step, self.processes)
        loader = DataLoader(self.prepared.train, batch_size=None, sampler=numbers, num_workers=r.workers)
        for number, batch in zip(numbers, loader, strict=True):
            yield number, to_device(batch, self.accelerator.device)

    def step(self, batches: Sequence[tuple[int, Batch]], *, stop: bool) -> bool:
        """Learn from the micro-batches of one step; says whether a process was told to stop."""
        o, accelerator = self.settings.optimization, self.accelerator
        # A step's loss is the mean over the tokens of all its micro-batches, in whatever process they are.
        counts = accelerator.reduce(count_targets([batch for _, batch in batches], stop=stop), "sum")
        tokens, labels = counts[0].clamp(min=1), counts[1].clamp(min=1)
        train_mode(self.objective)
        sums = torch.zeros(2, device=accelerator.device)
        for i, (number, batch) in enumerate(batches):
            torch.manual_seed(seed_of(o.seed, "dropout", number))
            with nullcontext() if i == len(batches) - 1 else accelerator.no_sync(self.model):
                report, label = self.model(batch)
                losses = torch.stack([report / tokens, label / labels])
                loss = losses[0] + self.settings.auxiliary.weight * losses[1]
                accelerator.backward(loss * self.processes)  # whose gradients are averaged, not summed
            sums += losses.detach()
        if o.gradient_clip:
            accelerator.clip_grad_norm_(self.model.parameters(), o.gradient_clip)
        rate = learning_rate(self.progress.step, self.prepared.steps, o)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        if self.average:
            self.average.update(self.progress.step)
        report_loss, label_loss = accelerator.reduce(sums, "sum").tolist()
        if not math.isfinite(report_loss):
            raise SettingsError(
                f"the loss of step {self.progress.step} is {report_loss}; start again with a lower "
                "optimization.learning_rate or a longer optimization.warmup"
            )
        self.progress.train.append([self.progress.step, report_loss, label_loss, rate])
        return bool(counts[2])

    @torch.no_grad()
    def validate(self) -> None:
        """Loss of the validation examples, with averaged weights if there are such; the best weights are written."""
        accelerator, batches, progress = self.accelerator, self.prepared.val, self.progress
        with self.average.applied() if self.average else nullcontext():
            for buffer in self.objective.buffers():  # batch-norm statistics are those of the main process
                broadcast(buffer)
            self.objective.eval()
            sums = torch.zeros(3, device=accelerator.device)
            numbers = range(accelerator.process_index, len(batches), self.processes)
            for number in tqdm(numbers, desc="validating", leave=False, disable=not self.main):
                batch = to_device(batches[number], accelerator.device)
                with accelerator.autocast():
                    report, right = self.objective.score(batch)
                sums += torch.stack([report, right, (batch["report_ids"] != PADDING).sum()])
            total, right_sum, tokens = accelerator.reduce(sums, "sum").tolist()
            loss = total / tokens
            progress.val.append([progress.step, loss, right_sum / tokens])
            progress.waited += 1
            if loss < progress.lowest:
                progress.lowest, progress.waited = loss, 0
                if self.main:
                    save_best(self.folder, self.objective)


def train(settings: Settings) -> bool:
    """Train, validate and write the model folder. False if it was stopped before; then last.pt is written."""
    run, r = Trainer(settings), settings.run
    progress, steps = run.progress, run.prepared.steps
    begin, before, first, stopped = time.monotonic(), progress.seconds, progress.step, False
    bar = tqdm(total=steps, initial=first, unit="step", smoothing=0.05, mininterval=1, disable=not run.main)
    if run.main:
        write_settings(run.folder, settings)
    board = Board(run.folder, progress) if run.main else None
    batches = run.batches()
    with stop_signals() as received, bar:
        while progress.step < steps and not stopped and not is_exhausted(progress, settings):
            told = run.step(list(islice(batches, settings.optimization.accumulate)), stop=bool(received))
            bar.set_postfix(
                epoch=f"{progress.step / run.prepared.steps_per_epoch:.1f}",
                loss=f"{progress.train[-1][1]:.3f}",
                refresh=False,
            )
            bar.update()
            due = progress.step % (run.prepared.steps_per_epoch * r.validate_every) == 0 or progress.step == steps
            if due and len(run.prepared.val):
                run.validate()
            stopped = told or progress.step - first == r.stop_after
            if board:
                board.show(progress)
                if stopped or due or progress.step % r.save_every == 0:
                    progress.seconds = before + time.monotonic() - begin
                    save(run.folder, settings, progress, run.parts, run.prepared.data)
    if board:
        board.close()
    finished = progress.step == steps or is_exhausted(progress, settings)
    if run.main and finished:
        finish(settings, run.prepared, run.average, progress)
    elif run.main:
        print(
            f"stopped after step {progress.step} of {steps}; continue with "
            f"`python -m training.train run.resume=true run.folder={r.folder}`"
        )
    run.accelerator.wait_for_everyone()
    run.accelerator.end_training()
    return finished


def is_exhausted(progress: RunProgress, settings: Settings) -> bool:
    """Whether the validation loss has not fallen for as long as is waited for."""
    return bool(settings.run.patience) and progress.waited >= settings.run.patience


def count_targets(batches: Sequence[Batch], *, stop: bool) -> Tensor:
    """Tokens to be learned, examples with a label, and 1 for a process that was told to stop."""
    tokens = sum(int((batch["report_ids"] != PADDING).sum()) for batch in batches)
    labels = sum(int((batch["labels"] >= 0).sum()) for batch in batches)
    return torch.tensor([tokens, labels, stop], dtype=torch.float32, device=batches[0]["report_ids"].device)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch where the network is."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def finish(settings: Settings, prepared: Prepared, average: Average | None, progress: RunProgress) -> None:
    """Write the model folder with the best weights, or the last where nothing was validated, and the curves."""
    run, out, objective = Path(settings.run.folder), Path(settings.run.out), prepared.objective
    best = load_best(run) if progress.val else average.weights if average else {}
    objective.load_state_dict(best, strict=False)
    description = dict(prepared.model.description)
    if settings.lora.keep:
        description["decoder"] = {**description["decoder"], "adapter": adapter_section(objective.network)}
    weights = objective.network.state_dict()
    if settings.lora.rank:
        weights = plain_weights(objective.network, keep_adapters=settings.lora.keep)
    write_folder(out, description, weights, prepared.model.tokenizer, settings.run.dtype)
    write_terms(out, prepared.model.config.licence, starting_documents(settings), CHANGE)
    write_trained_on(out, record_studies(settings, prepared))
    write_card(settings, prepared.model.config, progress, prepared.counts, parameter_count(objective.network))
    summary = {
        **name_weights(out),
        "settings": settings.as_dict(),
        "seconds": round(progress.seconds),
        "steps": progress.step,
    }
    history = {"train": progress.train, "val": progress.val}
    (run / "training.json").write_text(json.dumps({**summary, **history}, indent=1), encoding="utf-8")
    plot_curves(progress, run / "curves.png")
    print(f"{out} written after {progress.seconds / 60:.1f} minutes; curves in {run / 'curves.png'}")


def read_command_line(words: Sequence[str]) -> Settings:
    """Settings from `CONFIG.yaml section.key=value ...`; to resume a run, `run.folder` can replace the file.

    Raises SettingsError.
    """
    if words and "=" not in words[0]:
        return read_settings(words[0], words[1:])
    folder = next((word.partition("=")[2] for word in words if word.startswith("run.folder=")), "")
    if not folder or "run.resume=true" not in words:
        raise SettingsError("give CONFIG.yaml, or run.resume=true run.folder=FOLDER to continue a run")
    if not (Path(folder) / SETTINGS).is_file():
        raise SettingsError(f"{Path(folder) / SETTINGS} does not exist; give CONFIG.yaml, or the folder of a run")
    return read_settings(Path(folder) / SETTINGS, words)


def main() -> None:
    """The command line."""
    words = sys.argv[1:]
    if not words:
        sys.exit(__doc__)
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return
    try:
        train(read_command_line(words))
    except PrelimError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
