"""A model of `transformers` with random weights, and the decoder that is served of it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.decode.point import Point
from prelim.decoders.captured import CapturedDecoder
from prelim.decoders.decoder import IMAGE, Decoder
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from prelim.networks.trained_decoder import for_serving, materialized
from prelim.networks.transformers_lm import TransformersLM

PREFIX = 36
"""Embeddings of an image and its prompt, as system 0 has them."""

PAD, EOS = 1, 2
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_TINY: Mapping[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 256,
}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "tiny-biogpt": {"model_type": "biogpt", **_TINY},
    "tiny-llama": {"model_type": "llama", **_TINY, "num_key_value_heads": 2},
    # What transformers takes where nothing is said: the published dimensions.
    "biogpt": {"model_type": "biogpt"},
    "llama2-7b": {"model_type": "llama"},
}
"""Name on the command line -> model type and configuration of `transformers`."""


class ModelPair:
    """The same random weights as `transformers` runs them and as they are served.

    library  : the model of `transformers`
    plain    : the decoder, its steps by PyTorch's operations
    captured : the same, its steps captured; on a CPU they are repeated

    shape     : a name in SHAPES
    precision : a key of DTYPES
    """

    def __init__(self, shape: str, precision: str, device: torch.device) -> None:
        section, dtype = dict(SHAPES[shape]), DTYPES[precision]
        config = AutoConfig.for_model(**section)
        torch.manual_seed(0)
        library: Any = AutoModelForCausalLM
        with device, _default(dtype):
            self.library: Any = library.from_config(config).eval().requires_grad_(False)
        _randomize(self.library)
        with torch.device("meta"):
            network = TransformersLM(section)
        network.body.load_state_dict(self.library.base_model.state_dict(), assign=True)
        if network.lm_head is not None:
            network.lm_head.load_state_dict(self.library.get_output_embeddings().state_dict(), assign=True)
        _, served, weights = for_serving(network, precision)
        served.load_state_dict(materialized(weights), assign=True)
        served = served.to(device).eval().requires_grad_(False)
        self.plain = cast("Decoder[Any]", served)
        self.captured = cast("Decoder[Any]", CapturedDecoder(self.plain))
        self.shape, self.device, self.dtype, self._width = shape, device, dtype, config.hidden_size
        # A step looks up a few rows of these, and multiplies with all the others.
        looked_up = {"positions.weight"} | (set() if network.lm_head is None else {"words.weight"})
        self.weight_bytes = sum(p.nbytes for name, p in served.named_parameters() if name not in looked_up)

    def embeds(self, images: int) -> Tensor:
        """What is read before the text, shape (images, PREFIX, width)."""
        generator = torch.Generator(self.device).manual_seed(1)
        embeds = torch.randn(images, PREFIX, self._width, generator=generator, device=self.device)
        return (embeds * 0.1).to(self.dtype)

    @torch.inference_mode()
    def generate(self, point: Point, new_tokens: int) -> list[list[int]]:
        """Token ids of `generate`."""
        embeds = self.embeds(point.images)
        tokens = self.library.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.int64, device=self.device),
            num_beams=point.beams,
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            pad_token_id=PAD,
            eos_token_id=EOS,
            use_cache=True,
        )
        return cast("list[list[int]]", tokens.tolist())

    def engine(self, decoder: Decoder[Any], point: Point) -> Engine[DecodeRequest]:
        """An engine for this point."""
        return Engine(decoder, slots=point.images, eos_token_ids=[EOS], pad_token_id=PAD, detokenize=str)

    def decode(self, engine: Engine[DecodeRequest], point: Point, new_tokens: int) -> list[list[int]]:
        """Token ids of ours."""
        options = GenerationOptions(num_beams=point.beams, min_new_tokens=new_tokens, max_new_tokens=new_tokens)
        requests = {f"{i}": DecodeRequest(one, (IMAGE,), options) for i, one in enumerate(self.embeds(point.images))}
        return [list(found[0].token_ids) for found in engine.decode(requests).values()]

    def step_bytes(self, point: Point, new_tokens: int) -> int:
        """Bytes that a step has to read: weights, and on average the keys and values of half of the text."""
        columns = PREFIX + point.beams * new_tokens // 2
        return self.weight_bytes + point.images * columns * self.plain.new_state(1).cache.column_bytes


class Watched:
    """A decoder whose last step can be done again; what it then writes is there already."""

    def __init__(self, decoder: Decoder[Any]) -> None:
        self._decoder = decoder
        self.again: Callable[[], object] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def step(self, *inputs: Any) -> Tensor:
        """A step of the decoder."""
        self.again = lambda: self._decoder.step(*inputs)
        return self._decoder.step(*inputs)


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """PyTorch's default dtype for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _randomize(network: nn.Module) -> None:
    """Weights with which a text depends on what was read."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            # Embeddings smaller than layers, or a model that ties them to its head repeats the last token forever.
            gain = 1.0 if "position" in name else 0.1 if "embed" in name else 2.0
            nn.init.normal_(parameter, std=gain / parameter.shape[-1] ** 0.5)
