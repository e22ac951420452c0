"""The lines of an audit log: numbered, chained and sealed.

Each line is a JSON object that ends with two members. `before` is the sha256 of the line before, 64 zeros in the first;
`seal` is the keyed digest of the line without it.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import Any

from prelim.audit.key import AuditKey
from prelim.errors import AuditError

FIRST = "0" * 64
"""What the first line has as the hash of the line before."""

_END = re.compile(rb',"seal":"([0-9a-f]{64})"}\n\Z')


def hash_of(line: bytes) -> str:
    """What the next line says of this one, its line end included."""
    return hashlib.sha256(line).hexdigest()


def seal_line(number: int, before: str, fields: Mapping[str, Any], key: AuditKey) -> bytes:
    """A line, with its end.

    number : from 1
    before : hash of the line before
    """
    contents = {"line": number, **fields, "before": before}
    body = json.dumps(contents, separators=(",", ":"), allow_nan=False).encode()
    return body[:-1] + b',"seal":"' + key.digest("line", body).encode() + b'"}\n'


def open_line(line: bytes, number: int, before: str, key: AuditKey) -> dict[str, Any]:
    """The fields of a line. Raises AuditError unless it is the line that was written in this place with this key."""
    end = _END.search(line)
    if end is None:
        raise AuditError("it does not end as a line does")
    body = line[: end.start()] + b"}"
    if not hmac.compare_digest(end[1].decode(), key.digest("line", body)):
        raise AuditError("its seal does not fit: it was changed, or written with another key")
    fields = dict(json.loads(body))
    if fields["line"] != number:
        raise AuditError(f"it is line {fields['line']}: lines are missing, doubled or in another order")
    if fields["before"] != before:
        raise AuditError("the line before it is another than the one it was written after")
    return fields
