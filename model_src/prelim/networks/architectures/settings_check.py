"""Which settings of a config.json are understood: a folder with any other one is refused by the setting's name."""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

from prelim.errors import ArchiveError

COMMON: Mapping[str, Any] = {
    "cross_attention_hidden_size": None,
    "tie_encoder_decoder": False,
    "chunk_size_feed_forward": 0,
    "pruned_heads": {},
}
"""Settings of every network of transformers with the only value that is supported."""

ALONE: Mapping[str, Any] = {
    **COMMON,
    "add_cross_attention": False,
    "is_decoder": False,
    "is_encoder_decoder": False,
}
"""The same of a network that is not part of an encoder-decoder."""

_NEUTRAL = re.compile(
    # Training, tasks that a network was trained on before, outputs besides the last layer, and versions.
    r"((hidden|attention|attention_probs|attn|embd|resid|classifier)_?(pdrop|dropout)(_prob)?|dropout|drop_path_rate"
    r"|initializer_(range|factor)|num_labels|id2label|label2id|problem_type|finetuning_task|task_specific_params"
    r"|output_(attentions|hidden_states|scores)|return_dict(_in_generate)?|torchscript|torch_dtype|dtype|use_bfloat16"
    r"|tf_legacy_loss|transformers_version|_name_or_path|_commit_hash|_attn_implementation(_autoset|_internal)?"
    r"|architectures|model_type|use_cache|tokenizer_class|prefix|gradient_checkpointing|processor_class"
    r"|projection_dim|pretraining_tp|(bos|eos|pad|sep|decoder_start)_token_id"
    # Defaults of generation, which old versions keep here: `generation` of model.yaml.
    r"|max_length|min_length|do_sample|early_stopping|num_beams|num_beam_groups|diversity_penalty|temperature|top_k"
    r"|top_p|typical_p|repetition_penalty|length_penalty|no_repeat_ngram_size|encoder_no_repeat_ngram_size"
    r"|bad_words_ids|num_return_sequences|forced_(bos|eos)_token_id|remove_invalid_values"
    r"|exponential_decay_length_penalty|suppress_tokens|begin_suppress_tokens)"
)
"""Settings that do not change what a network computes for a report."""

_POSITIVE = (
    *("rope_theta", "rope_local_base_freq", "factor", "low_freq_factor", "high_freq_factor", "partial_rotary_factor"),
    *("original_max_position_embeddings", "query_pre_attn_scalar", "sliding_window"),
)
"""Numbers that must be above 0, also in sections `rope_parameters` and `rope_scaling`."""


def check_known(
    where: str, stored: Mapping[str, Any], known: Collection[str], fixed: Mapping[str, Any] = ALONE
) -> None:
    """Raise ArchiveError for a setting that is not understood, or has another value than the supported one.

    where : the section of config.json with a point at its end; empty for the file itself
    known : those that are read elsewhere, or change nothing in this network
    fixed : those with one supported value, and this value
    """
    for name, value in stored.items():
        if name in fixed:
            if value is not None and value != fixed[name]:
                raise ArchiveError(f"config.json: {where}{name} is {value!r}; supported: {fixed[name]!r}")
        elif name not in known and not _NEUTRAL.fullmatch(name):
            raise ArchiveError(f"config.json: {where}{name} is {value!r}, and this setting is not supported")
    check_positive(where, stored)


def check_positive(where: str, stored: Mapping[str, Any]) -> None:
    """Raise ArchiveError for a setting of positions or of attention that computes nothing unless it is above 0."""
    for name, value in stored.items():
        if name.startswith("rope_") and isinstance(value, Mapping):
            # Those of each kind of layer may be apart.
            for section in (value, *(part for part in value.values() if isinstance(part, Mapping))):
                check_positive(f"{where}{name}.", section)
        elif name in _POSITIVE and value is not None and not _is_positive(value):
            raise ArchiveError(f"config.json: {where}{name} is {value!r}; it must be a number above 0")


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def check_visible(where: str, stored: Mapping[str, Any], visible: Mapping[str, Any]) -> None:
    """Raise ArchiveError for a setting that contradicts the shapes of the weights.

    visible : what the shapes say
    """
    for name, value in visible.items():
        found = stored.get(name)
        if found is not None and found != value:
            raise ArchiveError(f"config.json: {where}{name} is {found!r}, but the weights have {value!r}")


def complete_settings(kind: str, where: str, stored: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The settings with these names; what a section lacks is the default of transformers.

    kind   : model_type of the network
    where  : the section of config.json
    stored : its settings that are given to transformers; null is the default

    Raises ArchiveError for values that transformers refuses.
    """
    # Imported here because `transformers` takes seconds to import.
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    given = {name: value for name, value in stored.items() if value is not None}
    try:
        config = AutoConfig.for_model(kind, **given)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, StrictDataclassError) as error:
        raise ArchiveError(f"config.json: {where} is not that of a {kind}: {error}") from error
    return {name: getattr(config, name) for name in names}


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least 1."""
    return _is_whole(value) and value > 0


def check_number(name: str, value: Any, default: Any) -> None:
    """Raise ArchiveError for a setting that is not a number of the kind of its default; lists have such numbers.

    name    : of the setting in config.json
    default : a whole number is a count, and in a list it may be 0; another value says nothing about the setting
    """
    if isinstance(default, list):
        if not isinstance(value, list) or not value:
            raise ArchiveError(f"config.json: {name} is {value!r}; it must be a list")
        if _is_whole(default[0]) and not all(_is_whole(one) and one >= 0 for one in value):
            raise ArchiveError(f"config.json: {name} is {value!r}; it must be a list of whole numbers")
    elif _is_whole(default) and not is_count(value):
        raise ArchiveError(f"config.json: {name} is {value!r}; it must be a whole number of at least 1")


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def check_activation(name: str, activation: Any) -> None:
    """Raise ArchiveError for an activation that transformers does not have.

    name : of the setting in config.json
    """
    # Imported here because `transformers` takes seconds to import.
    from transformers.activations import ACT2FN

    if not isinstance(activation, str) or activation not in ACT2FN:
        raise ArchiveError(f"config.json: {name} is {activation!r}, which transformers does not have")
