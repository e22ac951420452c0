"""System 3: EVA-CLIP ViT-g/14, BLIP-2's Q-Former, a linear layer and Vicuna-7B (XrayGPT, MedicalGPT).

Published size: 224 px, 257 image tokens of width 1408, 32 queries, decoder width 4096. The weights are in
four places: XrayGPT's checkpoint (the linear layer), Vicuna's folder, BLIP-2's Q-Former and EVA-CLIP's ViT-g.

Source: Thawkar et al., "XrayGPT: Chest Radiographs Summarization using Medical Vision-Language Models", 2023.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from prelim.errors import ArchiveError
from prelim.networks.architectures import llama
from prelim.networks.architectures.architecture import CHEST_RADIOGRAPHS, Architecture, Published, Section, Shapes
from prelim.networks.architectures.facts import Facts

EVA_CLIP, MEDCLIP_SWIN, MEDCLIP_RESNET = "eva_clip", "medclip_swin", "medclip_resnet"
TOWERS = (EVA_CLIP, MEDCLIP_SWIN, MEDCLIP_RESNET)
"""Allowed values of `vision.tower`. No public checkpoint connects a MedCLIP tower to the Q-Former."""

IMAGE_SIZE = 224
VICUNA_VOCABULARY = 32000
VICUNA = {**llama.PUBLISHED, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
EVA_HEADS, QFORMER_HEADS = 16, 12

TEXT_BRANCH = "BLIP-2's text branch, which XrayGPT does not use"
OTHER_LLM = "belongs to BLIP-2's language model, which Vicuna replaces"
LAST_BLOCK = "XrayGPT does not use the last block of EVA-CLIP"
MEDCLIP_TEXT = "MedCLIP's text encoder and training temperature, which are not used"


def _vision(tower: str = EVA_CLIP, **dimensions: Any) -> nn.Module:
    # Imported here because the towers' libraries take seconds to import.
    from prelim.networks.vision.eva_clip import EvaClip
    from prelim.networks.vision.medclip import MedClipResNet, MedClipSwin

    towers: dict[str, Any] = {EVA_CLIP: EvaClip, MEDCLIP_SWIN: MedClipSwin, MEDCLIP_RESNET: MedClipResNet}
    if tower not in towers:
        raise ValueError(f"vision.tower is {tower!r}; known: {', '.join(TOWERS)}")
    return towers[tower](**dimensions)


def _connector(**dimensions: Any) -> nn.Module:
    from prelim.networks.connectors.blip2_qformer import Blip2QFormer

    return Blip2QFormer(**dimensions)


def _resize_positions(table: Any, shape: tuple[int, ...]) -> Any:
    from prelim.networks.vision.eva_clip import resize_positions

    return resize_positions(table, shape)


def _dimensions(shapes: Shapes, facts: Facts) -> Mapping[str, Section]:
    sections = {
        **_vision_sections(shapes, facts),
        "connector": _connector_section(shapes, facts),
        "decoder": llama.decoder_section(shapes, facts, VICUNA),
    }
    tower = sections["vision"]["tower"]
    given = {MEDCLIP_SWIN: 768, MEDCLIP_RESNET: 2048}.get(tower) or sections["vision"]["width"]
    taken = sections["connector"]["in_width"]
    if given != taken:
        raise ArchiveError(
            f"{tower} returns image features of width {given}, this Q-Former expects {taken}; the published "
            "Q-Former was trained with EVA-CLIP, and no public checkpoint has one for MedCLIP"
        )
    given, taken = sections["connector"]["out_width"], sections["decoder"]["hidden_size"]
    if given != taken:
        raise ArchiveError(
            f"llama_proj returns width {given}, this language model expects {taken}; they are from different models"
        )
    return sections


def _vision_sections(shapes: Shapes, facts: Facts) -> dict[str, Section]:
    """Section `vision`, and `preprocess` if it differs from EVA-CLIP's."""
    if "vision.model.conv1.weight" in shapes:
        return {"vision": {"tower": MEDCLIP_RESNET}, "preprocess": MEDCLIP_PREPROCESS}
    if "vision.projection_head.weight" in shapes:
        return {"vision": {"tower": MEDCLIP_SWIN}, "preprocess": MEDCLIP_PREPROCESS}
    width, _, patch_size, _ = shapes["vision.vit.patch_embed.proj.weight"]
    return {
        "vision": {
            "tower": EVA_CLIP,
            "image_size": IMAGE_SIZE,
            "patch_size": patch_size,
            "width": width,
            "layers": sum(name.endswith(".attn.qkv.weight") for name in shapes),
            "heads": facts.value("vision.heads", EVA_HEADS),
            "feedforward": shapes["vision.vit.blocks.0.mlp.fc1.weight"][0],
        }
    }


def _connector_section(shapes: Shapes, facts: Facts) -> Section:
    _, queries, width = shapes["connector.query_tokens"]
    layer = "connector.qformer.encoder.layer."
    looking = sum(name.startswith(layer) and name.endswith(".crossattention.attention.key.weight") for name in shapes)
    layers = sum(name.startswith(layer) and name.endswith(".intermediate_query.dense.weight") for name in shapes)
    return {
        "in_width": shapes[f"{layer}0.crossattention.attention.key.weight"][1],
        "out_width": shapes["connector.proj.weight"][0],
        "queries": queries,
        "width": width,
        "layers": layers,
        "heads": facts.value("connector.heads", QFORMER_HEADS),
        "feedforward": shapes[f"{layer}0.intermediate_query.dense.weight"][0],
        "cross_attention_every": -(-layers // looking),
    }


MEDCLIP_PREPROCESS = {
    "size": IMAGE_SIZE,
    "resize": "pad",
    "interpolation": "bicubic",
    "mean": [0.5862785803043838] * 3,
    "std": [0.27950088968644304] * 3,
}

PROMPT = {
    "bos_token_id": 1,
    "before": "###Patient: <Img>",
    "after": "</Img> {prompt} ###Doctor: ",
    "default": "Describe the findings and the impression of this chest x-ray.",
    "accepts": {"indication": " Indication: {indication}."},
    "max_tokens": 1600,
    "system": (
        "You are an experienced Doctor, give the following medical scan: <Img>ImageContent</Img>. You will be able to "
        "see the medical scan once I provide it to you. Please answer my questions."
    ),
    "user": "Patient",
    "assistant": "Doctor",
    "separator": "###",
    "before_image": "<Img>",
    "after_image": "</Img> ",
}
"""A single prompt uses the training template, a conversation the demo's; their spaces differ."""

ARCHITECTURE = Architecture(
    vision=_vision,
    connector=_connector,
    published=Published(
        keys=(
            (r"^visual_encoder\.", "vision.vit."),
            (r"^(cls_token|pos_embed|patch_embed\.|blocks\.)", r"vision.vit.\1"),
            (r"^ln_vision\.", "vision.ln_vision."),
            (r"^query_tokens$", "connector.query_tokens"),
            (r"^Qformer\.bert\.embeddings\.LayerNorm\.", "connector.qformer.layernorm."),
            (r"^Qformer\.bert\.encoder\.", "connector.qformer.encoder."),
            (r"^(connector\..*attention)\.self\.", r"\1.attention."),
            (r"^llama_proj\.", "connector.proj."),
            (r"^llama_model\.", ""),
            *llama.KEYS,
            (r"^vision_model\.", "vision."),
            # transformers renamed Swin's layers after MedCLIP was published.
            (r"^(vision\.model\..*)\.attention\.self\.(query|key|value)\.", r"\1.attention.\2_proj."),
            (r"^(vision\.model\..*)\.(q|k|v)(uery|ey|alue)_proj\.", r"\1.\2_proj."),
            (r"^(vision\.model\..*)\.self\.(relative_position_bias)_table$", r"\1.\2.\2_table"),
            (r"^(vision\.model\..*)\.attention\.output\.dense\.", r"\1.attention.o_proj."),
            (r"^(vision\.model\..*)\.intermediate\.dense\.", r"\1.mlp.fc1."),
            (r"^(vision\.model\..*)\.output\.dense\.", r"\1.mlp.fc2."),
        ),
        ignored={
            **llama.IGNORED,
            r"^Qformer\.bert\.embeddings\.position_ids$": "position indices; queries have no positions",
            r"^Qformer\.cls\.": TEXT_BRANCH,
            r"^Qformer\.bert\.(embeddings\.(word|position)_embeddings|pooler)\.": TEXT_BRANCH,
            r"^Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\.": TEXT_BRANCH,
            r"^(t5|opt)_(proj|model)\.": OTHER_LLM,
            r"^(visual_encoder\.)?blocks\.39\.": LAST_BLOCK,
            r"^(visual_encoder\.)?(norm|fc_norm|head)\.": LAST_BLOCK,
            r"^(text_model\.|logit_scale$)": MEDCLIP_TEXT,
            r"\.relative_position_index$": "computed from the size of Swin's windows",
        },
        resized={r"^vision\.vit\.pos_embed$": _resize_positions},
        defaults={
            "licence": "CC BY-NC-SA 4.0 (XrayGPT); Vicuna, BLIP-2 and EVA-CLIP have their own",
            "tokenizer": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
            "input": {"render": "minmax_equalize", "accepts": CHEST_RADIOGRAPHS},
            "preprocess": {
                "size": IMAGE_SIZE,
                "resize": "stretch",
                "interpolation": "bicubic",
                "mean": [0.48145466, 0.4578275, 0.40821073],
                "std": [0.26862954, 0.26130258, 0.27577711],
            },
            "generation": {"do_sample": True, "top_p": 0.9, "temperature": 1.0, "max_new_tokens": 300, "stop": ["###"]},
            "prompt": PROMPT,
        },
        dimensions=_dimensions,
        tokenizer="llama2",
        vocabulary=VICUNA_VOCABULARY,
        theirs=(
            (r"^vision\.vit\.", "visual_encoder."),
            (r"^vision\.ln_vision\.", "ln_vision."),
            (r"^connector\.query_tokens$", "query_tokens"),
            (r"^connector\.qformer\.layernorm\.", "Qformer.bert.embeddings.LayerNorm."),
            (r"^(connector\..*attention)\.attention\.", r"\1.self."),
            (r"^connector\.qformer\.encoder\.", "Qformer.bert.encoder."),
            (r"^connector\.proj\.", "llama_proj."),
            (r"^decoder\.", "llama_model.decoder."),
            (r"^llama_model\.decoder\.body\.", "llama_model.model."),
            (r"^llama_model\.decoder\.", "llama_model."),
        ),
        size={
            "vision": {},
            "connector": {"in_width": 1408, "out_width": 4096},
            "decoder": {**llama.SEVEN_BILLION, "vocab_size": VICUNA_VOCABULARY},
        },
        model_types=llama.MODEL_TYPES,
        structure=(
            "EVA-CLIP has no norm after its last block, and all its tokens are used",
            "the Q-Former's layers are post-norm with GELU",
        ),
        origin="XrayGPT (Thawkar et al., 2023; GitHub's mbzuai-oryx/XrayGPT, commit d0baa6a)",
        fixed=(
            "Each report of a batch ends at its own stop text; the original checked only the first row.",
            "A conversation that is too long is rejected; the original truncated its beginning, including the image.",
            "Every image is converted to gray or RGB; the demo did not convert other modes.",
            "The original's README names MedCLIP as the encoder, but its code uses EVA-CLIP, as this project does.",
        ),
    ),
)
