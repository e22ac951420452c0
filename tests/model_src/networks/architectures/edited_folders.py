"""Folders of several families, and edits of their config.json: which are refused, and which are computed.

A family joins with an entry of FAMILIES.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import (
    BlipForConditionalGeneration,
    Gemma3ForConditionalGeneration,
    LlavaForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
    VisionEncoderDecoderModel,
)

from tests.model_src.networks.architectures import small_blip as blip
from tests.model_src.networks.architectures import small_encoder_decoder as ved
from tests.model_src.networks.architectures import small_gemma3 as gemma3
from tests.model_src.networks.architectures import small_llava as llava
from tests.model_src.networks.architectures import small_llava_mistral as llava_mistral
from tests.model_src.networks.architectures import small_maira2 as maira2
from tests.model_src.networks.architectures import small_qwen2_5_vl as qwen
from tests.model_src.networks.architectures.compared_logits import blip_logits, qwen_logits, ved_logits, with_images

Edit = tuple[str, Any]
"""Path of a setting in config.json, its parts joined by dots, and its new value; DROP leaves it out."""

DROP = object()


@dataclass(frozen=True)
class Family:
    """Folders of one kind.

    save     : writes a folder
    original : reads it with transformers
    logits   : of that model and of the imported network, for some fixed inputs
    refused  : edits that must be refused by the setting's name
    computed : edits after which both models must give the same logits
    within   : largest difference of these
    system   : that imports it; None: the one with the family's name
    """

    save: Callable[[Path], Any]
    original: Callable[[Path], Any]
    logits: Callable[[Any, Any], tuple[Tensor, Tensor]]
    refused: tuple[Edit, ...]
    computed: tuple[Edit, ...]
    within: float = 1e-9
    system: str | None = None


QWEN3 = {"model_type": "qwen3", "head_dim": 8}
"""A head's width is that of the network divided by the heads, which is not Qwen3's default."""

FAMILIES: Mapping[str, Family] = {
    "encoder_decoder": Family(
        save=lambda path: ved.save_encoder_decoder(ved.small_encoder_decoder("swinv2", "bert"), path),
        original=lambda path: VisionEncoderDecoderModel.from_pretrained(path).eval(),
        logits=ved_logits,
        refused=(
            ("model_type", "blip"),
            ("vision_scale", 2),
            ("tie_encoder_decoder", True),
            ("encoder.model_type", "beit"),
            ("encoder.use_mask_token", True),
            ("encoder.num_channels", 1),
            *(("encoder.depths", depths) for depths in (DROP, [1, 2], 2)),
            ("encoder.image_size", [32, 64]),
            ("encoder.hidden_size", 99),
            ("encoder.pretrained_window_sizes", [0]),
            ("encoder.window_shift", 2),
            ("encoder.patch_size", 0),
            *(("decoder.num_attention_heads", heads) for heads in (0, "2", -2, True)),
            *((f"{part}.hidden_act", name) for part in ("encoder", "decoder") for name in ([], {})),
            ("decoder.model_type", "roberta"),
            ("decoder.hidden_act", "quick_gelu"),
            ("decoder.num_attention_heads", 5),
            ("decoder.num_hidden_layers", DROP),
            ("decoder.cross_attention_hidden_size", 16),
            ("decoder.add_cross_attention", False),
            ("decoder.position_embedding_type", "relative_key"),
            ("decoder.layer_scale", 0.1),
            ("decoder.rope_theta", 10000.0),
            ("decoder.pruned_heads", {"0": [1]}),
        ),
        computed=(
            ("decoder.layer_norm_eps", 1e-3),
            ("decoder.hidden_act", "relu"),
            ("decoder.num_attention_heads", 2),
            ("decoder.layer_norm_eps", DROP),
            ("decoder.attention_probs_dropout_prob", 0.4),
            ("encoder.layer_norm_eps", 1e-3),
            ("encoder.window_size", 2),
            ("encoder.hidden_act", "relu"),
            ("encoder.pretrained_window_sizes", [8, 8]),
            ("encoder.drop_path_rate", 0.5),
        ),
    ),
    "blip": Family(
        save=lambda path: blip.save_blip(blip.small_blip(), path),
        original=lambda path: BlipForConditionalGeneration.from_pretrained(path).eval(),
        logits=blip_logits,
        refused=(
            ("model_type", "blip-2"),
            ("itm_weight", 0.5),
            ("tie_encoder_decoder", True),
            ("vision_config.model_type", "clip_vision_model"),
            ("vision_config.image_size", [32, 64]),
            ("vision_config.hidden_act", "none"),
            ("vision_config.num_hidden_layers", DROP),
            ("vision_config.rope_theta", 100.0),
            *(("text_config.num_attention_heads", heads) for heads in (0, "2")),
            ("text_config.hidden_act", []),
            ("text_config.model_type", "bert"),
            ("text_config.hidden_act", "quick_gelu"),
            ("text_config.num_attention_heads", 5),
            ("text_config.num_hidden_layers", DROP),
            ("text_config.is_decoder", False),
            ("text_config.chunk_size_feed_forward", 2),
            ("text_config.position_embedding_type", "relative_key"),
            ("text_config.layer_scale", 0.1),
        ),
        computed=(
            ("text_config.layer_norm_eps", 1e-3),
            ("text_config.num_attention_heads", 4),
            ("text_config.hidden_dropout_prob", 0.4),
            ("vision_config.layer_norm_eps", 1e-3),
            ("vision_config.num_attention_heads", 4),
            ("vision_config.hidden_act", "relu"),
        ),
    ),
    "gemma3": Family(
        save=lambda path: gemma3.save_gemma3(gemma3.small_gemma3(), path),
        original=lambda path: Gemma3ForConditionalGeneration.from_pretrained(path).eval(),
        logits=with_images(gemma3.IMAGE_TOKEN, gemma3.VOCABULARY, gemma3.SIDE, types=True),
        refused=(
            ("model_type", "gemma3n"),
            ("architectures", ["Gemma3ForSequenceClassification"]),
            ("mm_tokens_per_image", 15),
            ("image_token_index", 9999),
            ("tie_word_embeddings", False),
            ("tie_word_embeddings", None),
            ("vision_soft_tokens", 3),
            ("quantization_config.quant_method", "fp8"),
            ("text_config.model_type", "gemma2"),
            ("text_config.final_logit_softcapping", 30.0),
            ("text_config.attn_logit_softcapping", 50.0),
            ("text_config.use_bidirectional_attention", True),
            ("text_config.hidden_activation", "relu6"),
            ("text_config.layer_types", ["chunked_attention"] * 3),
            ("text_config.num_hidden_layers", 2),
            ("text_config.num_hidden_layers", DROP),
            ("text_config.num_attention_heads", 8),
            ("text_config.num_key_value_heads", 1),
            ("text_config.head_dim", 16),
            ("text_config.attention_bias", True),
            ("text_config.num_experts", 4),
            ("text_config.query_pre_attn_scalar", "x"),
            ("text_config.rope_parameters", {"full_attention": {"rope_type": "dynamic", "factor": 2.0}}),
            ("vision_config.model_type", "clip_vision_model"),
            ("vision_config.hidden_act", "none"),
            ("vision_config.num_hidden_layers", 1),
            ("vision_config.num_hidden_layers", DROP),
            ("vision_config.image_size", 64),
            ("vision_config.num_register_tokens", 4),
        ),
        computed=(
            ("text_config.rms_norm_eps", 1e-3),
            ("text_config.sliding_window", 3),
            ("text_config.query_pre_attn_scalar", 9),
            ("text_config.layer_types", ["full_attention", "sliding_attention", "full_attention"]),
            ("text_config.hidden_activation", "gelu"),
            ("vision_config.num_attention_heads", 4),
            ("vision_config.layer_norm_eps", 1e-3),
        ),
        within=1e-4,
    ),
    "llava": Family(
        save=lambda path: llava.save_llava(llava.small_llava(), path),
        original=lambda path: LlavaForConditionalGeneration.from_pretrained(path).eval(),
        logits=with_images(llava.IMAGE_TOKEN, llava.VOCABULARY, llava.SIDE),
        refused=(
            ("model_type", "llava_next"),
            ("architectures", ["LlavaNextForConditionalGeneration"]),
            ("auto_map", {"AutoModel": "modeling.Model"}),
            ("is_encoder_decoder", True),
            ("tie_word_embeddings", True),
            ("image_token_index", -1),
            ("image_grid_pinpoints", [[336, 672]]),
            *(("projector_hidden_act", name) for name in ("tanh", [])),
            ("vision_config.hidden_act", {}),
            ("multimodal_projector_bias", False),
            ("vision_feature_layer", 9),
            ("vision_feature_select_strategy", "cls"),
            ("vision_config.model_type", "beit"),
            ("vision_config.hidden_act", "none"),
            ("vision_config.num_hidden_layers", 3),
            ("vision_config.num_hidden_layers", 6),
            ("vision_config.num_hidden_layers", DROP),
            ("vision_config.intermediate_size", 41),
            ("vision_config.hidden_size", 48),
            ("vision_config.image_size", 56),
            ("vision_config.patch_size", 14),
            ("vision_config.chunk_size_feed_forward", 2),
            ("vision_config.num_channels", 1),
            ("vision_config.layer_scale", 0.1),
            ("text_config.model_type", "gemma"),
            ("text_config.num_hidden_layers", 3),
            ("text_config.num_hidden_layers", DROP),
            ("text_config.num_attention_heads", 5),
            ("text_config.num_key_value_heads", 4),
            ("text_config.vocab_size", 10),
            ("text_config.hidden_act", "tanh"),
            ("text_config.rope_parameters", {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
            ("text_config.residual_multiplier", 0.2),
            ("text_config.tie_word_embeddings", True),
        ),
        computed=(
            ("text_config.rms_norm_eps", 1e-3),
            ("text_config.rope_parameters", {"rope_type": "default", "rope_theta": 500.0}),
            ("text_config.pretraining_tp", 2),
            ("text_config.sliding_window", 3),
            ("vision_config.num_attention_heads", 4),
            ("vision_config.hidden_act", "gelu"),
            ("vision_config.vocab_size", 32000),
            ("vision_feature_layer", 2),
            ("projector_hidden_act", "relu"),
        ),
        within=1e-4,
    ),
    "llava with Qwen3": Family(
        system="llava",
        save=lambda path: llava.save_llava(llava.small_llava(QWEN3), path),
        original=lambda path: LlavaForConditionalGeneration.from_pretrained(path).eval(),
        logits=with_images(llava.IMAGE_TOKEN, llava.VOCABULARY, llava.SIDE),
        refused=(
            ("text_config.head_dim", 4),
            ("text_config.head_dim", 16),
            ("text_config.attention_bias", True),
            ("text_config.num_attention_heads", 8),
            ("text_config.num_hidden_layers", DROP),
            ("text_config.layer_types", ["chunked_attention"] * 2),
            ("text_config.rope_parameters", {"rope_type": "longrope", "factor": 2.0, "rope_theta": 1e4}),
            ("text_config.num_experts", 8),
        ),
        computed=(
            ("text_config.rms_norm_eps", 1e-3),
            ("text_config.max_window_layers", 1),
            ("text_config.rope_parameters", {"rope_type": "linear", "factor": 3.0, "rope_theta": 50.0}),
            ("text_config.hidden_act", "gelu"),
        ),
        within=1e-4,
    ),
    "llava_mistral": Family(
        save=lambda path: llava_mistral.save_original(llava_mistral.small_llava_mistral(), path),
        original=llava_mistral.read_original,
        logits=with_images(llava.IMAGE_TOKEN, llava.VOCABULARY, llava.SIDE),
        refused=(
            ("model_type", "llava_llama"),
            ("architectures", ["LlavaLlamaForCausalLM"]),
            ("auto_map", {"AutoModel": "modeling.Model"}),
            ("mm_vision_select_feature", "cls_patch"),
            ("mm_use_im_start_end", True),
            ("mm_use_im_patch_token", True),
            ("mm_patch_merge_type", "spatial"),
            ("mm_resampler_type", "perceiver"),
            ("mm_projector_type", "identity"),
            ("mm_projector_type", "mlp3x_gelu"),
            ("mm_projector_type", "linear"),
            ("mm_hidden_size", 48),
            ("mm_spatial_pool_mode", "average"),
            ("mm_vision_select_layer", -9),
            ("mm_vision_select_layer", [1, -2]),
            ("image_aspect_ratio", "anyres"),
            ("head_dim", 4),
            ("hidden_act", "tanh"),
            ("num_attention_heads", 5),
            ("num_hidden_layers", 3),
            ("num_hidden_layers", DROP),
            ("num_key_value_heads", 4),
            ("rope_scaling", {"type": "dynamic", "factor": 2.0}),
            ("tie_word_embeddings", True),
            ("residual_multiplier", 0.2),
            ("vocab_size", 10),
            ("s2", True),
        ),
        computed=(
            ("hidden_act", "gelu"),
            ("rms_norm_eps", 1e-3),
            ("rope_theta", 500.0),
            ("rope_scaling", {"type": "linear", "factor": 2.0}),
            ("sliding_window", 3),
            ("mm_vision_select_layer", 2),
            ("image_grid_pinpoints", [[336, 672]]),
            ("tune_mm_mlp_adapter", True),
        ),
        within=1e-4,
    ),
    "qwen2_5_vl": Family(
        save=lambda path: qwen.save_qwen(qwen.small_qwen(), path),
        original=lambda path: Qwen2_5_VLForConditionalGeneration.from_pretrained(path).eval(),
        logits=qwen_logits,
        refused=(
            ("model_type", "qwen2_vl"),
            ("architectures", ["Qwen2VLForConditionalGeneration"]),
            ("image_token_id", 9999),
            ("image_token_id", -1),
            ("deepstack_visual_indexes", [1]),
            ("quantization_config.quant_method", "fp8"),
            ("text_config.model_type", "qwen3"),
            ("text_config.hidden_act", "relu6"),
            ("text_config.use_sliding_window", True),
            ("text_config.layer_types", ["chunked_attention"] * 3),
            ("text_config.num_hidden_layers", 2),
            ("text_config.num_hidden_layers", DROP),
            ("text_config.num_attention_heads", 8),
            ("text_config.num_key_value_heads", 1),
            ("text_config.hidden_size", 32),
            ("text_config.num_experts", 4),
            ("text_config.rms_norm_eps", "x"),
            ("text_config.rope_parameters", {"rope_type": "dynamic", "factor": 2.0, "mrope_section": [2, 3, 3]}),
            ("text_config.rope_parameters.mrope_section", [2, 3, 4]),
            ("text_config.rope_parameters.mrope_section", DROP),
            ("vision_config.model_type", "qwen2_vl"),
            ("vision_config.hidden_act", "gelu"),
            ("vision_config.depth", 3),
            ("vision_config.depth", DROP),
            ("vision_config.num_heads", 5),
            ("vision_config.patch_size", 8),
            ("vision_config.spatial_merge_size", 1),
            ("vision_config.temporal_patch_size", 1),
            ("vision_config.out_hidden_size", 32),
            ("vision_config.window_size", 4),
            ("vision_config.fullatt_block_indexes", [5]),
            ("vision_config.in_chans", 1),
            ("vision_config.rope_parameters.partial_rotary_factor", 0.5),
            ("vision_config.num_position_embeddings", 2304),
        ),
        computed=(
            ("text_config.rms_norm_eps", 1e-3),
            ("text_config.hidden_act", "gelu"),
            ("text_config.rope_parameters", {"rope_type": "default", "rope_theta": 50.0, "mrope_section": [4, 1, 3]}),
            ("text_config.sliding_window", 3),
            ("text_config.attention_dropout", 0.5),
            ("vision_config.num_heads", 4),
            ("vision_config.window_size", 2 * qwen.UNIT),
            ("vision_config.fullatt_block_indexes", [0]),
            ("vision_config.rope_parameters.rope_theta", 50.0),
            ("vision_config.tokens_per_second", 2),
        ),
        within=1e-4,
    ),
    "maira2": Family(
        save=lambda path: maira2.save_maira2(maira2.small_maira2(), path),
        original=maira2.read_maira2,
        logits=with_images(llava.IMAGE_TOKEN, llava.VOCABULARY, llava.SIDE),
        refused=(
            ("model_type", "maira3"),
            ("auto_map", {"AutoModel": "modeling_maira2.Other"}),
            ("image_token_index", 10_000),
            ("projector_n_layers", 3),
            ("projector_hidden_act", "tanh"),
            ("projector_norm", True),
            ("vision_feature_layer", -2),
            ("vision_feature_select_strategy", "none"),
            ("vision_config.model_type", "clip_vision_model"),
            ("vision_config.out_features", ["stage2", "stage4"]),
            ("vision_config.out_features", ["stem"]),
            ("vision_config.out_indices", [2]),
            ("vision_config.num_hidden_layers", 3),
            ("vision_config.num_hidden_layers", 2),
            ("vision_config.reshape_hidden_states", True),
            ("vision_config.apply_layernorm", False),
            ("vision_config.use_swiglu_ffn", True),
            ("vision_config.qkv_bias", False),
            ("vision_config.mlp_ratio", 4),
            ("vision_config.num_register_tokens", 4),
            ("text_config.model_type", "phi3"),
            ("text_config.num_key_value_heads", 1),
            ("text_config.num_hidden_layers", DROP),
            ("text_config.attention_multiplier", 0.1),
        ),
        computed=(
            ("vision_config.layer_norm_eps", 1e-3),
            ("vision_config.hidden_act", "relu"),
            ("vision_config.num_attention_heads", 4),
            ("vision_config.layerscale_value", 0.1),
            ("vision_config.out_features", ["stage3"]),
            ("projector_hidden_act", "relu"),
            ("text_config.rms_norm_eps", 1e-3),
        ),
        within=1e-4,
    ),
}
