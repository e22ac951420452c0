"""A small system 0 with random weights, and a reference implementation of the original's generation."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import BioGptConfig, BioGptForCausalLM

from prelim.archive.model_config import ModelConfig
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.architectures.architecture import Network
from prelim.networks.model_folder import Model

SYSTEM = "biomedclip_qformer_biogpt"
PUBLISHED = ARCHITECTURES[SYSTEM].published
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
LETTERS = "abcdefghijklmnopqrstuvwxyz ."
DECODER: dict[str, Any] = {
    "vocab_size": len(SPECIAL) + len(LETTERS),
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 96,
    "max_position_embeddings": 120,
    "hidden_act": "gelu",
    "scale_embedding": True,
}
PARTS: dict[str, Any] = {
    "vision": {"size": 32, "patch": 16, "width": 64, "layers": 2, "heads": 1, "out_width": 24},
    "connector": {
        "in_width": 24,
        "out_width": 64,
        "queries": 32,
        "width": 128,
        "layers": 2,
        "heads": 2,
        "feedforward": 96,
    },
    "decoder": {"kind": "transformers", "model_type": "biogpt", **DECODER},
}


def small_network() -> Network:
    """A random network whose reports depend on the image, sometimes end early, and do not repeat a single token."""
    torch.manual_seed(0)
    network = ARCHITECTURES[SYSTEM].build(PARTS)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=(0.05 if "embed_tokens" in name else 2.0) / parameter.shape[-1] ** 0.5)
        # Reduced, so the queries do not dominate the image; trained networks have learned this.
        network.connector.query_tokens *= 0.1
        network.decoder.body.embed_tokens.weight *= 12
    return network.eval().requires_grad_(False)


def small_model() -> Model:
    """The network with a tokenizer of single letters."""
    defaults = PUBLISHED.defaults
    config = ModelConfig.from_mapping(
        {
            **defaults,
            **PARTS,
            "name": "small",
            "version": "1.0",
            "architecture": SYSTEM,
            "preprocess": {**defaults["preprocess"], "size": 32},
        },
        "test",
    )
    vocabulary = {piece: i for i, piece in enumerate([*SPECIAL, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    return Model(config, small_network(), tokenizer)


def published_rule(model: Model, features: Tensor, prompt: str, max_new_tokens: int, **changed: Any) -> list[int]:
    """The original's token ids: the arguments of its `generate`, the prompt after the queries.

    features : of one image, see tests.tiny_model.seen
    changed  : arguments of `generate` that override the published ones
    """
    network = model.network
    language_model = BioGptForCausalLM(BioGptConfig(**DECODER)).eval()
    language_model.biogpt.load_state_dict(network.decoder.body.state_dict())
    ids = [2, *(len(SPECIAL) + LETTERS.index(letter) for letter in prompt)] if prompt else []
    with torch.inference_mode():
        embeds = network.connector(features)
        if ids:
            embeds = torch.cat([embeds, language_model.get_input_embeddings()(torch.tensor([ids]))], dim=1)
    published = {
        "min_length": 20,
        "num_beams": 5,
        "do_sample": False,
        "repetition_penalty": 1.5,
        "length_penalty": 2.0,
        "no_repeat_ngram_size": 3,
    }
    tokens = language_model.generate(
        inputs_embeds=embeds.clone(),
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.int64),
        max_new_tokens=max_new_tokens,
        eos_token_id=2,
        pad_token_id=1,
        **{**published, **changed},
    )
    row: list[int] = tokens[0].tolist()
    return row[: row.index(2) + 1] if 2 in row else row
