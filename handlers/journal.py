"""The log of the handler: the fields of a line, as JSON; handlers/log4j2.xml adds time, program and level.

Callers log numbers and words of this program, and the id of a request, which the client can choose from a small
alphabet (docs/decisions/0036-one-log-format.md).
"""

import json
import logging
import re

logger = logging.getLogger(__name__)

_OTHER = re.compile(r"[^A-Za-z0-9_.:;,()+/ -]")
"""Characters that no line has: handlers/log4j2.xml passes on lines of this form alone."""


def log(event: str, **fields: str | float) -> None:
    """Write one line; of texts other characters are replaced, and what follows the first 200 is left out."""
    shown = {name: _OTHER.sub("?", value)[:200] if isinstance(value, str) else value for name, value in fields.items()}
    logger.info(json.dumps({"event": event, **shown}))
