"""The curves of a training run as a picture."""

from pathlib import Path

from training.run.run_state import RunProgress


def plot_curves(progress: RunProgress, path: Path) -> None:
    """Losses and learning rate against steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained", width_ratios=(3, 2))
    steps, report, label, rate = zip(*progress.train, strict=True)
    left.plot(steps, report, label="reports, training", linewidth=0.7)
    if any(label):
        left.plot(steps, label, label="labels, training", linewidth=0.7)
    if progress.val:
        val_steps, val, _ = zip(*progress.val, strict=True)
        left.plot(val_steps, val, label="reports, validation", marker=".", color="black")
        lowest = min(progress.val, key=lambda row: row[1])
        left.plot(lowest[0], lowest[1], "o", markersize=9, fillstyle="none", color="black", label="lowest")
    left.set(xlabel="step", ylabel="cross-entropy (nats per token)", yscale="log")
    left.legend()
    right.plot(steps, rate)
    right.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
