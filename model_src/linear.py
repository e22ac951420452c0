"""A linear layer of which a part of the outputs can be had alone."""

from torch import Tensor, nn
from torch.nn.functional import linear


class Linear(nn.Linear):
    """torch.nn.Linear, for layers that join several projections of which one is wanted by itself."""

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Outputs `start` to `stop` of a layer that has them side by side, shape (..., stop - start)."""
        return linear(x, self.weight[start:stop], None if self.bias is None else self.bias[start:stop])
