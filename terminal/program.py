"""How the programs of this project behave at a terminal: Ctrl-C is one line, and nothing is silent for long.

Nothing that serves uses it, and importing a package changes nothing: only `python -m package.module` does.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

CALM_S = 5
"""Seconds between two signs of life where no person watches: in a log, or through a pipe."""

CLEAN_UP_S = 10
"""Seconds that an interrupted child process has for removing what it has begun."""

_FIRST = "PRELIM_PROGRAM"
"""Id of the first process, for the programs that it starts: a terminal interrupts them all, and one says so."""


def begin() -> None:
    """Set up a program; called by its package before anything heavy is imported, which may be interrupted too.

    Ctrl-C prints "interrupted" instead of a traceback; the process still ends by the signal. Progress bars are updated
    every few seconds where stderr is not a terminal.
    """
    # Python sets this name while it looks for the module to run. Anything else means that the package is imported.
    if sys.argv[:1] != ["-m"]:
        return
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", str(CALM_S))
    os.environ.setdefault(_FIRST, str(os.getpid()))
    sys.excepthook = _show


def _is_first() -> bool:
    return os.environ.get(_FIRST) in (None, str(os.getpid()))


def _show(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    """Show what ends the program: one line for Ctrl-C, what is written for the user, and a file that cannot be used."""
    if issubclass(kind, KeyboardInterrupt):
        if _is_first():
            sys.stderr.write("interrupted\n")
    elif getattr(kind, "for_users", False):
        sys.stderr.write(f"{error}\n")
    elif isinstance(error, OSError) and error.filename:
        sys.stderr.write(f"{error.filename}: {error.strerror}\n")
    else:
        sys.__excepthook__(kind, error, at)


@contextmanager
def ignoring_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C, here and in processes that are started here: who started them ends them."""
    if threading.current_thread() is not threading.main_thread():
        # Signals are for the main thread, and only that may change what they do.
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def patience_with(child: "subprocess.Popen[Any]") -> Iterator[None]:
    """After Ctrl-C, which a child process gets too, give it time to remove what it has begun; then kill it."""
    try:
        yield
    except BaseException:
        with ignoring_interrupts():
            try:
                child.wait(CLEAN_UP_S)
            except subprocess.TimeoutExpired:
                child.kill()
        raise


def run_child(command: Sequence[str], **options: Any) -> None:
    """Run a command of this project. Raises CalledProcessError if it fails; see `patience_with`."""
    with subprocess.Popen(command, **options) as child, patience_with(child):
        child.wait()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)


@contextmanager
def sign_of_life(doing: str) -> Iterator[None]:
    """Show on stderr what is being done, and for how long: every second on a terminal, otherwise every few.

    A program that another one has started leaves that to it.
    """
    if not _is_first():
        yield
        return
    # The library does not need it, and programs start before it is needed.
    from tqdm import tqdm

    done = threading.Event()
    with tqdm(desc=doing, bar_format="{desc} {elapsed}", leave=False) as line:

        def show() -> None:
            while not done.wait(1 if sys.stderr.isatty() else CALM_S):
                line.refresh()

        shown = threading.Thread(target=show, daemon=True)
        shown.start()
        try:
            yield
        finally:
            done.set()
            shown.join()
