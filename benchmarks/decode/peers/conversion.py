"""A checkpoint in the format of a peer, converted once and stored next to it."""

import shutil
from collections.abc import Callable
from pathlib import Path


def convert_once(checkpoint: Path, name: str, convert: Callable[[Path], None]) -> Path:
    """The folder `name` of a checkpoint; filled by `convert` if it does not exist."""
    folder = checkpoint / name
    if not folder.is_dir():
        unfinished = checkpoint / f"{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        convert(unfinished)
        # Renamed last, so that an interrupted conversion is not taken for a complete one.
        unfinished.rename(folder)
    return folder
