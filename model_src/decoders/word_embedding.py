"""Word embeddings by which words can also be scored."""

from torch import Tensor, nn
from torch.nn.functional import linear


class WordEmbedding(nn.Embedding):
    """torch.nn.Embedding, for decoders that score the next word by its embedding.

    Source: Press and Wolf, "Using the Output Embedding to Improve Language Models", 2017.
    """

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores of all words, shape (..., words), for hidden states of shape (..., width)."""
        return linear(hidden, self.weight)
