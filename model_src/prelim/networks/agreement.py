"""How many tokens a precision changes: its choices along the texts that fp32 writes, by the same prefill and steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from prelim.archive.model_config import ModelConfig
from prelim.decoders.decoder import Decoder
from prelim.encoding.onnx_session import Array
from prelim.generation.candidates import Candidates
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.hypothesis import Hypothesis
from prelim.generation.options import GenerationOptions
from prelim.generation.selection import NextTokens, TokenSelection
from prelim.images.preprocess import preprocess
from prelim.images.radiograph import read_radiograph
from prelim.networks.model_folder import Model

_ENCODED_TOGETHER = 16

LIMIT = 0.02
"""Share of tokens that a precision may change under greedy decoding and still be a default."""

SLOTS = 8
"""Texts that are decoded together."""


@dataclass(frozen=True)
class Prefix:
    """The input of a decoder before generation.

    image_embeds : Tensor, shape (num_tokens, width)
    prompt_ids   : as in `DecodeRequest`
    """

    image_embeds: Tensor
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True)
class RealModel:
    """A trained decoder and prefixes of the same form as when it is served.

    about      : description of the model and its prefixes, for tables
    decoder    : in float32, as in a model folder
    new_tokens : maximum length of a text, in tokens
    """

    name: str
    about: str
    decoder: nn.Module
    prefixes: Sequence[Prefix]
    eos_token_id: int
    pad_token_id: int
    new_tokens: int


def read_pixels(config: ModelConfig, images: Sequence[bytes]) -> Array:
    """pixel_values of image files, shape (images, channels, size, size).

    Raises InputError for a file that cannot be read.
    """
    return np.stack([preprocess(read_radiograph(file, config.input), config.preprocess) for file in images])


def real_model(model: Model, pixel_values: Array, where: str) -> RealModel:
    """A model with its default prompt and these images.

    pixel_values : see `read_pixels`
    where  : what they are, for tables
    """
    config, network = model.config, model.network
    prefixes: list[Prefix] = []
    with torch.inference_mode():
        for start in range(0, len(pixel_values), _ENCODED_TOGETHER):
            features = network.vision(torch.from_numpy(pixel_values[start : start + _ENCODED_TOGETHER]))
            prefixes += connect(model, features)
    tokens, new_tokens = config.tokenizer, config.generation.max_new_tokens
    about = f"{config.name} {config.version}, {len(prefixes)} images ({where}), up to {new_tokens} tokens each"
    return RealModel(
        config.name, about, network.decoder, prefixes, tokens.eos_token_ids[0], tokens.pad_token_id, new_tokens
    )


def connect(model: Model, image_features: Tensor) -> list[Prefix]:
    """The prefix of each image, with the default prompt.

    image_features : Tensor, shape (images, num_tokens, width) or (images, width)
    """
    return default_prefixes(model, model.network.connector(image_features))


def default_prefixes(model: Model, image_embeds: Tensor) -> list[Prefix]:
    """The prefix of each image, with the default prompt.

    image_embeds : Tensor, shape (images, num_tokens, width)
    """
    prompt = model.config.prompter(model.tokenizer).ids(None, None)
    return [Prefix(embeds, prompt) for embeds in image_embeds]


@dataclass(frozen=True)
class Reading:
    """A decoder's scores of a text, for each token given all tokens before it.

    choices  : Tensor of int64, shape (tokens,), the decoder's own choice
    margins  : Tensor, shape (tokens,), nats by which it prefers its choice to the second-best
    logprobs : Tensor, shape (tokens,), log-probability of the given token, in nats
    """

    choices: Tensor
    margins: Tensor
    logprobs: Tensor


class ForcedTokens:
    """A token selection that takes the tokens of a given text, whatever the decoder prefers, and keeps its scores."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._token_ids = tuple(token_ids)
        self._scores: list[tuple[Tensor, Tensor, Tensor]] = []

    def ask(self) -> None:
        """Nothing: it reads the logits themselves."""

    def advance(self, found: Candidates | Tensor) -> NextTokens | None:
        """Take the next token of the text; see `TokenSelection.advance`."""
        logits = cast("Tensor", found)
        logprobs = logits[0].float().log_softmax(dim=-1)
        best = logprobs.topk(2)
        token = self._token_ids[len(self._scores)]
        self._scores.append((best.indices[0], best.values[0] - best.values[1], logprobs[token]))
        return None if len(self._scores) == len(self._token_ids) else NextTokens([token])

    def decided(self) -> list[int]:
        """The tokens so far."""
        return list(self._token_ids[: len(self._scores)])

    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """The text."""
        return (Hypothesis(self._token_ids, tuple(self.reading().logprobs.tolist()), "length"),)

    def reading(self) -> Reading:
        """The scores of the whole text."""
        return Reading(*(torch.stack(column) for column in zip(*self._scores, strict=True)))


@dataclass(eq=False)
class ForcedRequest(DecodeRequest):
    """A request whose tokens are given.

    forced : takes them
    """

    forced: ForcedTokens


class ForcingEngine(Engine[DecodeRequest]):
    """The serving engine, for requests of both kinds."""

    def select(self, request: DecodeRequest) -> TokenSelection:
        """What takes the given tokens, or chooses tokens by the options where none are given."""
        return request.forced if isinstance(request, ForcedRequest) else super().select(request)


def open_engine(decoder: Decoder[Any], model: RealModel) -> ForcingEngine:
    """An engine with the model's special tokens."""
    return ForcingEngine(
        decoder, slots=SLOTS, eos_token_ids=[model.eos_token_id], pad_token_id=model.pad_token_id, detokenize=str
    )


def read(
    decoder: Decoder[Any], model: RealModel, prefixes: Sequence[Prefix], texts: Sequence[Sequence[int]]
) -> list[Reading]:
    """Score a text, given by its token ids, after each prefix."""
    requests: dict[str, ForcedRequest] = {
        f"{i}": ForcedRequest(
            prefix.image_embeds,
            prefix.prompt_ids,
            GenerationOptions(max_new_tokens=len(token_ids)),
            ForcedTokens(token_ids),
        )
        for i, (prefix, token_ids) in enumerate(zip(prefixes, texts, strict=True))
    }
    open_engine(decoder, model).decode(requests)
    return [request.forced.reading() for request in requests.values()]


def write(decoder: Decoder[Any], model: RealModel, prefixes: Sequence[Prefix], beams: int) -> list[tuple[int, ...]]:
    """Token ids that a decoder generates after each prefix, end of text included."""
    options = GenerationOptions(num_beams=beams, max_new_tokens=model.new_tokens)
    requests = {
        f"{i}": DecodeRequest(prefix.image_embeds, prefix.prompt_ids, options) for i, prefix in enumerate(prefixes)
    }
    done = open_engine(decoder, model).decode(requests)
    return [done[key][0].token_ids for key in requests]
