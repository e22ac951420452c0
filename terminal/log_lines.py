"""Lines of a log: one JSON object each, with time, program and event (docs/decisions/0036-one-log-format.md)."""

import json
import time

Value = str | int | float | bool | None


def format_line(program: str, event: str, **fields: Value) -> str:
    """A line, without its end. Whoever logs makes sure that no field can identify anybody."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps({"time": now, "program": program, "event": event, **fields})


def readable(lines: str) -> str:
    """The text of logged lines for people: messages as they are, other events with their fields."""
    return "\n".join(_readable(line) for line in lines.split("\n"))


def _readable(line: str) -> str:
    try:
        fields = json.loads(line)
    except ValueError:
        return line
    if not isinstance(fields, dict) or "event" not in fields:
        return line
    if "message" in fields:
        return f"{fields.get('level', '')} {fields['message']}".strip()
    shown = (f"{name}={value}" for name, value in fields.items() if name not in ("time", "program", "level", "event"))
    return " ".join((str(fields["event"]), *shown))
