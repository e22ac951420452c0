"""Linear layers whose weights are laid out for the processor's matrix kernels.

oneDNN multiplies a few rows with weights as they lie in a file several times slower than with weights in blocks of its
own choice. The blocks are a copy in memory: `pack` is for a worker that has nobody to share its weights with.
"""

import torch
from torch import Tensor, nn

from model_src.decoders.causal_lm import CausalLMDecoder
from model_src.decoders.word_embedding import WordEmbedding

_DTYPES = (torch.float32, torch.bfloat16)


def _packed(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


class PackedLinear(nn.Module):
    """A linear layer with packed weights, which are packed when they are first wanted."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self._parts: dict[tuple[int, int], Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """The layer, shape (..., outputs), for x of shape (..., inputs)."""
        return self.part(x, 0, len(self.weight))

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Outputs `start` to `stop` alone, shape (..., stop - start)."""
        packed = self._parts.get((start, stop))
        if packed is None:
            packed = self._parts[start, stop] = _packed(self.weight[start:stop])
        return _product(x, packed, None if self.bias is None else self.bias[start:stop])


class PackedWordEmbedding(nn.Module):
    """Word embeddings by which words are scored with packed weights; rows are looked up where they lie in the file."""

    def __init__(self, words: WordEmbedding) -> None:
        super().__init__()
        self.weight = words.weight
        self._packed: Tensor | None = None

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embeddings, shape (..., width)."""
        return nn.functional.embedding(token_ids, self.weight)

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores of all words, shape (..., words), for hidden states of shape (..., width)."""
        if self._packed is None:
            self._packed = _packed(self.weight)
        return _product(hidden, self._packed, None)


def pack(decoder: nn.Module) -> nn.Module:
    """The decoder with packed layers in the place of those that are not quantised, where the processor can do it."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return decoder
    for parent in list(decoder.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear) and _fits(layer.weight):
                setattr(parent, name, PackedLinear(layer))
            elif isinstance(layer, WordEmbedding) and _fits(layer.weight):
                setattr(parent, name, PackedWordEmbedding(layer))
    if isinstance(decoder, CausalLMDecoder):
        decoder.compile_step()
    return decoder


def _fits(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype in _DTYPES
