"""Defaults are those of `generate`, and each bound is allowed while the next value is not."""

import dataclasses
from typing import Any

import pytest
from transformers import GenerationConfig

from prelim.errors import InvalidOption
from prelim.generation.options import GenerationOptions

OURS = {"seed": None, "stop": (), "banned_phrases": (), "grammar": "", "max_new_tokens": 256, "top_k": 50}
"""The first are not in GenerationConfig; `generate` has max_length 20; top_k 50 was its default before 5.0."""


def test_defaults_are_those_of_generate() -> None:
    """Options that a request leaves out mean what they mean in `generate`."""
    theirs = GenerationConfig()
    filled = {
        "num_beams": 1, "do_sample": False, "temperature": 1.0, "top_p": 1.0, "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0, "length_penalty": 1.0, "early_stopping": False, "min_new_tokens": 0,
        "num_return_sequences": 1,
    }  # fmt: skip
    for name, value in filled.items():
        given = getattr(theirs, name)
        assert given is None or given == value, name

    assert dataclasses.asdict(GenerationOptions()) == filled | OURS


BOUNDS: list[tuple[str, Any, Any]] = [
    ("num_beams", 1, 0),
    ("num_beams", 16, 17),
    ("temperature", 1e-6, 0.99e-6),
    ("temperature", 100.0, 100.5),
    ("top_k", 0, -1),
    ("top_k", 1_000_000, 1_000_001),
    ("top_p", 1e-6, 0.99e-6),
    ("top_p", 1.0, 1.000001),
    ("seed", 0, -1),
    ("seed", 2**63 - 1, 2**63),
    ("repetition_penalty", 1e-6, 0.99e-6),
    ("repetition_penalty", 100.0, 100.5),
    ("no_repeat_ngram_size", 0, -1),
    ("no_repeat_ngram_size", 100, 101),
    ("length_penalty", 5.0, 5.01),
    ("length_penalty", -5.0, -5.01),
    ("max_new_tokens", 1, 0),
    ("max_new_tokens", 16384, 16385),
    ("min_new_tokens", 0, -1),
    ("min_new_tokens", 256, 257),
    ("stop", ("x",) * 16, ("x",) * 17),
    ("stop", ("x" * 64,), ("x" * 65,)),
    ("stop", ("x",), ("",)),
    ("banned_phrases", ("x",) * 64, ("x",) * 65),
    ("banned_phrases", ("x" * 64,), ("x" * 65,)),
    ("banned_phrases", ("x",), (" ",)),
    ("grammar", "x" * 8192, "x" * 8193),
    ("early_stopping", "never", "always"),
]


@pytest.mark.parametrize(("name", "allowed", "refused"), BOUNDS)
def test_bounds(name: str, allowed: Any, refused: Any) -> None:
    """The last allowed value is taken, and the next one is an InvalidOption that names the option."""
    assert getattr(GenerationOptions(**{name: allowed}), name) == allowed
    with pytest.raises(InvalidOption, match=rf"^{name} is "):
        GenerationOptions(**{name: refused})


@pytest.mark.parametrize(
    ("options", "most"),
    [({}, 1), ({"do_sample": True}, 16), ({"num_beams": 3}, 3), ({"num_beams": 3, "do_sample": True}, 3)],
)
def test_number_of_reports_has_a_bound(options: dict[str, Any], most: int) -> None:
    """Greedy search gives one report, sampling up to 16, beam search one for each beam."""
    assert GenerationOptions(**options, num_return_sequences=most).num_return_sequences == most
    for wrong in (0, most + 1):
        with pytest.raises(InvalidOption, match=r"^num_return_sequences is "):
            GenerationOptions(**options, num_return_sequences=wrong)


@pytest.mark.parametrize(
    ("options", "rows"),
    [({}, 1), ({"num_beams": 4, "num_return_sequences": 2}, 4), ({"do_sample": True, "num_return_sequences": 3}, 3)],
)
def test_rows_are_beams_or_draws(options: dict[str, Any], rows: int) -> None:
    """Sequences that are decoded side by side: beams, or independent draws."""
    assert GenerationOptions(**options).rows == rows


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("do_sample", "TRUE ", True),
        ("do_sample", "1", True),
        ("do_sample", " false", False),
        ("do_sample", "0", False),
        ("do_sample", False, False),
        ("num_beams", "3", 3),
        ("num_beams", 3.0, 3),
        ("num_beams", "3.0", 3),
        ("num_beams", " +3", 3),
        ("temperature", "2.5", 2.5),
        ("seed", None, None),
        ("seed", "-0", 0),
        ("early_stopping", "true", True),
        ("early_stopping", "never", "never"),
        ("stop", "###", ("###",)),
        ("stop", ["a", "b"], ("a", "b")),
    ],
)
def test_values_are_parsed(name: str, given: Any, value: Any) -> None:
    """Text and JSON values give the same option, of the same type."""
    parsed = getattr(GenerationOptions.from_mapping({name: given}), name)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("do_sample", "yes", "must be true or false"),
        ("do_sample", 1, "must be true or false"),
        ("num_beams", "3.5", "must be a whole number"),
        ("num_beams", False, "must be a number"),
        ("temperature", None, "must be a number"),
        ("temperature", "1e999", "must be a number"),
        ("temperature", 10**400, "must be a number"),
        ("stop", b"a", "must be a string or a list of strings"),
        ("stop", {"a": "b"}, "must be a string or a list of strings"),
        ("stop", ["a", 1], "must be a string or a list of strings"),
        ("stop", 1, "must be a string or a list of strings"),
    ],
)
def test_what_cannot_be_parsed_is_refused(name: str, given: Any, message: str) -> None:
    """A value of another type raises InvalidOption with the option's name."""
    with pytest.raises(InvalidOption, match=f"^{name} is .*{message}"):
        GenerationOptions.from_mapping({name: given})


def test_white_space_around_numbers_does_not_matter() -> None:
    """Also what `str.strip` takes for it and `float` does not."""
    given = {"max_new_tokens": " 12\x1c", "temperature": "\x1f0.5\x1e", "num_beams": "\t3.0\n"}
    read = GenerationOptions.from_mapping(given)
    assert (read.max_new_tokens, read.temperature, read.num_beams) == (12, 0.5, 3)
