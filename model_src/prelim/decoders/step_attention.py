"""Attention of a decoding step by a compiled kernel: each row to its own columns, whoever else is in the batch."""

from torch import Tensor


class StepAttention:
    """Replaces `Attending` in a step.

    mask : Tensor of bool, shape (sequences, 1, queries, positions), True where a query may look; None: everywhere
    """

    def __init__(self, mask: Tensor | None) -> None:
        self._mask = mask

    @property
    def everywhere(self) -> "StepAttention":
        """Attention to all positions, for what needs no mask."""
        return StepAttention(None)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
        """What the queries gather, of the shape of `query`; see `Attending`.

        Raises ValueError for a rate of dropout, which only training has.
        """
        if dropout:
            raise ValueError(f"dropout is {dropout}; a decoding step has none")
        # numba takes a second to import.
        from prelim.kernels.attention import attend

        return attend(query, key, value, self._mask)
