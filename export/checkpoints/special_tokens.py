"""Special tokens of an imported decoder, and whether its tokenizer fits it."""

from collections.abc import Sequence
from typing import Any

from export.checkpoints.record import ImportRecord
from export.checkpoints.settings import SettingsFile, generation_config
from prelim.errors import ArchiveError
from prelim.networks.architectures.architecture import Published, Section
from prelim.networks.architectures.facts import Facts

MAX_PADDING = 512
"""Rows without a token that a table may have: published tables are padded to multiples of up to this."""


def special_tokens(
    published: Published, decoder: Section, facts: Facts, settings: Sequence[SettingsFile], record: ImportRecord
) -> dict[str, Section]:
    """Sections `tokenizer` and `prompt` for a decoder with special tokens of its own.

    decoder : section of model.yaml
    returns : the published sections with the special tokens of config.json and generation_config.json; empty if they
              have none

    Raises ArchiveError if the vocabulary is not the published one and there is no end-of-text token in these files, and
    for a token at the start or end that the decoder does not have.
    """
    foreign = published.vocabulary not in (None, decoder.get("vocab_size"))
    found = _stored(published, facts, settings)
    if not foreign:
        # The published padding is a token of its own, which the published config.json does not name.
        found.pop("pad_token_id", None)
    if not found and not (foreign and facts.config):
        return {}
    own = {**published.defaults["tokenizer"], **found}
    if foreign:
        own = {"bos_token_id": own["bos_token_id"], "pad_token_id": None, "eos_token_id": own["eos_token_id"], **found}
    start, end, padding = (own[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id"))
    ends = end if isinstance(end, list) else [end]
    size = decoder["vocab_size"]
    if not ends or not all(_is_token(one, size) for one in ends):
        raise ArchiveError(
            f"eos_token_id is {end!r} in the decoder's config.json; it must be the id, or a list of ids, of end-of-text"
            f" tokens below {size}, because the published ids are not valid for this vocabulary"
        )
    if start is not None and not _is_token(start, size):
        raise ArchiveError(
            f"bos_token_id is {start!r} in the decoder's config.json; it must be null or the id of a token below "
            f"{size}. Correct it there, or resize the decoder's table if tokens were added"
        )
    if padding is not None and not _is_token(padding, size):
        record.assume(f"pad_token_id = {ends[0]}: {padding!r} is not a token below {size}, and padding is never read")
        padding = None
    tokens = {
        "bos_token_id": ends[0] if start is None else start,
        "eos_token_id": ends if len(ends) > 1 else ends[0],
        "pad_token_id": ends[0] if padding is None else padding,
    }
    if "prompt" not in published.defaults:
        return {"tokenizer": tokens}
    prompt = dict(published.defaults["prompt"])
    if "bos_token_id" in prompt:
        prompt["bos_token_id"] = start
    if prompt.get("start_ids") == [published.defaults["tokenizer"]["bos_token_id"]]:
        prompt["start_ids"] = [] if start is None else [start]
    return {"tokenizer": tokens, "prompt": prompt}


def _is_token(value: Any, size: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < size


START = "decoder_start_token_id"


def _without_nulls(config: Section) -> Section:
    return {name: value for name, value in config.items() if value is not None}


def _stored(published: Published, facts: Facts, settings: Sequence[SettingsFile]) -> dict[str, Any]:
    """The ids in the files. Texts begin and end as generation_config.json says, by which `generate` goes."""
    config = {
        **(facts.config.get("decoder") or {}),
        **_without_nulls(facts.config),
        **(facts.config.get("text_config") or {}),
    }
    generation = generation_config(settings) or {}
    found = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in config}
    end = config if published.ends_by != "eos_token_id" else generation
    if end.get(published.ends_by) is not None:
        found["eos_token_id"] = end[published.ends_by]
    # The first token that a decoder with cross-attention reads.
    for contents in (config, generation):
        for name in ("bos_token_id", START):
            if facts.config.get("decoder") and contents.get(name) is not None:
                found["bos_token_id"] = contents[name]
    # Null, or -1 in old files, means no token of its own; only the one at the start can be left out.
    return {name: value for name, value in found.items() if value not in (None, -1) or name == "bos_token_id"}


def check_vocabulary(size: int, vocab_size: int, record: ImportRecord) -> None:
    """Compare the sizes of tokenizer and decoder.

    Raises ArchiveError if the tokenizer has more tokens than the decoder, or so many less that it is another one's.
    """
    if size > vocab_size or vocab_size - size >= MAX_PADDING:
        raise ArchiveError(
            f"the tokenizer has {size} tokens, the decoder {vocab_size}; they are from different models, or the "
            "decoder's table was not resized after tokens were added"
        )
    if size < vocab_size:
        record.assume(f"the decoder's last {vocab_size - size} rows are padding: the tokenizer has {size} tokens")
