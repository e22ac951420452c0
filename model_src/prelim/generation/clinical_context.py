"""What a request says of patient and examination besides the images, for models that read it in their prompt."""

import unicodedata
from collections.abc import Mapping
from typing import Any

from prelim.errors import InvalidOption

PRIOR_REPORT = "prior_report"
"""Of an earlier examination, whose image the model may read too."""
CONTEXT = ("indication", "comparison", "age", "sex", "technique", PRIOR_REPORT)
"""Fields of a request; a model accepts those for which its prompt has words."""
MAX_CONTEXT_CHARACTERS = 1000
MAX_PRIOR_REPORT_CHARACTERS = 5000
JOINERS = "\u200c\u200d"
"""Cannot be seen either, but Persian and the scripts of India cannot be written without them."""
MAX_AGE = 120
SEXES = {"M": "male", "F": "female", "O": "other"}
"""Values of PS3.3 C.7.1.1 -> the words of a prompt."""


def read_context(given: Mapping[str, Any]) -> dict[str, str]:
    """The fields of CONTEXT in a request, checked, as words of a prompt; those that are absent or empty are left out.

    Raises InvalidOption, which names the field and never repeats its value.
    """
    if not isinstance(given, Mapping):
        raise InvalidOption(f"context is of type {type(given).__name__}; it must be a mapping of fields", "context")
    if unknown := [name for name in given if name not in CONTEXT]:
        raise InvalidOption(f"context has {unknown[0]!r:.40}; known: {', '.join(CONTEXT)}", "context")
    readers = {"age": _age, "sex": _sex, PRIOR_REPORT: _report}
    words = {name: readers.get(name, _text)(name, given[name]) for name in CONTEXT if given.get(name) is not None}
    return {name: word for name, word in words.items() if word}


def _report(name: str, value: Any) -> str:
    """A text of several lines, as one: prompts have single spaces in their place."""
    words = " ".join(value.split()) if isinstance(value, str) else value
    return _text(name, words, MAX_PRIOR_REPORT_CHARACTERS)


def _text(name: str, value: Any, most: int = MAX_CONTEXT_CHARACTERS) -> str:
    if not isinstance(value, str):
        raise InvalidOption(f"{name} is of type {type(value).__name__}; it must be a text", name)
    if len(value) > most:
        raise InvalidOption(f"{name} has {len(value)} characters; at most {most} are read", name)
    if any(unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp") for one in value if one not in JOINERS):
        raise InvalidOption(f"{name} has a line break or another control character; send it as one line", name)
    return value.strip()


def _age(name: str, value: Any) -> str:
    """Whole years."""
    number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_AGE
    digits = f"{value}".strip() if number or isinstance(value, str) else "?"
    if not digits:
        return ""
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 3 and int(digits) <= MAX_AGE):
        raise InvalidOption(f"{name} must be whole years, 0 to {MAX_AGE}", name)
    return f"{int(digits)}"


def _sex(name: str, value: Any) -> str:
    code = value.strip() if isinstance(value, str) else "?"
    if code not in (*SEXES, ""):
        raise InvalidOption(f"{name} must be one of {', '.join(SEXES)}", name)
    return SEXES.get(code, "")
