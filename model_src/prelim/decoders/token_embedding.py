"""Tables that are looked up: token embeddings, by which tokens can also be scored."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


def draw_weights(*shape: int, std: float = 1.0) -> Tensor:
    """Normal random numbers; on the meta device a tensor without values.

    For that device torch would first import modules of 80 MB, for two seconds, at every start of a worker.
    """
    numbers = torch.empty(*shape)
    return numbers if numbers.is_meta else nn.init.normal_(numbers, std=std)


class TokenEmbedding(nn.Embedding):
    """torch.nn.Embedding, for decoders that score the next token by its embedding.

    Source: Press and Wolf, "Using the Output Embedding to Improve Language Models", 2017.
    """

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__(vocab_size, width, _weight=draw_weights(vocab_size, width))

    def words(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """A table of embeddings, shape (words, width), and which of them each token has, in the shape of the tokens."""
        return self.weight, token_ids

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores of all tokens, shape (..., vocab_size), for hidden states of shape (..., width)."""
        return linear(hidden, self.weight)
