"""System 2: DenseNet-121, attention for 14 diseases, a linear layer and Llama-2-7B with LoRA (MedGen_AI, PreCarDiv).

Published size: 224 px, 49 image tokens of width 1024, 14 diseases, decoder width 4096. The encoder's weights
are published; the rest is either one state_dict, including adapters, or the projection, Llama's folder and the
adapter's folder.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from prelim.errors import ArchiveError
from prelim.networks.architectures import llama
from prelim.networks.architectures.architecture import CHEST_RADIOGRAPHS, Architecture, Published, Section, Shapes
from prelim.networks.architectures.facts import Facts
from prelim.networks.connectors.disease_attention import DiseaseAttention
from prelim.networks.vision.densenet import BLOCKS, WIDTH, DenseNet121

LLAMA_POSITIONS = 4096
LLAMA_VOCABULARY = 32000
PAD = "<PAD>"
"""Added to Llama's vocabulary with id 32000."""


def _connector(width: int, num_tokens: int = 49, diseases: int = 14, in_width: int = WIDTH) -> DiseaseAttention:
    return DiseaseAttention(in_width, width, num_tokens, diseases)


def _encoder(shapes: Shapes) -> tuple[Section, Section]:
    """Sections vision and connector of an encoder with these shapes; both are empty for DenseNet-121."""
    layers = [re.match(r"vision\.features\.denseblock(\d+)\.denselayer(\d+)\.conv1\.weight$", key) for key in shapes]
    counts = Counter(int(layer[1]) for layer in layers if layer)
    blocks = tuple(counts[number] for number in sorted(counts))
    if blocks == BLOCKS:
        return {}, {}
    return {"blocks": list(blocks)}, {"in_width": shapes["connector.proj.weight"][1]}


def _dimensions(shapes: Shapes, facts: Facts) -> Mapping[str, Section]:
    diseases, num_tokens = shapes["connector.attention_weights"][:2]
    side = math.isqrt(num_tokens)
    if side**2 != num_tokens:
        raise ArchiveError(f"attention_module.attention_weights has {num_tokens} image tokens; expected a square grid")
    published = {**llama.PUBLISHED, "max_position_embeddings": LLAMA_POSITIONS}
    decoder = llama.decoder_section(shapes, facts, published)
    if decoder["vocab_size"] == LLAMA_VOCABULARY:
        decoder = {**decoder, "vocab_size": LLAMA_VOCABULARY + 1}
    vision, connector = _encoder(shapes)
    width = shapes["connector.proj.weight"][0]
    return {
        "vision": vision,
        "connector": {"width": width, "num_tokens": num_tokens, "diseases": diseases, **connector},
        "decoder": decoder,
        "preprocess": {**PREPROCESS, "size": side * CELL},
    }


CELL = 32
"""Pixels that a cell of DenseNet's last feature map covers, in each direction."""

PREPROCESS = {"size": 224, "resize": "stretch", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def _with_pad(table: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Llama's token table with a row for PAD: the mean of all rows, which never has the best score."""
    row = table.float().mean(dim=0, keepdim=True).to(table.dtype)
    return torch.cat([table, row.expand(shape[0] - table.shape[0], -1)])


ARCHITECTURE = Architecture(
    vision=DenseNet121,
    connector=_connector,
    insights=("attention", "disease_logits"),
    published=Published(
        keys=(
            (r"^densenet121\.", "vision."),
            (r"^attention_module\.attention_weights$", "connector.attention_weights"),
            (r"^classifier\.1\.", "connector.classifier."),
            (r"^visual_projection\.", "connector.proj."),
            (r"^llm_model\.", ""),
            *llama.KEYS,
        ),
        theirs=(
            (r"^vision\.", "densenet121."),
            (r"^connector\.attention_weights$", "attention_module.attention_weights"),
            (r"^connector\.classifier\.", "classifier.1."),
            (r"^connector\.proj\.", "visual_projection."),
            *llama.THEIRS,
        ),
        size={
            "vision": {},
            "connector": {"width": 4096},
            "decoder": {**llama.SEVEN_BILLION, "vocab_size": LLAMA_VOCABULARY + 1},
        },
        model_types=llama.MODEL_TYPES,
        structure=("the disease attention reads DenseNet's last feature map without a ReLU",),
        ignored=llama.IGNORED,
        resized={r"^decoder\.(body\.embed_tokens|lm_head)\.weight$": _with_pad},
        lora_alpha=8.0,
        defaults={
            "licence": "MIT (MedGen_AI, as its README says); Llama 2 Community License (Llama-2-7b)",
            "tokenizer": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": LLAMA_VOCABULARY},
            "input": {"accepts": CHEST_RADIOGRAPHS},
            "preprocess": PREPROCESS,
            # The original's max_length is 512, including image, start token and prompt: 28 by default.
            "generation": {
                "num_beams": 5,
                "early_stopping": True,
                "no_repeat_ngram_size": 2,
                "max_new_tokens": 484,
            },
            "prompt": {
                "start_ids": [1],
                "default": "Describe the findings in this chest X-ray.",
                "max_tokens": 512,
            },
        },
        dimensions=_dimensions,
        tokenizer="llama2",
        origin="the notebook of GitHub's charangajjala/MedGen_AI (commit c528566)",
        vocabulary=LLAMA_VOCABULARY + 1,
        added_tokens=(PAD,),
        fixed=(
            "The decoder input is only the prompt; the original's evaluation included the reference report.",
            "Images are resized to 224 x 224; the original accepted only images of that size.",
        ),
    ),
)
