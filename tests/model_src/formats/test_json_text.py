"""JSON texts as three programs read them: requests, data sets, lists of studies."""

import json

import pytest

from prelim.formats.json_text import RepeatedKey, load_json


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
def test_value_is_the_parsers(encoding: str) -> None:
    """Whatever the encoding, and as text."""
    value = {"a": [1, 2.5, None, {"ä": "\U0001f600"}], "b": True}
    text = json.dumps(value, ensure_ascii=False)
    assert load_json(text) == load_json(text.encode(encoding)) == load_json(bytearray(text.encode(encoding))) == value


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"b": {"a": 1, "c": 2, "a": 3}}]', '{"a": 1, "\\u0061": 2}'])
def test_two_values_for_one_key_are_refused(text: str) -> None:
    """At any depth, however the key is written."""
    with pytest.raises(RepeatedKey) as error:
        load_json(text)
    assert error.value.key == "a"


@pytest.mark.parametrize(
    ("text", "reason", "at"),
    [
        ("[" * 100_000, "nested too deeply", 0),
        ('{"a": ' + "1" * 5000 + "}", "over 4,300 digits", 6),
        ("[" + "1" * 4000 + "," + "2" * 4301 + "]", "over 4,300 digits", 4002),
        ("{", "Expecting", 1),
        ("", "Expecting", 0),
    ],
    ids=["deep", "digits", "digits further on", "cut off", "nothing"],
)
def test_invalid_text_is_one_kind_of_error(text: str, reason: str, at: int) -> None:
    """With the place, for what the parser itself says otherwise."""
    with pytest.raises(json.JSONDecodeError, match=reason) as error:
        load_json(text)
    assert error.value.pos == at


def test_bytes_that_are_no_text_are_a_value_error() -> None:
    """As other invalid texts are, for who catches that."""
    with pytest.raises(UnicodeDecodeError):
        load_json(b'{"a": "\xff"}')
