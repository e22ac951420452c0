"""A vision encoder and a BERT or GPT-2 with cross-attention (VisionEncoderDecoderModel of transformers).

There is no one published size: fine-tunes of ViT, DeiT, DINOv2, CvT, Swin or Swin V2 with GPT-2, DistilGPT-2 or BERT,
such as the baselines of CheXpert Plus (Swin V2 and a BERT of two layers) and CvT2DistilGPT2. The sizes come from
config.json, which is needed.

Transformers itself can save a CvT in this model and cannot run it, because a CvT gives maps of features. Here, as in
CvT2DistilGPT2, each place of the last map is an image token; its class token is not read.

Source: Rothe et al., "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks", TACL 2020; Chambon et al.,
"CheXpert Plus", 2024; Nicolson et al., "Improving Chest X-Ray Report Generation by Leveraging Warm Starting", 2023.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prelim.decoders.weights_file import materialize
from prelim.errors import ArchiveError
from prelim.networks.architectures.architecture import CHEST_RADIOGRAPHS, Architecture, Published, Section, Shapes
from prelim.networks.architectures.encoder_decoder_settings import (
    DECODERS,
    ENCODERS,
    check_settings,
    check_width,
    read_part,
    read_sides,
)
from prelim.networks.architectures.facts import Facts
from prelim.networks.architectures.image_processor import BIT, VIT, processed_side, read_processor

PREPROCESS = {
    "size": 224,
    "resize": "stretch",
    "interpolation": "bilinear",
    "crop": "floor",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}


def _vision(**dimensions: Any) -> nn.Module:
    # Imported here because `transformers` takes seconds to import.
    from prelim.networks.vision.transformers_encoder import TransformersEncoder

    return TransformersEncoder(**dimensions)


class Projection(nn.Module):
    """From the encoder's width to the decoder's; none where they are equal."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.project = None if in_width == out_width else nn.Linear(in_width, out_width)

    def forward(self, image_features: Tensor) -> Tensor:
        """image_embeds, Tensor, shape (batch, num_tokens, out_width), of features of shape (..., in_width)."""
        return image_features.clone() if self.project is None else self.project(image_features)


_WIDTH_AND_HEADS = {"bert": ("hidden_size", "num_attention_heads"), "gpt2": ("n_embd", "n_head")}


def _dimensions(shapes: Shapes, facts: Facts) -> Mapping[str, Section]:
    if not facts.config:
        raise ArchiveError("this system needs the config.json of the checkpoint; give the whole folder")
    check_settings("", {**facts.config, "add_cross_attention": None, "is_decoder": None}, ("encoder", "decoder"))
    encoder, vision = read_part("encoder", "vision", ENCODERS, facts, shapes)
    decoder, text = read_part("decoder", "decoder", DECODERS, facts, shapes)
    if vision["num_channels"] != 3:
        raise ArchiveError(f"config.json: encoder.num_channels is {vision['num_channels']!r}; supported: 3")
    in_width = _CHECKS.get(encoder, _check_vit)(vision, facts)
    check_width("encoder", in_width, facts)
    # Positions of a DINOv2 are interpolated, and a CvT has none.
    side = _any_side(facts, vision) if encoder in _ANY_SIDE else 0
    width, heads = (text[name] for name in _WIDTH_AND_HEADS[decoder])
    check_width("decoder", width, facts)
    if width % heads:
        raise ArchiveError(f"config.json: decoder.{_WIDTH_AND_HEADS[decoder][1]} is {heads}; the width is {width}")
    return {
        "vision": {"model_type": encoder, **vision},
        "connector": {"in_width": in_width, "out_width": width},
        "decoder": {"kind": "transformers", "model_type": decoder, "add_cross_attention": True, **text},
        "preprocess": read_processor(side or vision["image_size"], PREPROCESS, facts, classes=_CLASSES, crop=False),
    }


_CLASSES = (*VIT, *BIT)
_ANY_SIDE = ("dinov2", "cvt")
"""Encoders that take images of the processor's size."""


def _any_side(facts: Facts, vision: Mapping[str, Any]) -> int:
    return processed_side(facts, _CLASSES, vision.get("image_size", PREPROCESS["size"]))


def _check_vit(vision: dict[str, Any], facts: Facts) -> int:
    """The width of the tokens of an encoder with patches, whose sides become numbers."""
    vision |= read_sides("encoder", vision)
    width: int = vision["hidden_size"]
    return width


def _check_swin(vision: dict[str, Any], facts: Facts) -> int:
    vision |= read_sides("encoder", vision)
    stages = len(vision["depths"])
    if len(vision.get("pretrained_window_sizes", vision["depths"])) < stages:
        raise ArchiveError("config.json: encoder.pretrained_window_sizes has fewer entries than depths")
    width: int = vision["embed_dim"] * 2 ** (stages - 1)
    return width


def _check_cvt(vision: dict[str, Any], facts: Facts) -> int:
    stages = len(vision["depth"])
    for name, value in vision.items():
        if isinstance(value, list) and len(value) != stages:
            raise ArchiveError(f"config.json: encoder.{name} is {value!r}; it must have {stages} entries, as depth has")
    stored = facts.config["encoder"]
    method = stored.get("qkv_projection_method") or []
    if any(one != "dw_bn" for one in method):
        raise ArchiveError(
            f"config.json: encoder.qkv_projection_method is {method!r}; supported: 'dw_bn' in every stage"
        )
    if any(vision["cls_token"][:-1]):
        raise ArchiveError(f"config.json: encoder.cls_token is {vision['cls_token']!r}; supported: in the last stage")
    width: int = vision["embed_dim"][-1]
    return width


_CHECKS: Mapping[str, Callable[[dict[str, Any], Facts], int]] = {
    "swin": _check_swin,
    "swinv2": _check_swin,
    "cvt": _check_cvt,
}
"""`model_type` of an encoder -> check of its settings, which returns the width of its tokens; _check_vit for others.

Each raises ArchiveError for settings that do not fit together."""


_VIT_LAYER = r"vision\.body\.(?:encoder\.layer|layers)\.(\d+)\."
_SWIN_BLOCK = r"vision\.body\.encoder\.layers\.(\d+)\.blocks\.(\d+)\."
_SWIN_NAMES = {
    "attention.self.query": "attention.q_proj",
    "attention.self.key": "attention.k_proj",
    "attention.self.value": "attention.v_proj",
    "attention.self.relative_position_bias_table": "attention.relative_position_bias.relative_position_bias_table",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
"""Names of a Swin's layers as they are saved -> in memory since version 5 of transformers; Swin V2 kept the former."""


def _layout(weights: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """Rename the layers of a Swin or DINOv2, and complete tied weights.

    Raises ArchiveError if two tied weights differ.
    """
    ours = dict(weights)
    kind = (facts.config.get("encoder") or {}).get("model_type")
    if kind == "dinov2":
        # Its layers kept the name that those of a ViT lost.
        ours = {re.sub(r"^vision\.body\.layers\.", "vision.body.encoder.layer.", key): ours[key] for key in ours}
    if kind == "swin":
        for key in list(ours):
            found = re.match(_SWIN_BLOCK, key)
            for saved, name in _SWIN_NAMES.items():
                if found and key[found.end() :].startswith(saved):
                    ours[found[0] + name + key[found.end() + len(saved) :]] = ours.pop(key)
                    break
    decoder = facts.config.get("decoder") or {}
    return complete_head(ours, decoder.get("model_type", "bert"), tied=decoder.get("tie_word_embeddings", True))


def complete_head(weights: Mapping[str, Any], kind: str, *, tied: bool) -> dict[str, Any]:
    """The weights with one bias of the head, and with one table where the head is tied to the embeddings.

    kind : `bert` or `gpt2`

    Raises ArchiveError if two tied weights differ.
    """
    ours = dict(weights)
    bias = ours.pop("decoder.lm_head.bias", None)
    if bias is not None and ("decoder.lm_bias" not in ours or not tied):
        # BERT has two, which are one where words are tied; version 5 of transformers adds this one otherwise.
        ours["decoder.lm_bias"] = bias
    head = ours.get("decoder.lm_head.weight")
    if head is not None and tied:
        words = _WORDS[kind]
        if words in ours and not torch.equal(materialize(head), materialize(ours[words])):
            raise ArchiveError(
                "the decoder's head differs from its token embeddings, but tie_word_embeddings of the decoder in "
                "config.json is true, or missing; if they were trained apart, set it to false there"
            )
        ours[words] = ours.pop("decoder.lm_head.weight")
    return ours


_WORDS = {"bert": "decoder.body.embeddings.word_embeddings.weight", "gpt2": "decoder.body.wte.weight"}

ARCHITECTURE = Architecture(
    vision=_vision,
    connector=Projection,
    published=Published(
        keys=(
            (r"^enc_to_dec_proj\.", "connector.project."),
            (r"^encoder\.(embeddings|encoder|layers|layernorm)\.", r"vision.body.\1."),
            # ViT and DeiT as they are saved; their layers have other names in memory since version 5.
            (r"^vision\.body\.encoder\.layer\.", "vision.body.layers."),
            (
                rf"^{_VIT_LAYER}attention\.attention\.(q|k|v)(uery|ey|alue)\.",
                r"vision.body.layers.\1.attention.\2_proj.",
            ),
            (rf"^{_VIT_LAYER}attention\.output\.dense\.", r"vision.body.layers.\1.attention.o_proj."),
            (rf"^{_VIT_LAYER}intermediate\.dense\.", r"vision.body.layers.\1.mlp.fc1."),
            (rf"^{_VIT_LAYER}output\.dense\.", r"vision.body.layers.\1.mlp.fc2."),
            (r"^decoder\.(transformer|bert)\.", "decoder.body."),
            (r"^decoder\.cls\.predictions\.transform\.", "decoder.transform."),
            (r"^decoder\.cls\.predictions\.decoder\.", "decoder.lm_head."),
            (r"^decoder\.cls\.predictions\.bias$", "decoder.lm_bias"),
            (r"\.gamma$", ".weight"),
            (r"\.beta$", ".bias"),
        ),
        theirs=(
            (r"^connector\.project\.", "enc_to_dec_proj."),
            (rf"^{_VIT_LAYER}attention\.q_proj\.", r"encoder.encoder.layer.\1.attention.attention.query."),
            (rf"^{_VIT_LAYER}attention\.k_proj\.", r"encoder.encoder.layer.\1.attention.attention.key."),
            (rf"^{_VIT_LAYER}attention\.v_proj\.", r"encoder.encoder.layer.\1.attention.attention.value."),
            (rf"^{_VIT_LAYER}attention\.o_proj\.", r"encoder.encoder.layer.\1.attention.output.dense."),
            (r"^vision\.body\.layers\.(\d+)\.mlp\.fc1\.", r"encoder.encoder.layer.\1.intermediate.dense."),
            (r"^vision\.body\.layers\.(\d+)\.mlp\.fc2\.", r"encoder.encoder.layer.\1.output.dense."),
            (rf"^{_VIT_LAYER}", r"encoder.encoder.layer.\1."),
            *(
                (rf"^{_SWIN_BLOCK}{re.escape(name)}", rf"encoder.encoder.layers.\1.blocks.\2.{saved}")
                for saved, name in _SWIN_NAMES.items()
            ),
            (r"^vision\.body\.", "encoder."),
            (r"^decoder\.body\.(h|wte|wpe|ln_f)\.", r"decoder.transformer.\1."),
            (r"^decoder\.body\.", "decoder.bert."),
            (r"^decoder\.transform\.", "decoder.cls.predictions.transform."),
            (r"^decoder\.lm_bias$", "decoder.cls.predictions.bias"),
        ),
        ignored={
            r"^encoder\.pooler\.": "pooling layer, which the decoder does not read",
            r"^decoder\.bert\.pooler\.": "pooling layer, which is not used for texts",
            r"\.(position_ids|relative_position_index|relative_coords_table)$": "indices, which are computed",
            r"^decoder\.transformer\.h\.\d+\.(cross)?attn(ention)?\.(masked_)?bias$": "masks, which are computed",
            r"^decoder\.transformer\.h\.\d+\.crossattention\.(masked_)?bias$": "masks, which are computed",
            r"^encoder\.embeddings\.mask_token$": "only for training",
        },
        defaults={
            "licence": "GAP",
            "tokenizer": {"bos_token_id": 101, "eos_token_id": 102, "pad_token_id": 0},
            "input": {"accepts": CHEST_RADIOGRAPHS},
            "preprocess": PREPROCESS,
            "generation": {"max_new_tokens": 128},
        },
        dimensions=_dimensions,
        layout=_layout,
        tokenizer="encoder_decoder",
        origin="VisionEncoderDecoderModel of transformers",
        size={
            "vision": {"model_type": "vit"},
            "connector": {"in_width": 768, "out_width": 768},
            "decoder": {"kind": "transformers", "model_type": "gpt2", "add_cross_attention": True},
        },
        model_types=("vision-encoder-decoder",),
        whole_config=True,
    ),
)
