"""Section `generation` of an imported folder, setting by setting."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from transformers import GenerationConfig

from export.checkpoints.generation_defaults import (
    LENGTHS,
    NEUTRAL,
    OPTIONS,
    SPECIAL_TOKENS,
    SWITCHED_OFF,
    SWITCHED_OFF_WHEN_SAMPLING,
    generation_defaults,
)
from export.checkpoints.record import ImportRecord
from export.checkpoints.settings import SettingsFile
from prelim.errors import ArchiveError
from prelim.generation.options import MAX_NEW_TOKENS, GenerationOptions
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.architectures.facts import Facts

CROSS = {"add_cross_attention": True, "n_positions": 200}
CAUSAL = {"max_position_embeddings": 4096}
WHOLE = [name for name, architecture in ARCHITECTURES.items() if architecture.published.whole_config]


def defaults(
    generation: Mapping[str, Any] | None,
    *,
    decoder: Mapping[str, Any] = CROSS,
    config: Mapping[str, Any] | None = None,
    record: ImportRecord | None = None,
    system: str = "encoder_decoder",
    **options: Any,
) -> Mapping[str, Any]:
    """The section of a folder with this generation_config.json; None has no such file."""
    files = [] if generation is None else [SettingsFile("folder/generation_config.json", generation)]
    facts = Facts(options, {"model_type": "vision-encoder-decoder", **(config or {})})
    found = generation_defaults(
        ARCHITECTURES[system].published, decoder, facts, files, ImportRecord() if record is None else record
    )
    return found.get("generation", {})


def test_every_setting_of_transformers_is_in_one_table() -> None:
    """A setting is an option here, a length, a token, refused or neutral; none is two of them."""
    tables = [OPTIONS, LENGTHS, SPECIAL_TOKENS, SWITCHED_OFF, SWITCHED_OFF_WHEN_SAMPLING, NEUTRAL]
    known = [name for table in tables for name in table]

    assert len(known) == len(set(known))
    assert GenerationConfig().to_dict().keys() - set(known) == set()
    assert set(OPTIONS.values()) <= {field.name for field in dataclasses.fields(GenerationOptions)}


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({}, {"max_new_tokens": 128}),
        ({"num_beams": 4, "early_stopping": True, "length_penalty": 2.0}, {"num_beams": 4, "early_stopping": True}),
        (
            {"no_repeat_ngram_size": 3, "repetition_penalty": 1.2},
            {"no_repeat_ngram_size": 3, "repetition_penalty": 1.2},
        ),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, {"do_sample": True, "temperature": 0.6, "top_p": 0.9}),
        ({"stop_strings": ["END"]}, {"stop": ["END"]}),
        # The start token is the first of a length.
        ({"max_length": 60, "min_length": 5}, {"max_new_tokens": 59, "min_new_tokens": 4}),
        ({"max_length": 60, "max_new_tokens": 30}, {"max_new_tokens": 30}),
        ({"min_length": 60, "min_new_tokens": 3}, {"min_new_tokens": 3}),
        ({"max_length": 20}, {"max_new_tokens": 19}),
    ],
)
def test_options_are_those_of_the_file(generation: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each setting becomes the option with its meaning."""
    found = defaults(generation)

    assert found.items() >= expected.items()
    assert GenerationOptions.from_mapping(found).max_new_tokens == found["max_new_tokens"]


@pytest.mark.parametrize("name", SWITCHED_OFF)
def test_settings_that_are_not_supported_are_refused_by_name(name: str) -> None:
    """A value that changes the report is refused, null and the values that switch it off are not."""
    with pytest.raises(ArchiveError, match=rf"generation_config\.json: {name} is 7.*allowed: null"):
        defaults({name: 7})

    plain = defaults({})
    assert [defaults({name: off}) for off in (None, *SWITCHED_OFF[name])] == [plain] * (1 + len(SWITCHED_OFF[name]))


@pytest.mark.parametrize("name", SWITCHED_OFF_WHEN_SAMPLING)
def test_settings_of_sampling_are_refused_in_folders_that_sample(name: str) -> None:
    """Without sampling they change nothing, which the import prints."""
    with pytest.raises(ArchiveError, match=f"{name} is 0.1"):
        defaults({name: 0.1, "do_sample": True})

    record = ImportRecord()
    assert defaults({name: 0.1}, record=record) == defaults({})
    assert f"assumed: {name} = 0.1" in record.assumed[0]
    assert defaults({name: SWITCHED_OFF_WHEN_SAMPLING[name][0], "do_sample": True})["do_sample"] is True


@pytest.mark.parametrize("name", sorted(NEUTRAL | set(SPECIAL_TOKENS)))
def test_neutral_settings_change_nothing(name: str) -> None:
    """Neither does the file of an old version."""
    assert defaults({name: 7}) == defaults({})


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"chat_format": "raw"}, r"generation_config\.json: chat_format is 'raw'"),
        ({"num_beams": 40}, r"num_beams is 40; allowed: 1 to 16"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences is 3"),
        ({"num_return_sequences": 2}, "num_return_sequences is 2"),
        ({"do_sample": True, "temperature": 0.0}, r"temperature is 0\.0"),
        ({"max_length": "20"}, "max_length is '20'; allowed: integers"),
        ({"max_length": True}, "max_length is True"),
        ({"max_new_tokens": 10, "min_new_tokens": 20}, "min_new_tokens is 20"),
        ({"early_stopping": "maybe"}, "early_stopping is 'maybe'"),
        ({"renormalize_logits": 0}, "renormalize_logits is 0"),
    ],
)
def test_other_values_are_refused_by_name(generation: dict[str, Any], message: str) -> None:
    """What generate would do with it is not known here."""
    with pytest.raises(ArchiveError, match=message):
        defaults(generation)


def test_values_for_sampling_may_be_anything_in_a_folder_that_does_not_sample() -> None:
    """`temperature: 0.0` is in many folders with greedy reports."""
    record = ImportRecord()

    assert defaults({"temperature": 0.0}, record=record) == defaults({})
    assert "temperature of generation_config.json is not applied" in record.assumed[0]
    assert defaults({"temperature": 0.2})["temperature"] == 0.2


def test_a_length_that_cannot_be_served_is_shortened_in_the_record() -> None:
    """A decoder has so many positions, and a request so many tokens."""
    record = ImportRecord()

    assert defaults({"max_length": 500}, record=record)["max_new_tokens"] == 200
    assert "generation.max_new_tokens = 200" in record.assumed[0]
    assert defaults({}, decoder={**CROSS, "n_positions": 80})["max_new_tokens"] == 80
    assert defaults({"max_new_tokens": 5000}, decoder=CAUSAL)["max_new_tokens"] == 4096
    assert defaults({"max_new_tokens": 10**9}, decoder={})["max_new_tokens"] == MAX_NEW_TOKENS


def test_lengths_with_a_prompt_are_not_applied() -> None:
    """They count the prompt, whose length depends on the request."""
    record = ImportRecord()

    found = defaults({"max_length": 4096, "min_length": 0}, decoder=CAUSAL, record=record, system="llava")

    assert found == {"max_new_tokens": 512}
    assert [text.split(" of ")[0] for text in record.assumed] == ["assumed: max_length = 4096"]


def test_old_folders_keep_them_in_their_config() -> None:
    """Without a generation_config.json the decoder's part of config.json is read, and that of the whole before it."""
    config = {"num_beams": 3, "decoder": {"num_beams": 2, "max_length": 50, "length_penalty": None, "n_embd": 8}}

    assert defaults(None, config=config) == {"num_beams": 3, "max_new_tokens": 49}
    assert defaults({}, config=config) == {"max_new_tokens": 128}
    with pytest.raises(ArchiveError, match=r"config\.json: bad_words_ids is"):
        defaults(None, config={"decoder": {"bad_words_ids": [[3]]}})
    # Old versions wrote it into every file.
    assert defaults(None, config={"decoder": {"max_length": 20}}) == {"max_new_tokens": 128}


def test_an_option_of_the_import_wins() -> None:
    """As for every value that files give."""
    assert defaults({"max_length": 60}, **{"generation.max_new_tokens": 40})["max_new_tokens"] == 40


def test_a_folder_of_the_decoder_alone_says_nothing_of_the_system() -> None:
    """The published system's own options hold where the decoder is of the user's choice."""
    others = set(ARCHITECTURES) - set(WHOLE)

    assert WHOLE
    assert [defaults({"num_beams": 3}, decoder=CAUSAL, system=name) for name in others] == [{}] * len(others)
