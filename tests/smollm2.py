"""A model of system 2's shape whose decoder really speaks: SmolLM2-135M-Instruct behind a random encoder."""

import dataclasses
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import LlamaForCausalLM

from benchmarks.models.smollm2 import GGUF
from export.import_checkpoint import import_checkpoint
from prelim.archive.archive import CONFIG
from prelim.archive.model_config import ModelConfig
from prelim.generation.options import GenerationOptions
from prelim.generation.prompt_config import PromptConfig
from prelim.networks.architectures import ARCHITECTURES

SYSTEM = "densenet_disease_llama"
WIDTH, WORD_SCALE = 576, 0.136
"""Of its word embeddings: how long they are, and the standard deviation of their values."""

CHAT = PromptConfig(
    before="<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\n",
    after="{prompt}<|im_end|>\n<|im_start|>assistant\n",
)
"""The chat template of the GGUF file, the image where the user speaks."""

QUESTION = "What is a chest X-ray?"


def write_smollm2(folder: Path) -> Path:
    """The model folder: an import, and its template in model.yaml."""
    with TemporaryDirectory() as temporary:
        rest = Path(temporary, "rest.pth")
        torch.save(_rest(), rest)
        import_checkpoint(SYSTEM, [rest, GGUF], GGUF, folder, "smollm2")
    config = ModelConfig.read(folder / CONFIG)
    options = GenerationOptions(max_new_tokens=48)
    dataclasses.replace(config, prompt=CHAT, generation=options).write(folder / CONFIG)
    return folder


def _rest() -> dict[str, torch.Tensor]:
    """Random encoder and connector under the published keys; the image's tokens are about as large as words."""
    torch.manual_seed(0)
    architecture = ARCHITECTURES[SYSTEM]
    vision = architecture.vision().eval()
    connector = architecture.connector(width=WIDTH)
    with torch.no_grad():
        connector.attention_weights.normal_(std=3)
        embeds = connector(vision(torch.randn(1, 3, 224, 224)))
        connector.proj.weight *= WORD_SCALE / embeds.std()
        connector.proj.bias.zero_()
    published = {
        "attention_module.attention_weights": connector.attention_weights.detach()[..., None],
        "classifier.1.weight": connector.classifier.weight.detach(),
        "classifier.1.bias": connector.classifier.bias.detach(),
        "visual_projection.weight": connector.proj.weight.detach(),
        "visual_projection.bias": connector.proj.bias.detach(),
    }
    return {**published, **{f"densenet121.{key}": value for key, value in vision.state_dict().items()}}


def perplexity(model: LlamaForCausalLM, before: list[int], text: list[int]) -> float:
    """How many words, evenly likely, the model hesitates between at each token of a text."""
    ids = torch.tensor([[*before, *text]])
    labels = torch.tensor([[*[-100] * len(before), *text]])
    with torch.inference_mode():
        return float(model(input_ids=ids, labels=labels).loss.exp())


def shuffled(text: str) -> str:
    """The same words in another order."""
    words = text.split()
    random.Random(0).shuffle(words)
    return " ".join(words)
