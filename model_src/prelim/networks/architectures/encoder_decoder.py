"""A vision encoder and a BERT or GPT-2 with cross-attention (VisionEncoderDecoderModel of transformers).

There is no one published size: fine-tunes of ViT, DeiT, Swin or Swin V2 with GPT-2, DistilGPT-2 or BERT, such as the
baselines of CheXpert Plus (Swin V2 and a BERT of two layers). The sizes come from config.json, which is needed.

Source: Rothe et al., "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks", TACL 2020; Chambon et al.,
"CheXpert Plus", 2024.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prelim.decoders.weights_file import materialize
from prelim.errors import ArchiveError
from prelim.networks.architectures.architecture import CHEST_RADIOGRAPHS, Architecture, Published, Section, Shapes
from prelim.networks.architectures.facts import Facts
from prelim.networks.architectures.image_processor import VIT, read_processor

PREPROCESS = {
    "size": 224,
    "resize": "stretch",
    "interpolation": "bilinear",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}

_VIT: Mapping[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
}
_SWIN: Mapping[str, Any] = {
    "image_size": 224,
    "patch_size": 4,
    "num_channels": 3,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "hidden_act": "gelu",
    "use_absolute_embeddings": False,
    "layer_norm_eps": 1e-5,
}
ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "vit": _VIT,
    "deit": _VIT,
    "swin": _SWIN,
    "swinv2": {**_SWIN, "pretrained_window_sizes": [0, 0, 0, 0]},
}
"""`model_type` of an encoder -> settings that change what it computes, with the defaults of transformers."""

_BERT: Mapping[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "tie_word_embeddings": True,
}
_GPT2: Mapping[str, Any] = {
    "vocab_size": 50257,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "n_positions": 1024,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}
DECODERS: Mapping[str, Mapping[str, Any]] = {"bert": _BERT, "gpt2": _GPT2}
"""`model_type` of a decoder -> settings that change what it computes, with the defaults of transformers."""

_FIXED: Mapping[str, Any] = {
    "add_cross_attention": True,
    "is_decoder": True,
    "cross_attention_hidden_size": None,
    "position_embedding_type": "absolute",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "tie_encoder_decoder": False,
    "pruned_heads": {},
    "chunk_size_feed_forward": 0,
    "quantization_config": None,
}
"""Settings with the only value that is supported."""

_NEUTRAL = re.compile(
    # Training, tasks that a checkpoint was trained on before, outputs besides the last layer, and versions.
    r"(hidden_dropout_prob|attention_probs_dropout_prob|drop_path_rate|(attn|embd|resid|summary_first)_?(pdrop|dropout)"
    r"|classifier_dropout|initializer_range|initializer_factor|summary_\w+|num_labels|(id2label|label2id|problem_type)"
    r"|finetuning_task|task_specific_params|output_(attentions|hidden_states|scores)|return_dict(_in_generate)?"
    r"|torchscript|torch_dtype|dtype|use_bfloat16|tf_legacy_loss|transformers_version|_name_or_path|_commit_hash"
    r"|_attn_implementation(_autoset)?|architectures|model_type|use_cache|is_encoder_decoder|tokenizer_class|prefix"
    r"|type_vocab_size|encoder_stride|pooler_\w+|out_features|out_indices|stage_names|num_layers|path_norm|tie_word_embeddings"
    r"|gradient_checkpointing|n_ctx|directionality|sep_token_id|(bos|eos|pad|decoder_start)_token_id|processor_class"
    # Defaults of generation, which old versions keep here: `generation` of model.yaml.
    r"|max_length|min_length|do_sample|early_stopping|num_beams|num_beam_groups|diversity_penalty|temperature|top_k"
    r"|top_p|typical_p|repetition_penalty|length_penalty|no_repeat_ngram_size|encoder_no_repeat_ngram_size"
    r"|bad_words_ids|num_return_sequences|forced_(bos|eos)_token_id|remove_invalid_values"
    r"|exponential_decay_length_penalty|suppress_tokens|begin_suppress_tokens)"
)
"""Settings that do not change what the network computes for a report."""


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


def _read(part: str, known: Mapping[str, Mapping[str, Any]], facts: Facts) -> tuple[str, dict[str, Any]]:
    """`model_type` and settings of a part; what config.json lacks is the default of transformers.

    Raises ArchiveError for a network that is not supported, and for a setting that is not understood.
    """
    stored: Mapping[str, Any] = facts.config.get(part) or {}
    if not stored:
        raise ArchiveError(f"config.json has no section {part}; give the config.json of the VisionEncoderDecoderModel")
    kind: Any = stored.get("model_type")
    if kind not in known:
        raise ArchiveError(f"config.json: {part} is of model_type {kind!r}; supported: {', '.join(known)}")
    _check_settings(f"{part}.", stored, {*known[kind], "hidden_size"})
    settings: dict[str, Any] = {}
    for name, default in known[kind].items():
        value = default if stored.get(name) is None else stored[name]
        settings[name] = (
            value
            if value is None
            else facts.value(f"{'vision' if part == 'encoder' else part}.{name}", default, stored=value)
        )
    return kind, settings


def _check_settings(where: str, stored: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise ArchiveError for a setting that is not understood, or has another value than the supported one."""
    for name, value in stored.items():
        if name in _FIXED:
            if value is not None and value != _FIXED[name]:
                raise ArchiveError(f"config.json: {where}{name} is {value!r}; supported: {_FIXED[name]!r}")
        elif name not in known and not _NEUTRAL.fullmatch(name):
            raise ArchiveError(f"config.json: {where}{name} is {value!r}, and this setting is not supported")


def _side(stored: Any) -> int:
    """Pixels of a side. Raises ArchiveError unless images and patches are squares."""
    sides = stored if isinstance(stored, list) else [stored, stored]
    if len(set(map(str, sides))) != 1 or not isinstance(sides[0], int):
        raise ArchiveError(f"config.json: images and patches must be squares, and one is {stored!r}")
    return sides[0]


_WIDTH_AND_HEADS = {"bert": ("hidden_size", "num_attention_heads"), "gpt2": ("n_embd", "n_head")}


def _dimensions(shapes: Shapes, facts: Facts) -> Mapping[str, Section]:
    if not facts.config:
        raise ArchiveError("this system needs the config.json of the checkpoint; give the whole folder")
    _check_settings("", {**facts.config, "add_cross_attention": None, "is_decoder": None}, ("encoder", "decoder"))
    encoder, vision = _read("encoder", ENCODERS, facts)
    decoder, text = _read("decoder", DECODERS, facts)
    side = vision["image_size"] = _side(vision["image_size"])
    vision["patch_size"] = _side(vision["patch_size"])
    if vision["num_channels"] != 3:
        raise ArchiveError(f"config.json: encoder.num_channels is {vision['num_channels']!r}; supported: 3")
    if encoder == "swinv2" and len(vision["pretrained_window_sizes"]) < len(vision["depths"]):
        raise ArchiveError("config.json: encoder.pretrained_window_sizes has fewer entries than depths")
    stages = vision.get("depths", ())
    in_width = vision["embed_dim"] * 2 ** (len(stages) - 1) if stages else vision["hidden_size"]
    width, heads = (text[name] for name in _WIDTH_AND_HEADS[decoder])
    if width % heads:
        raise ArchiveError(f"config.json: decoder.{_WIDTH_AND_HEADS[decoder][1]} is {heads}; the width is {width}")
    return {
        "vision": {"model_type": encoder, **vision},
        "connector": {"in_width": in_width, "out_width": width},
        "decoder": {"kind": "transformers", "model_type": decoder, "add_cross_attention": True, **text},
        "preprocess": read_processor(side, PREPROCESS, facts, classes=VIT, crop=False),
    }


_VIT_LAYER = r"vision\.body\.layers\.(\d+)\."
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
    """Rename the layers of a Swin, and complete tied weights.

    Raises ArchiveError if two tied weights differ.
    """
    ours = dict(weights)
    if (facts.config.get("encoder") or {}).get("model_type") == "swin":
        for key in list(ours):
            found = re.match(_SWIN_BLOCK, key)
            for saved, name in _SWIN_NAMES.items():
                if found and key[found.end() :].startswith(saved):
                    ours[found[0] + name + key[found.end() + len(saved) :]] = ours.pop(key)
                    break
    decoder = facts.config.get("decoder") or {}
    tied = decoder.get("tie_word_embeddings", True)
    bias = ours.pop("decoder.lm_head.bias", None)
    if bias is not None and ("decoder.lm_bias" not in ours or not tied):
        # BERT has two, which are one where words are tied; version 5 of transformers adds this one otherwise.
        ours["decoder.lm_bias"] = bias
    head = ours.get("decoder.lm_head.weight")
    if head is not None and tied:
        words = _WORDS[decoder["model_type"]]
        if words in ours and not torch.equal(materialize(head), materialize(ours[words])):
            raise ArchiveError(
                "the decoder's head differs from its token embeddings, but decoder.tie_word_embeddings of config.json "
                "is true, or missing; if they were trained apart, set it to false there"
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
            (rf"^{_VIT_LAYER}mlp\.fc1\.", r"encoder.encoder.layer.\1.intermediate.dense."),
            (rf"^{_VIT_LAYER}mlp\.fc2\.", r"encoder.encoder.layer.\1.output.dense."),
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
