"""Memory and operations of a model, from the shapes of its networks: nothing of its weights is read."""

import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from prelim.archive.encoder_config import INT8
from prelim.archive.model_config import ModelConfig
from prelim.decoders.cross_attention import CrossAttentionDecoder
from prelim.decoders.four_bits import Int4DynamicEmbedding, Int4DynamicLinear
from prelim.decoders.quantized import Int8DynamicEmbedding, Int8DynamicLinear, Int8Embedding, Int8Linear, NF4Linear
from prelim.decoders.token_embedding import TokenEmbedding
from prelim.generation.columns import columns_needed
from prelim.networks.architectures.architecture import Network
from prelim.networks.trained_decoder import Trainable, for_serving

_MATRICES = (nn.Linear, Int8Linear, NF4Linear, Int8DynamicLinear)
_TABLES = (TokenEmbedding, Int8Embedding, Int8DynamicEmbedding)


@dataclass(frozen=True)
class Footprint:
    """What a model needs; sizes in bytes, for one worker.

    encoder         : weights of vision encoder and connector in the archive
    decoder         : weights of the decoder in the archive
    largest         : largest tensor of the decoder in the archive
    activations     : most that encoding one image holds at a time
    columns         : KV cache of one request with the default options
    image_columns   : the image's keys and values of one request, for cross-attention
    image_tokens    : embeddings per image
    image_operations : multiplications and additions of encoding one image
    step_bytes      : weights that a decoding step reads
    step_operations : multiplications and additions of a step, per row
    tokens, rows    : of a report with the default options
    """

    encoder: int
    decoder: int
    largest: int
    activations: int
    columns: int
    image_columns: int
    image_tokens: int
    image_operations: int
    step_bytes: int
    step_operations: int
    tokens: int
    rows: int


def footprint(config: ModelConfig, network: Network) -> Footprint:
    """The footprint of a model.

    network : without weights; it is moved to the meta device

    Raises ValueError if the decoder cannot be served in the precision of `config`.
    """
    _, decoder, stored = for_serving(cast("Trainable", network.decoder), config.precision)
    encoded = _encode(config, network)
    sizes = [math.prod(weight.shape) * weight.dtype.itemsize for weight in stored.values()]
    matrices = list(_matrices(decoder))
    step_bytes = sum(map(_bytes, matrices))
    served = cast("Any", decoder)
    cache = served.new_state(1).cache
    apart = isinstance(decoder, CrossAttentionDecoder)
    prefix = 1 if apart else encoded.tokens + 1
    return Footprint(
        encoder=_encoder_bytes(config, network),
        decoder=sum(sizes),
        largest=max(sizes),
        activations=encoded.activations,
        columns=columns_needed(prefix, config.generation) * cache.column_bytes,
        image_columns=encoded.tokens * cache.column_bytes if apart else 0,
        image_tokens=encoded.tokens,
        image_operations=encoded.operations,
        step_bytes=step_bytes,
        step_operations=2 * sum(map(_elements, matrices)),
        tokens=config.generation.max_new_tokens,
        rows=config.generation.rows,
    )


def _matrices(decoder: nn.Module) -> Iterator[nn.Module]:
    """Layers that every step multiplies with; a table of embeddings only where it scores tokens."""
    tied = getattr(decoder, "lm_head", None) is None
    for layer in decoder.modules():
        if isinstance(layer, _MATRICES) or (tied and isinstance(layer, _TABLES)):
            yield layer


def _encoder_bytes(config: ModelConfig, network: Network) -> int:
    """Bytes of vision.onnx and connector.onnx; matrices and filters have one byte a weight in products of 8 bits."""
    encoder, parts = config.served_encoder, (network.vision, network.connector)
    return sum(
        sum(t.numel() if t.ndim > 1 else _tensor(t) for t in part.state_dict().values())
        if precision == INT8
        else _bytes(part)
        for precision, part in zip(encoder.precisions.values(), parts, strict=True)
    )


def _bytes(module: nn.Module) -> int:
    return sum(map(_tensor, module.state_dict().values()))


def _tensor(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _elements(layer: Any) -> int:
    shape = layer.shape if isinstance(layer, NF4Linear) else layer.weight.shape
    together = 2 if isinstance(layer, Int4DynamicLinear | Int4DynamicEmbedding) else 1
    return math.prod(shape) * together


_ATTENTION = (
    torch.ops.aten.scaled_dot_product_attention.default,
    torch.ops.aten._scaled_dot_product_attention_math.default,
)


@dataclass(frozen=True)
class _Encoded:
    tokens: int
    operations: int
    activations: int


def _encode(config: ModelConfig, network: Network) -> _Encoded:
    """Encode an image without values."""
    p = config.preprocess
    # Some encoders have tables that are computed, and are therefore built with values.
    vision, connector = (part.to("meta").eval().requires_grad_(False) for part in (network.vision, network.connector))
    pixels = torch.empty(1, p.channels, *p.picture_size(), device="meta")
    # ONNX Runtime has the weights of attention in memory, as this kind of it does.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter, _LiveMemory() as memory:
            embeds = connector(vision(pixels))
    tokens = math.prod(embeds.shape[1:-1])
    return _Encoded(tokens, counter.get_total_flops(), memory.peak)


class _LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that operations make, as long as these exist."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _ATTENTION:
            # One operation here, and several with results of their own in ONNX Runtime.
            with self:
                return func.decompose(*args, **(kwargs or {}))
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return made

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone() -> None:
            self._seen.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)
