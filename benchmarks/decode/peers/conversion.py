"""A checkpoint in the format of a peer, converted once and stored next to it."""

import shutil
from collections.abc import Callable
from pathlib import Path


def converted(checkpoint: Path, name: str, convert: Callable[[Path], None]) -> Path:
    """The folder `name` of a checkpoint, which `convert` fills when it is not there."""
    folder = checkpoint / name
    if not folder.is_dir():
        unfinished = checkpoint / f"{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        convert(unfinished)
        # Renamed last, so that a conversion that was interrupted is not taken for a whole one.
        unfinished.rename(folder)
    return folder
