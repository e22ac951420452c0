"""`transformers` `generate` over our decoder, without any cache: what the engine is compared with."""

import dataclasses
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from transformers import (
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import CausalLMOutput

from prelim.decoders.cross_attention import CrossAttentionConfig, CrossAttentionDecoder
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from tests.forcing import logits_after_each

VOCAB_SIZE = 40
BOS, EOS, PAD = 2, 3, 0


def tiny_decoder(seed: int = 0, vocab_size: int = VOCAB_SIZE, eos: int = EOS) -> CrossAttentionDecoder:
    """A random decoder whose choices depend on image and history, and which ends now and then."""
    torch.manual_seed(seed)
    config = CrossAttentionConfig(
        vocab_size=vocab_size, width=32, layers=2, heads=4, feedforward=64, max_positions=64, dropout=0.1
    )
    decoder = CrossAttentionDecoder(config)
    for name, parameter in decoder.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5 if "embedding" in name else 2.0 / parameter.shape[-1] ** 0.5)
    with torch.no_grad():
        decoder.lm_head.bias[eos] += 3.0
        decoder.lm_head.bias[PAD] = -1e4
    return decoder.eval()


def tiny_image(seed: int) -> Tensor:
    """Random image_embeds, shape (6, 32)."""
    return torch.randn(6, 32, generator=torch.Generator().manual_seed(seed))


def letters(token_ids: Any) -> str:
    """A detokenizer for stop texts: one letter a token."""
    return "".join(chr(ord("A") + token) for token in token_ids if token > EOS)


def engine(decoder: CrossAttentionDecoder, slots: int = 8, threads: int | None = None) -> Engine:
    """An engine over the tiny decoder."""
    return Engine(decoder, slots=slots, eos_token_ids=[EOS], pad_token_id=PAD, detokenize=letters, threads=threads)


def request(image: Tensor, options: GenerationOptions) -> DecodeRequest:
    """A request that starts as the cross-attention decoders do."""
    return DecodeRequest(image, (BOS,), options)


def run(engine: Engine, requests: dict[str, DecodeRequest]) -> dict[str, list[list[int]]]:
    """Token ids of every returned sequence, by request."""
    return {key: [list(h.token_ids) for h in found] for key, found in engine.decode(requests).items()}


class Reference(PreTrainedModel, GenerationMixin):
    """Our decoder's teacher forcing under `generate`."""

    config_class = PreTrainedConfig

    def __init__(self, decoder: CrossAttentionDecoder, image: Tensor) -> None:
        super().__init__(PreTrainedConfig(vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=2))
        self.decoder = decoder
        self.image = image
        self.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)

    def forward(self, input_ids: Tensor, **_: Any) -> CausalLMOutput:
        """Logits of all positions."""
        return CausalLMOutput(
            logits=logits_after_each(self.decoder, self.image.expand(len(input_ids), -1, -1), input_ids)
        )


def generate_arguments(options: GenerationOptions) -> dict[str, Any]:
    """The same options as keyword arguments of `generate`, which warns of sampling options it does not use."""
    arguments = dataclasses.asdict(options)
    if not options.do_sample:
        for name in ("temperature", "top_k", "top_p"):
            del arguments[name]
    del arguments["seed"], arguments["stop"], arguments["banned_phrases"], arguments["grammar"]
    return arguments


def generate(decoder: CrossAttentionDecoder, image: Tensor, options: GenerationOptions) -> list[list[int]]:
    """Token ids that `generate` gives, without the start token and without padding."""
    if options.seed is not None:
        torch.manual_seed(options.seed)
    tokens = Reference(decoder, image).generate(
        torch.tensor([[BOS]]),
        attention_mask=torch.ones(1, 1, dtype=torch.int64),
        use_cache=False,
        **({"stop_strings": list(options.stop), "tokenizer": _letters_tokenizer()} if options.stop else {}),
        **generate_arguments(options),
    )
    return [without_filling(row) for row in tokens[:, 1:].tolist()]


def without_filling(row: list[int], eos: int | list[int] = EOS, pad: int = PAD) -> list[int]:
    """A row up to its end of text; `generate` fills with `pad`, or with `eos` where that is 0 and beams are used."""
    ends = [place for place, token in enumerate(row) if token in (eos if isinstance(eos, list) else [eos])]
    if ends:
        return row[: ends[0] + 1]
    return row[: len(row) - next((i for i, token in enumerate(reversed(row)) if token != pad), len(row))]


def _letters_tokenizer() -> PreTrainedTokenizerFast:
    """`letters` as a tokenizer, for `StopStringCriteria`."""
    vocabulary = {letters([token]) or f"<{token}>": token for token in range(VOCAB_SIZE)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
