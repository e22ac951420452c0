"""Content-Type of a request, as nginx reads it and as TorchServe gets it.

TorchServe does not read the type of a form as RFC 9110 (8.3.1) has it: only in small letters, with at most two
parameters, and with a charset that it looks up; if there is none of that name it answers 403. So it gets one spelling.
"""

# Nothing is given back once it is matched: a header of a kilobyte that does not match must not take long.
_TEXT = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_VALUE = rf'(?:{_TEXT}|"(?:[^"\\]|\\.)*+")'
_SEMICOLON = r"[ \t]*+;[ \t]*+"
_OTHER = rf'{_SEMICOLON}(?:(?!boundary=|charset=){_TEXT}={_VALUE}|charset=(?:"utf-?8"|utf-?8))?'
"""A parameter besides the boundary. Forms have no charset (RFC 7578), but some clients name the one that is read."""

_BOUNDARY = r"[!#$%&'()*+,./:=?^_`|~0-9A-Za-z-]"
"""A character of a boundary: those of RFC 2046 (5.1.1), and the others of a token, which clients use."""
_BARE = rf"(?<bare>{_BOUNDARY}{{1,70}})"
_QUOTED = rf'"(?<quoted>(?:{_BOUNDARY}| ){{0,69}}{_BOUNDARY})"'


def body_types() -> str:
    """The lines of the map from a client's Content-Type to the one that TorchServe gets, "" for a form to be refused.

    Without a type TorchServe would take a body for a web form, fail, and quote it in the answer.
    """
    return "\n        ".join(
        (
            "default application/octet-stream;",
            "~*^application/json application/json;",
            f'{_form(_BARE)} "multipart/form-data; boundary=$bare";',
            f'{_form(_QUOTED)} "multipart/form-data; boundary=\\"$quoted\\"";',
            '~*^multipart/ "";',
        )
    )


def _form(boundary: str) -> str:
    """The type of a form with such a boundary: a regular expression without case, as nginx's configuration has it."""
    expression = rf"^multipart/form-data(?:{_OTHER})*{_SEMICOLON}boundary={boundary}(?:{_OTHER})*[ \t]*+$"
    return '"~*' + expression.replace("\\", "\\\\").replace('"', '\\"') + '"'
