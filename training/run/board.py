"""What TensorBoard shows of a run."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training.run.run_state import RunProgress


class Board:
    """Event files in the folder `tensorboard` of a run; what a stopped run wrote after its checkpoint is hidden."""

    def __init__(self, folder: Path, progress: RunProgress) -> None:
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=progress.step + 1)

    def show(self, progress: RunProgress) -> None:
        """Add the last step, and its validation if it had one; the latter is printed, too."""
        step, report, label, rate = progress.train[-1]
        values = {"loss/reports": report, "learning_rate": rate}
        if label:
            values["loss/labels"] = label
        if progress.val and progress.val[-1][0] == step:
            _, values["loss/reports_val"], values["right_tokens_val"] = progress.val[-1]
            tqdm.write(
                f"step {step}: validation loss {values['loss/reports_val']:.4f}, "
                f"{values['right_tokens_val']:.1%} of tokens right"
            )
        for name, value in values.items():
            self._writer.add_scalar(name, value, int(step))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
