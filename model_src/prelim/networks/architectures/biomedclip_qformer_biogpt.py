"""System 0: BiomedCLIP, a 6-layer Q-Former with 32 queries, and BioGPT (report_generator).

Published size: 224 px, one image feature of width 512, 32 queries of width 768, BioGPT of 24 layers and width 1024:
626,173,185 parameters. 138,054,657 of them only process text in BiomedCLIP or the Q-Former, and are omitted here.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from prelim.networks.architectures.architecture import Architecture, Published, Section, Shapes
from prelim.networks.architectures.facts import Facts, numbered

HEAD_WIDTH = 64
"""Of all three transformers; cannot be inferred from the shapes of a checkpoint."""

BIOGPT = {"hidden_act": "gelu", "scale_embedding": True}
"""Values of BioGPT's config.json that cannot be inferred from the shapes either."""

OFFSET = 2
"""Number of unused rows at the start of BioGPT's position table."""


def _vision(**dimensions: Any) -> nn.Module:
    # Imported here because `timm` and, below, `transformers` take seconds to import.
    from prelim.networks.vision.biomedclip import BiomedCLIP

    return BiomedCLIP(**dimensions)


def _connector(**dimensions: Any) -> nn.Module:
    from prelim.networks.connectors.bare_qformer import BareQFormer

    return BareQFormer(**dimensions)


def _dimensions(shapes: Shapes, facts: Facts) -> Mapping[str, Section]:
    width, _, patch, _ = shapes["vision.trunk.patch_embed.proj.weight"]
    size = round((shapes["vision.trunk.pos_embed"][1] - 1) ** 0.5) * patch
    queries, query_width = shapes["connector.query_tokens"][-2:]
    vocab_size, hidden_size = shapes["decoder.body.embed_tokens.weight"]
    # Without a projection if the queries have the decoder's width already.
    bare = query_width == hidden_size and "connector.proj.weight" not in shapes
    return {
        "vision": {
            "size": size,
            "patch": patch,
            "width": width,
            "layers": numbered(shapes, ".norm2.weight"),
            "heads": facts.value("vision.heads", width // HEAD_WIDTH),
            "out_width": shapes["vision.proj.weight"][0],
        },
        "connector": {
            "in_width": shapes["connector.encoder.layer.0.crossattention.attention.key.weight"][1],
            "out_width": None if bare else shapes["connector.proj.weight"][0],
            "queries": queries,
            "width": query_width,
            "layers": numbered(shapes, ".output_query.LayerNorm.weight"),
            "heads": facts.value("connector.heads", query_width // HEAD_WIDTH),
            "feedforward": shapes["connector.encoder.layer.0.intermediate_query.dense.weight"][0],
        },
        "decoder": {
            "kind": "transformers",
            "model_type": "biogpt",
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "num_hidden_layers": numbered(shapes, ".self_attn_layer_norm.weight"),
            "intermediate_size": shapes["decoder.body.layers.0.fc1.weight"][0],
            "max_position_embeddings": shapes["decoder.body.embed_positions.weight"][0] - OFFSET,
            **{
                name: facts.value(f"decoder.{name}", value, stored=facts.config.get(name))
                for name, value in {"num_attention_heads": hidden_size // HEAD_WIDTH, **BIOGPT}.items()
            },
        },
        "preprocess": {**PREPROCESS, "size": size},
    }


PREPROCESS = {
    "size": 224,
    "resize": "shortest_edge",
    "interpolation": "bicubic",
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
}

ARCHITECTURE = Architecture(
    vision=_vision,
    connector=_connector,
    published=Published(
        # The optional prefixes are absent in files with only BiomedCLIP or BioGPT.
        keys=(
            (r"^(biomedclip_encoder\.model\.)?visual\.trunk\.", "vision.trunk."),
            (r"^(biomedclip_encoder\.model\.)?visual\.head\.proj\.", "vision.proj."),
            (r"^qformer\.query_tokens$", "connector.query_tokens"),
            (r"^qformer\.bert_encoder\.layer\.", "connector.encoder.layer."),
            (r"^(connector\.encoder\..*attention)\.self\.", r"\1.attention."),
            (r"^qformer_output_to_biogpt_input_projection\.", "connector.proj."),
            (r"^(biogpt_decoder\.)?biogpt\.", "decoder.body."),
        ),
        ignored={
            r"^(biomedclip_encoder\.model\.)?text\.": "BiomedCLIP's text tower, which the system does not use",
            r"^(biomedclip_encoder\.model\.)?logit_scale$": "temperature of BiomedCLIP's contrastive training",
            r"^qformer\.bert_encoder\.layer\.\d+\.(intermediate|output)\.": "feed-forward layer of the "
            "Q-Former's text branch, which the system does not use",
            r"^(biogpt_decoder\.)?output_projection\.weight$": "a copy of the token embeddings",
        },
        tied={r"(^|\.)output_projection\.weight$": "decoder.body.embed_tokens.weight"},
        theirs=(
            (r"^vision\.trunk\.", "biomedclip_encoder.model.visual.trunk."),
            (r"^vision\.proj\.", "biomedclip_encoder.model.visual.head.proj."),
            (r"^connector\.query_tokens$", "qformer.query_tokens"),
            (r"^(connector\.encoder\..*attention)\.attention\.", r"\1.self."),
            (r"^connector\.encoder\.layer\.", "qformer.bert_encoder.layer."),
            (r"^connector\.proj\.", "qformer_output_to_biogpt_input_projection."),
            (r"^decoder\.body\.", "biogpt_decoder.biogpt."),
        ),
        size={
            "vision": {},
            "connector": {},
            "decoder": {
                "kind": "transformers",
                "model_type": "biogpt",
                "vocab_size": 42384,
                "hidden_size": 1024,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "intermediate_size": 4096,
                "max_position_embeddings": 1024,
            },
        },
        model_types=("biogpt",),
        structure=(
            "the class token, projected and of length 1, is the image feature",
            "the Q-Former's layers are post-norm with GELU, and its queries are not normalized",
        ),
        defaults={
            "licence": "none stated by its authors",
            "tokenizer": {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1},
            "input": {"modalities": ["CT", "MR", "CR", "DX", "RG", "US"]},
            "preprocess": PREPROCESS,
            "generation": {
                "num_beams": 5,
                "repetition_penalty": 1.5,
                "length_penalty": 2.0,
                "no_repeat_ngram_size": 3,
                "max_new_tokens": 200,
            },
            # The original truncates prompts to 32 tokens, including the start token.
            "prompt": {"start_ids": [2], "max_tokens": 31},
        },
        dimensions=_dimensions,
        tokenizer="biogpt",
        origin="the report generator of GitHub's HajarHAMDOUCH01/report_generator (commit 40c3cb6)",
        fixed=(
            "Generation options of a request are used; the original always decoded with fixed options.",
            "A prompt of more than 32 tokens is rejected; the original silently truncated it.",
            "Special tokens in a prompt are encoded as plain text; the original parsed them.",
            "Padding is excluded from the training loss; the original included it.",
            "min_length of 20 had no effect in the original, because it counted the 32 image tokens: min_new_tokens is "
            "0 by default, which gives the original's reports. Set it to 20 for the intended effect.",
        ),
    ),
)
