"""Tables that are looked up: word embeddings, by which words can also be scored."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


def draw_weights(*shape: int, std: float = 1.0) -> Tensor:
    """Normal random numbers; on the meta device a tensor without values.

    For that device torch would first import modules of 80 MB, for two seconds, at every start of a worker.
    """
    numbers = torch.empty(*shape)
    return numbers if numbers.is_meta else nn.init.normal_(numbers, std=std)


class WordEmbedding(nn.Embedding):
    """torch.nn.Embedding, for decoders that score the next word by its embedding.

    Source: Press and Wolf, "Using the Output Embedding to Improve Language Models", 2017.
    """

    def __init__(self, words: int, width: int) -> None:
        super().__init__(words, width, _weight=draw_weights(words, width))

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores of all words, shape (..., words), for hidden states of shape (..., width)."""
        return linear(hidden, self.weight)
