"""JSON that others have written: its objects have one value for each key, of two of which a parser would drop one."""

import json
import re
import sys
from typing import Any


class RepeatedKey(Exception):
    """A JSON object has two values for one key. Each reader has an error of its own for it.

    key : as it is written there
    """

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def load_json(text: str | bytes | bytearray) -> Any:
    """The value of a JSON text; bytes are UTF-8, or UTF-16 or UTF-32, with a byte order mark or without.

    Raises RepeatedKey for an object with two values for one key, and ValueError for a text that is not valid:
    UnicodeDecodeError, or JSONDecodeError, also for one that is nested too deeply or has an integer of more digits
    than Python reads.
    """
    if not isinstance(text, str):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    try:
        return json.loads(text, object_pairs_hook=_make_object)
    except RecursionError:
        raise json.JSONDecodeError("objects or lists are nested too deeply", text, 0) from None
    except json.JSONDecodeError:
        raise
    except ValueError:
        digits = sys.get_int_max_str_digits()
        # Each run of digits is tried once, from its start.
        found = re.search(rf"(?<!\d)\d{{{digits + 1},}}", text)
        raise json.JSONDecodeError(
            f"an integer has over {digits:,} digits", text, found.start() if found else 0
        ) from None


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            raise RepeatedKey(key)
        members[key] = value
    return members
