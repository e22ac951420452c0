"""The settings that the handler takes from model-config.yaml."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prelim.errors import ArchiveError

FILE = "model-config.yaml"


@dataclass(frozen=True)
class Settings:
    """Section `prelim` of model-config.yaml, and those of TorchServe's own keys that the handler must know.

    steps_per_handle : decode steps in one call of the handler
    heartbeat_s      : seconds after which an unfinished HTTP request is kept alive with white space
    threads          : of PyTorch and ONNX Runtime
    share_weights    : workers use one copy of the weights instead of packing one each
    request_deadline_s : seconds from its arrival after which a request fails, the wait for a slot included
    max_cache_mb     : bound of the KV cache in units of 2**20 bytes; None: see ReportGenerator
    max_new_tokens   : limit on that option of a request; None: see ReportGenerator
    in_flight        : TorchServe's continuousBatching
    response_timeout : seconds after which TorchServe kills a worker that has not answered
    """

    steps_per_handle: int
    heartbeat_s: float
    threads: int
    share_weights: bool
    request_deadline_s: float
    max_cache_mb: float | None
    max_new_tokens: int | None
    in_flight: bool
    response_timeout: float

    @property
    def deadline_s(self) -> float:
        """Seconds that a request may take. A batch that one call answers must end before the worker is killed."""
        return self.request_deadline_s if self.in_flight else min(self.request_deadline_s, 0.8 * self.response_timeout)

    @classmethod
    def read(cls, model_config: Mapping[str, Any] | None) -> "Settings":
        """Settings from the parsed model-config.yaml.

        Raises ArchiveError: for an unknown key of the section, listing the known ones, and for a wrong value.
        """
        contents = model_config or {}
        section: dict[str, Any] = {
            "steps_per_handle": 8,
            "heartbeat_s": 10,
            "threads": None,
            "share_weights": None,
            "request_deadline_s": 300,
            "max_cache_mb": None,
            "max_new_tokens": None,
        }
        given = contents.get("prelim") or {}
        unknown = sorted(set(given) - set(section))
        if unknown:
            raise ArchiveError(f"{FILE}: prelim has the unknown key {unknown[0]!r}; known: {', '.join(section)}")
        section |= given
        workers = max(1, int(contents.get("maxWorkers", 1)))
        threads, share_weights = section["threads"], section["share_weights"]
        if threads is None:
            threads = max(1, len(os.sched_getaffinity(0)) // workers)
        if share_weights is None:
            share_weights = workers > 1
        if not isinstance(share_weights, bool):
            raise ArchiveError(f"{FILE}: share_weights is {share_weights!r}; it must be true, false or null")
        settings = cls(
            steps_per_handle=section["steps_per_handle"],
            heartbeat_s=section["heartbeat_s"],
            threads=threads,
            share_weights=share_weights,
            request_deadline_s=section["request_deadline_s"],
            max_cache_mb=section["max_cache_mb"],
            max_new_tokens=section["max_new_tokens"],
            in_flight=contents.get("continuousBatching", False) is True,
            response_timeout=contents.get("responseTimeout", 120),
        )
        if settings.in_flight and workers > 1:
            raise ArchiveError(
                f"{FILE}: maxWorkers is {workers} with continuousBatching: true, under which TorchServe lets requests "
                "to several workers hang; set it to 1, or package with --batching dynamic"
            )
        whole = ("steps_per_handle", "threads", "max_new_tokens")
        for name in (*whole, "heartbeat_s", "response_timeout", "request_deadline_s", "max_cache_mb"):
            value = getattr(settings, name)
            if name.startswith("max_") and value is None:
                continue
            number = int if name in whole else int | float
            if isinstance(value, bool) or not isinstance(value, number) or value < 1:
                raise ArchiveError(f"{FILE}: {name} is {value!r}; it must be a number of at least 1")
        return settings
