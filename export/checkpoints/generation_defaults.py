"""Section `generation` of model.yaml: what `generate` of transformers does with a folder if no option is given.

Source: GenerationConfig of transformers 5, whose names are older than its versions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from export.checkpoints.record import ImportRecord
from export.checkpoints.settings import CONFIG, GENERATION, SettingsFile, generation_config
from prelim.errors import ArchiveError, InvalidOption
from prelim.generation.options import MAX_NEW_TOKENS, GenerationOptions
from prelim.networks.architectures.architecture import Published, Section
from prelim.networks.architectures.facts import Facts

OPTIONS: Mapping[str, str] = {
    **{name: name for name in ("num_beams", "early_stopping", "length_penalty", "num_return_sequences")},
    **{name: name for name in ("do_sample", "temperature", "top_k", "top_p")},
    **{name: name for name in ("repetition_penalty", "no_repeat_ngram_size")},
    "stop_strings": "stop",
}
"""Their setting -> our option with the same meaning."""

LENGTHS = ("max_length", "min_length", "max_new_tokens", "min_new_tokens")
"""Lengths of the report, the first two with the tokens before it."""

SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""Read by `special_tokens`."""

SWITCHED_OFF: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("renormalize_logits", "remove_invalid_values", "token_healing"), (False,)),
    **{name: ([],) for name in ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias")},
    **{name: ([],) for name in ("constraints", "force_words_ids")},
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty"), ()),
    **dict.fromkeys(("watermarking_config", "max_time", "dola_layers", "assistant_ensemble_weight"), ()),
    **dict.fromkeys(("encoder_repetition_penalty", "guidance_scale", "num_beam_groups"), (1.0,)),
    **dict.fromkeys(("encoder_no_repeat_ngram_size", "diversity_penalty", "penalty_alpha"), (0.0,)),
    "cache_implementation": ("dynamic", "static", "offloaded", "offloaded_static", "hybrid", "sliding_window"),
    "cache_config": ({},),
}
"""Settings that change a report and are not supported -> values with which they do not, besides null."""

SWITCHED_OFF_WHEN_SAMPLING: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("min_p", "epsilon_cutoff", "eta_cutoff"), (0.0,)),
    **dict.fromkeys(("typical_p", "top_h"), (1.0,)),
}
"""The same, of settings that only sampling reads."""

NEUTRAL = frozenset(
    {
        # What comes with the tokens.
        *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
        # Time and memory. Assistants do not change a greedy report, nor the distribution of a drawn one.
        *("use_cache", "max_cache_len", "low_memory", "prefill_chunk_size", "continuous_batching_config"),
        *("compile_config", "disable_compile", "use_mtp", "speculation_type", "is_assistant", "num_assistant_tokens"),
        *("num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_early_exit"),
        *("assistant_lookbehind", "target_lookbehind", "prompt_lookup_num_tokens", "max_matching_ngram_size"),
        # About the file.
        *("transformers_version", "_from_model_config", "_commit_hash", "_original_object_hash"),
    }
)
"""Settings that do not change a report."""

_DEFAULT_LENGTH = 20
"""`max_length` in every config.json of transformers 4."""


def generation_defaults(
    published: Published, decoder: Section, facts: Facts, settings: Sequence[SettingsFile], record: ImportRecord
) -> dict[str, Section]:
    """Section `generation` of a folder that describes the whole system.

    decoder : section of model.yaml
    returns : the section under its name; empty without a config.json, for a system with a decoder of its own choice,
              and for one that infers the section from its weights

    Raises ArchiveError for a setting that changes the report and is not supported.
    """
    if not published.whole_config or not facts.config or "generation" not in published.defaults:
        return {}
    stored = _stored(facts, settings)
    sampling = stored.values.get("do_sample") is True
    options: dict[str, Any] = {}
    for name, value in stored.values.items():
        if name in OPTIONS:
            if _is_applied(OPTIONS[name], value, stored, record, sampling=sampling):
                options[OPTIONS[name]] = value
        elif name not in (*LENGTHS, *SPECIAL_TOKENS) and name not in NEUTRAL:
            stored.check_off(name, value, record, sampling=sampling)
    options |= _lengths(published, decoder, facts, stored, record)
    section = {**published.defaults["generation"], **options}
    stored.check_options(section)
    return {"generation": section}


@dataclass(frozen=True)
class _Stored:
    """Settings of generation that are not null, and the name of their file."""

    file: str
    values: Mapping[str, Any]

    def check_options(self, options: Section) -> None:
        """Raise ArchiveError for a value that is not allowed."""
        try:
            GenerationOptions.from_mapping(options)
        except InvalidOption as error:
            raise ArchiveError(f"{self.file}: {error}") from error

    def check_off(self, name: str, value: Any, record: ImportRecord, *, sampling: bool) -> None:
        """Raise ArchiveError unless a setting that is not supported changes nothing."""
        drawn = name in SWITCHED_OFF_WHEN_SAMPLING
        known = {**SWITCHED_OFF, **SWITCHED_OFF_WHEN_SAMPLING}
        if any(value == off and isinstance(value, bool) == isinstance(off, bool) for off in known.get(name, ())):
            return
        if drawn and not sampling:
            record.assume(f"{name} = {value!r} of {self.file} is not applied; only requests that sample would read it")
            return
        allowed = ", ".join(["null", *map(repr, known.get(name, ()))])
        raise ArchiveError(
            f"{self.file}: {name} is {value!r}, which is not supported; allowed: {allowed}. Without it, reports differ "
            "from those of generate"
        )


def _stored(facts: Facts, settings: Sequence[SettingsFile]) -> _Stored:
    """The settings of generation_config.json; where there is none, those that old versions kept in config.json."""
    found = generation_config(settings)
    if found is not None:
        return _Stored(GENERATION, {name: value for name, value in found.items() if value is not None})
    text = facts.config.get("decoder") or facts.config.get("text_config") or {}
    named = (*OPTIONS, *LENGTHS, *SWITCHED_OFF, *SWITCHED_OFF_WHEN_SAMPLING)
    values = {name: value for part in (text, facts.config) for name, value in part.items() if value is not None}
    values = {name: value for name, value in values.items() if name in named}
    if values.get("max_length") == _DEFAULT_LENGTH:
        del values["max_length"]
    return _Stored(CONFIG, values)


def _is_applied(option: str, value: Any, stored: _Stored, record: ImportRecord, *, sampling: bool) -> bool:
    """Whether an option is taken: one for sampling alone may have any value in a folder that does not sample."""
    if sampling or option not in ("temperature", "top_k", "top_p"):
        return True
    try:
        GenerationOptions.from_mapping({option: value})
    except InvalidOption as error:
        record.assume(f"{option} of {stored.file} is not applied: {error}")
        return False
    return True


def _lengths(
    published: Published, decoder: Section, facts: Facts, stored: _Stored, record: ImportRecord
) -> dict[str, int]:
    """`max_new_tokens` and `min_new_tokens`.

    A decoder with cross-attention reads one token before its report. How many the others read depends on the prompt.
    """
    values = {name: stored.values[name] for name in LENGTHS if name in stored.values}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise ArchiveError(f"{stored.file}: {name} is {value!r}; allowed: integers")
    for end in ("max", "min"):
        length = values.pop(f"{end}_length", None)
        if length is None or f"{end}_new_tokens" in values:
            continue
        if decoder.get("add_cross_attention"):
            values[f"{end}_new_tokens"] = max(length - 1, 0)
        elif length > 0:
            record.assume(
                f"{end}_length = {length} of {stored.file} counts the tokens of the prompt; it is not applied"
            )
    most = min(MAX_NEW_TOKENS, _positions(decoder))
    given = published.defaults["generation"]["max_new_tokens"]
    wanted = facts.value("generation.max_new_tokens", min(given, most), stored=values.get("max_new_tokens"))
    if wanted > most:
        record.assume(f"generation.max_new_tokens = {most}, the most that is served here; {stored.file} has {wanted}")
    least = values.get("min_new_tokens", 0)
    return {**({"min_new_tokens": least} if least else {}), "max_new_tokens": min(wanted, most)}


def _positions(decoder: Section) -> int:
    """Tokens that a decoder can tell apart; its image may need some of them."""
    found = decoder.get("n_positions", decoder.get("max_position_embeddings"))
    return found if isinstance(found, int) else MAX_NEW_TOKENS
