"""Dimensions and words of a small system 2."""

from typing import Any

from model_src.architectures import ARCHITECTURES

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
