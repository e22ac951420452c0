"""A small system 3 with random weights, and a reference implementation of the original's generation."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, StoppingCriteria, StoppingCriteriaList

from prelim.archive.model_config import ModelConfig
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.model_folder import Model, build_network

PUBLISHED = ARCHITECTURES["xraygpt"].published
LETTERS = [chr(code) for code in range(32, 127)]
SPECIAL = ("<unk>", "<s>", "</s>")
DECODER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 640,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
PARTS: dict[str, Any] = {
    "vision": {"image_size": 56, "width": 32, "layers": 2, "heads": 4, "feedforward": 48},
    "connector": {
        "in_width": 32,
        "out_width": 32,
        "queries": 4,
        "width": 24,
        "layers": 3,
        "heads": 4,
        "feedforward": 40,
    },
    "decoder": {"kind": "transformers", "model_type": "llama", "vocab_size": len(SPECIAL) + len(LETTERS), **DECODER},
}


def letters_tokenizer() -> Tokenizer:
    """A tokenizer with Llama's special tokens followed by one token for each ASCII character."""
    vocabulary = {piece: i for i, piece in enumerate([*SPECIAL, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def small_model() -> Model:
    """A random model whose reports depend on the image and sometimes contain the stop text."""
    defaults = PUBLISHED.defaults
    config = ModelConfig.from_mapping(
        {
            **defaults,
            **PARTS,
            "name": "small",
            "version": "1.0",
            "architecture": "xraygpt",
            "preprocess": {**defaults["preprocess"], "size": 56},
        },
        "test",
    )
    torch.manual_seed(0)
    network = build_network(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                gain = 3.0 if name.startswith("decoder.") else 1.5
                parameter.normal_(std=gain / parameter.shape[-1] ** 0.5)
        network.decoder.lm_head.weight[len(SPECIAL) + LETTERS.index("#")] *= 4
    return Model(config, network.eval().requires_grad_(False), letters_tokenizer())


class StopAtHashes(StoppingCriteria):
    """The original's rule: stop if the last tokens are the stop text."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> bool:
        """Whether to stop."""
        return input_ids[0, -3:].tolist() == encode("###")


def encode(text: str) -> list[int]:
    """Encode a text as one token per character."""
    return [len(SPECIAL) + LETTERS.index(letter) for letter in text]


def published_rule(
    model: Model, features: Tensor, question: str, seed: int, max_new_tokens: int, **changed: Any
) -> list[int]:
    """The original's token ids: its chat template split at the image, `generate` on embeddings, its stop rule.

    features : of one image, see tests.tiny_model.seen
    question : or all turns of a conversation, with their separators and role names
    changed  : arguments of `generate` that override the published ones
    """
    system = model.config.prompt.system  # type: ignore[union-attr]
    text = f"{system}###Patient: <Img><ImageHere></Img> {question}###Doctor:"
    before, after = ([*ids] for ids in map(encode, text.split("<ImageHere>")))
    network = model.network
    language_model = LlamaForCausalLM(LlamaConfig(vocab_size=PARTS["decoder"]["vocab_size"], **DECODER)).eval()
    language_model.model.load_state_dict(network.decoder.body.state_dict())
    language_model.lm_head.load_state_dict(network.decoder.lm_head.state_dict())
    words = language_model.get_input_embeddings()
    with torch.inference_mode():
        image_embeds = network.connector(features)
        embeds = torch.cat([words(torch.tensor([[1, *before]])), image_embeds, words(torch.tensor([after]))], dim=1)
    published: dict[str, Any] = {"num_beams": 1, "do_sample": True, "min_length": 1, "top_p": 0.9, "temperature": 1.0}
    published |= {"repetition_penalty": 1.0, "length_penalty": 1}
    published |= {"stopping_criteria": StoppingCriteriaList([StopAtHashes()])}
    torch.manual_seed(seed)
    tokens = language_model.generate(
        inputs_embeds=embeds.clone(),
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.int64),
        max_new_tokens=max_new_tokens,
        eos_token_id=2,
        pad_token_id=2,
        **{**published, **changed},
    )
    return tokens[0].tolist()
