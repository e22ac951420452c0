"""What the gateway counts for Prometheus, which nginx serves at /metrics/gateway as a file.

The counts are those of the access log, read as it grows: requests that are refused before TorchServe are in no metric
of TorchServe.
"""

import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from launcher.console import LIMIT, set_aside

PAGE = "metrics.txt"

HELP = {
    "prelim_gateway_requests_total": "Answered requests, by route and status code.",
    "prelim_gateway_repeated_total": "Requests that were sent to a worker or a host a second time.",
    "prelim_gateway_open": "1 while requests are let in, 0 while the door is closed.",
    "prelim_gateway_places": "Requests that the server can have at a time.",
    "prelim_gateway_open_requests": "Requests that are not answered, uploads included: those that a stop waits for.",
    "prelim_gateway_waiting": "Requests in TorchServe's queue, which no worker has seen.",
    "prelim_gateway_ready_workers": "Workers of the default model that are ready.",
    "prelim_gateway_key_expires_timestamp_seconds": "When TorchServe's inference key expires, in seconds since 1970.",
}
"""Name -> what it is. Labels are bounded: routes are words of nginx's configuration, codes are statuses of HTTP."""

INTERVAL_S = 2.0
"""Seconds between two pages."""


class Meter:
    """Counts the lines of an access log, from its end at the beginning, and begins another file when it is full.

    folder : of nginx's files
    log    : the access log
    """

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder = folder
        self._log = log
        self._requests: Counter[tuple[str, int]] = Counter()
        self._repeated = 0
        self._position = log.stat().st_size if log.exists() else 0
        self._rest = b""
        self._written = -math.inf

    def write(self, read_gauges: Callable[[], Mapping[str, float]]) -> bool:
        """Write the page, if the one before is old.

        read_gauges : returns name -> value, names of HELP

        returns : whether the log was full and has been set aside, so that nginx must open a new one
        """
        if time.monotonic() - self._written < INTERVAL_S:
            return False
        self._written = time.monotonic()
        is_full = self._read()
        new = self._folder / f".{PAGE}.new"
        # On a full disk the page before remains.
        with contextlib.suppress(OSError):
            new.write_text("\n".join([*self._lines(read_gauges()), ""]), encoding="utf-8")
            new.replace(self._folder / PAGE)
        if is_full:
            # What nginx still writes to the old file, in the moment before it opens the new one, is not counted.
            set_aside(self._log)
            self._position, self._rest = 0, b""
        return is_full

    def _read(self) -> bool:
        """Count the lines that are new; returns whether the file is full."""
        if not self._log.exists():
            return False
        with self._log.open("rb") as file:
            file.seek(self._position)
            *lines, self._rest = (self._rest + file.read()).split(b"\n")
            self._position = file.tell()
        for line in lines:
            self._count(line)
        return self._position > LIMIT

    def _count(self, line: bytes) -> None:
        try:
            fields = json.loads(line)
            key = str(fields["route"] or "none"), int(fields["code"])
            again = any(separator in fields["server_codes"] for separator in (" : ", ", "))
        except (ValueError, LookupError, TypeError):
            return
        self._requests[key] += 1
        self._repeated += again

    def _lines(self, gauges: Mapping[str, float]) -> Iterator[str]:
        requests = sorted(self._requests.items())
        name = "prelim_gateway_requests_total"
        samples = {name: [f'{name}{{route="{route}",code="{code}"}} {count}' for (route, code), count in requests]}
        values = {"prelim_gateway_repeated_total": self._repeated, **gauges}
        samples |= {name: [f"{name} {value:.16g}"] for name, value in values.items()}
        for name, of_name in samples.items():
            yield f"# HELP {name} {HELP[name]}"
            yield f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}"
            yield from of_name
