"""Options are checked when they are made."""

from typing import Any

import pytest

from prelim.errors import InvalidOption
from prelim.generation.options import GenerationOptions

WRONG = [
    ({"num_beams": 0}, "num_beams is 0; allowed: 1 to 16"),
    ({"num_beams": 17}, "num_beams is 17"),
    ({"num_beams": "two"}, "num_beams is 'two'; it must be a number"),
    ({"num_beams": 1.5}, "must be a whole number"),
    ({"num_beams": "1_6"}, "must be a number"),
    ({"num_beams": "\uff13"}, "must be a number"),
    ({"temperature": "0x1"}, "must be a number"),
    ({"temperature": ""}, "must be a number"),
    ({"num_beams": True}, "must be a number"),
    ({"num_beams": [3]}, "must be a number"),
    ({"temperature": 0}, "temperature is 0.0; allowed: 0.000001 to 100"),
    ({"temperature": "nan"}, "must be a number"),
    ({"temperature": "inf"}, "must be a number"),
    ({"top_k": -1}, "top_k is -1; allowed: 0 to 1000000"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"temperature": 4e-38}, "temperature is 4e-38; allowed: 0.000001 to 100"),
    ({"temperature": 101}, "temperature"),
    ({"top_k": 10**30}, "top_k"),
    ({"top_p": 1e-40}, "top_p is 1e-40; allowed: 0.000001 to 1"),
    ({"repetition_penalty": 1e-40}, "repetition_penalty is 1e-40; allowed: 0.000001 to 100"),
    ({"repetition_penalty": 101}, "repetition_penalty"),
    ({"length_penalty": -5.1}, "length_penalty is -5.1; allowed: -5 to 5"),
    ({"no_repeat_ngram_size": 101}, "no_repeat_ngram_size"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"seed": "9" * 400}, "seed"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"length_penalty": 11}, "length_penalty"),
    ({"early_stopping": "sometimes"}, "early_stopping is 'sometimes'; it must be true, false or never"),
    ({"do_sample": "maybe"}, "do_sample"),
    ({"do_sample": 2}, "do_sample"),
    ({"max_new_tokens": 0}, "max_new_tokens"),
    ({"max_new_tokens": 10**9}, "max_new_tokens"),
    ({"min_new_tokens": 300}, "min_new_tokens is 300; allowed: 0 to max_new_tokens"),
    ({"num_return_sequences": 2}, "for more set num_beams or do_sample"),
    ({"num_return_sequences": 4, "num_beams": 3}, "1 to num_beams"),
    ({"stop": [""]}, "stop"),
    ({"stop": "x" * 65}, "stop"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop": {"a": 1}}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"beams": 3}, "unknown option 'beams'; known: num_beams, do_sample"),
]


@pytest.mark.parametrize(("mapping", "message"), WRONG)
def test_wrong_value_is_explained(mapping: dict[str, Any], message: str) -> None:
    """A wrong option raises InvalidOption with its name, its value and what is allowed."""
    with pytest.raises(InvalidOption) as raised:
        GenerationOptions.from_mapping(mapping)

    assert message in str(raised.value)
    assert len(str(raised.value)) < 400


def test_text_and_json_values_mean_the_same() -> None:
    """Form fields, which are text, give the options that JSON values give."""
    values = {
        "num_beams": 3,
        "temperature": 0.5,
        "do_sample": True,
        "early_stopping": "never",
        "stop": ["###"],
        "seed": 7,
    }
    texts = {"num_beams": "3", "temperature": "0.5", "do_sample": "true", "early_stopping": "never", "stop": "###"}

    assert GenerationOptions.from_mapping(texts | {"seed": "7"}) == GenerationOptions.from_mapping(values)


def test_what_is_not_given_is_the_default_of_the_model() -> None:
    """Options that a request leaves out are those of model.yaml."""
    defaults = GenerationOptions(num_beams=5, no_repeat_ngram_size=2)

    options = GenerationOptions.from_mapping({"max_new_tokens": 10}, defaults)

    assert options == GenerationOptions(num_beams=5, no_repeat_ngram_size=2, max_new_tokens=10)


def test_large_seeds_keep_their_last_digit() -> None:
    """A seed beyond the precision of a float is taken exactly."""
    assert GenerationOptions.from_mapping({"seed": "9007199254740993"}).seed == 9007199254740993
