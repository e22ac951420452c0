"""A small system 2 with random weights, and a reference implementation of the original's generation."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from prelim.archive.model_config import ModelConfig
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.model_folder import Model, build_network

PUBLISHED = ARCHITECTURES["densenet_disease_llama"].published
DISEASES = 14
PROMPT = "describe the findings"
_TEXT = (
    "<unk> <s> </s> describe the findings in this chest heart lungs are is clear normal large small no effusion right"
)
WORDS = _TEXT.split()
DIMENSIONS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 96,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}

BLOCKS, FEATURES = [1, 1, 1, 1], 68
"""Of the smallest DenseNet: layers of its blocks, and the width of its last feature map."""

LENGTH = 48
"""The original's max_length, including image, start token and prompt."""


def small_model(image_size: int = 64) -> Model:
    """A random model whose reports depend on the image; an image token covers 32 x 32 pixels."""
    prefix = DISEASES + 1 + len(PROMPT.split())
    defaults = PUBLISHED.defaults
    config = ModelConfig.from_mapping(
        {
            **defaults,
            "name": "small",
            "version": "1.0",
            "architecture": "densenet_disease_llama",
            "vision": {"blocks": BLOCKS},
            "connector": {
                "in_width": FEATURES,
                "width": DIMENSIONS["hidden_size"],
                "num_tokens": (image_size // 32) ** 2,
                "diseases": DISEASES,
            },
            "decoder": {"kind": "transformers", "model_type": "llama", "vocab_size": len(WORDS) + 1, **DIMENSIONS},
            "tokenizer": {**defaults["tokenizer"], "pad_token_id": len(WORDS)},
            "preprocess": {**defaults["preprocess"], "size": image_size},
            "generation": {**defaults["generation"], "max_new_tokens": LENGTH - prefix},
            "prompt": {**defaults["prompt"], "default": PROMPT},
        },
        "test",
    )
    torch.manual_seed(0)
    network = build_network(config)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1 and not name.startswith("vision."):
            torch.nn.init.normal_(parameter, std=2.0 / parameter.shape[-1] ** 0.5)
    # The outputs of an untrained encoder hardly depend on the image until its batch norms have statistics.
    with torch.no_grad():
        for module in network.vision.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        images = torch.randn(16, 1, image_size, image_size).cumsum(2).cumsum(3)
        network.vision.train()
        network.vision((images / images.std()).expand(-1, 3, -1, -1))
    words = {word: i for i, word in enumerate([*WORDS, "<PAD>"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([*WORDS[:3], "<PAD>"])
    tokenizer.decoder = decoders.WordPiece()
    return Model(config, network.eval().requires_grad_(False), tokenizer)


def originals_report(model: Model, features: Tensor, prompt: str = PROMPT, **changed: Any) -> list[int]:
    """The original's token ids: the arguments of its `generate`, including its max_length.

    features : of one image, see tests.tiny_model.seen
    changed  : arguments of `generate` that override the published ones
    """
    words = model.tokenizer.encode(prompt, add_special_tokens=False).ids
    decoder = model.network.decoder
    language_model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS) + 1, **DIMENSIONS)).eval()
    language_model.model.load_state_dict(decoder.body.state_dict())
    language_model.lm_head.load_state_dict(decoder.lm_head.state_dict())
    with torch.inference_mode():
        visual = model.network.connector(features)
        embeds = torch.cat([visual, language_model.model.embed_tokens(torch.tensor([[1, *words]]))], dim=1)
    published = {"max_length": LENGTH, "num_beams": 5, "early_stopping": True, "no_repeat_ngram_size": 2}
    tokens = language_model.generate(
        inputs_embeds=embeds.clone(),
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.int64),
        eos_token_id=2,
        pad_token_id=len(WORDS),
        **{**published, **changed},
    )
    return tokens[0].tolist()
