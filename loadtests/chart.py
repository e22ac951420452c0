"""Charts in files: drawn without a display, the same bytes for the same figures."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def draw_panels(
    path: Path, size: tuple[float, float] = (6.5, 4), *, count: int = 1, dpi: int = 110
) -> Iterator[Sequence[Any]]:
    """Panels next to each other, matplotlib's axes, to draw on; the file is written at the end.

    path : a PNG; its folder is made
    size : width and height of a panel in inches
    """
    # Imported here because it takes a second.
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, count, figsize=(size[0] * count, size[1]), squeeze=False)
    try:
        yield panels[0]
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=dpi, metadata={"Software": None})
    finally:
        plt.close(figure)
