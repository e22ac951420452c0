"""The curves of a training run as a picture."""

from collections.abc import Sequence
from pathlib import Path


def plot_curves(history: Sequence[Sequence[float]], path: Path) -> None:
    """Losses and validation scores against epochs.

    history : one row a step: epoch, caption loss, label loss, group loss, and after a validation also the fractions
              of right modality and anatomy and of right finding group
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    epochs = [row[0] for row in history]
    for column, name in ((1, "caption"), (2, "labels"), (3, "finding group")):
        left.plot(epochs, [row[column] for row in history], label=name, linewidth=0.5)
    left.set(xlabel="epoch", ylabel="training loss", yscale="log")
    left.legend()
    scored = [row for row in history if len(row) > 4]
    for column, name in ((4, "modality and anatomy"), (5, "finding group")):
        right.plot([row[0] for row in scored], [row[column] for row in scored], label=name, marker=".")
    right.set(xlabel="epoch", ylabel="right in the generated caption (val)")
    right.legend()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
