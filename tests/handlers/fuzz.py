"""Malformed requests among good ones, through the real handler, in a process of its own.

    python -m tests.handlers.fuzz ARCHIVE_FOLDER --malformed 10000 --good 1000 --seed 0

Prints what became of them as JSON. Exits with 1 if a good report differs from its report alone, a malformed request
takes more than 2 s of CPU time or fails in the server, or memory grows by more than 1.5 GB, or by 5 % in the end.
"""

import base64
import ctypes
import gc
import json
import re
import resource
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from terminal.arguments import CommandLine
from tests.handlers.frontend import Frontend, Job
from tests.handlers.malformed import JSON_TYPE, Request, body, malformed_request
from tests.tiny_model import png

SLOTS = 8
MAX_CPU_S = 2.0
MAX_GROWTH = 1.5e9

MAX_LEFT = 0.05
"""Share of the memory of before that may still be taken at the end."""

GOOD_OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_beams": 3},
    {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5, "early_stopping": True},
    {"do_sample": True, "seed": 7, "temperature": 0.8, "top_k": 5},
    {"do_sample": True, "seed": 3, "num_return_sequences": 3, "top_p": 0.9},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
    {"num_beams": 2, "do_sample": True, "seed": 11},
]


@dataclass
class Outcome:
    """What the requests got.

    statuses  : how many of each kind of fault got each status
    slow      : calls of the handler above MAX_CPU_S: seconds, and the kinds of the requests that were new in it
    failed    : malformed requests with a status of 500 or more
    different : good requests whose report is not their report alone, by number
    growth    : of the process's memory over its start at its peak, bytes
    left      : of that after the last answer, as a share of the memory after the first tenth
    """

    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    slow: list[tuple[float, list[str]]] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    different: list[int] = field(default_factory=list)
    slowest_s: float = 0.0
    growth: int = 0
    left: float = 0.0

    @property
    def good(self) -> bool:
        """Whether all that must hold holds."""
        sound = not self.slow and not self.different and not self.failed
        return sound and self.growth < MAX_GROWTH and self.left <= MAX_LEFT


def good_request(number: int) -> Request:
    """A request that gets a report, unlike that of any other number."""
    options = GOOD_OPTIONS[number % len(GOOD_OPTIONS)]
    image = png(number, 64)
    if number % 4 == 0:
        contents = {"image": base64.b64encode(image).decode(), "options": options, "return_token_ids": True}
        return Request("good", body(contents), JSON_TYPE)
    parts = {name: json.dumps(value).encode() for name, value in options.items()}
    return Request("good", {"image": image, "return_token_ids": b"true", **parts}, grpc=number % 4 == 1)


def report_of(job: Job) -> tuple[Any, ...]:
    """What of an answer must not depend on neighbors."""
    answer = job.body
    alternatives = [alternative["report"] for alternative in answer.get("alternatives", ())]
    return job.status, answer.get("token_ids"), answer.get("report"), alternatives, answer.get("finish_reason")


def run(folder: Path, malformed: int, good: int, seed: int) -> Outcome:
    """Send good requests alone, then all requests in random order in batches, and compare."""
    alone = start(folder)
    expected = [report_of(send_alone(alone, good_request(number))) for number in range(good)]
    if any(status != 200 for status, *_ in expected):
        raise RuntimeError("a good request has no report even alone")
    frontend = start(folder)
    random = Random(seed)
    order = [*range(good), *[None] * malformed]
    random.shuffle(order)
    shape = frontend.handler.generator.image_features_shape
    outcome, before, settled = Outcome(), memory("VmRSS"), 0
    sent: dict[int, Job] = {}
    flying: list[tuple[str, Job]] = []
    while order or frontend.jobs:
        new = []
        while order and len(frontend.jobs) < SLOTS and random.random() < 0.9:
            number = order.pop()
            request = malformed_request(random, shape) if number is None else good_request(number)
            job = request.submit(frontend)
            new.append((request.kind, job))
            if number is not None:
                sent[number] = job
        call(frontend, outcome, [kind for kind, _ in new])
        flying = settle(outcome, flying + new)
        # Before, caches fill and libraries load.
        if not settled and len(order) < 0.9 * (good + malformed):
            settled = memory_at_rest()
    outcome.different = [number for number in range(good) if report_of(sent[number]) != expected[number]]
    outcome.growth = memory("VmHWM") - before
    outcome.left = memory_at_rest() / settled - 1
    return outcome


def start(folder: Path) -> Frontend:
    """A frontend whose handler has loaded the archive."""
    frontend = Frontend(str(folder), SLOTS, prelim={"threads": 1, "heartbeat_s": 1000})
    frontend.handler.initialize(frontend.context)
    return frontend


def send_alone(frontend: Frontend, request: Request) -> Job:
    """The answer to a request that has the handler for itself."""
    job = request.submit(frontend)
    frontend.run()
    return job


def call(frontend: Frontend, outcome: Outcome, kinds: list[str]) -> None:
    """One call of the handler, with its CPU time."""
    began = cpu_seconds()
    frontend.call()
    took = cpu_seconds() - began
    outcome.slowest_s = max(outcome.slowest_s, took)
    if took > MAX_CPU_S:
        outcome.slow.append((took, kinds))


def settle(outcome: Outcome, flying: list[tuple[str, Job]]) -> list[tuple[str, Job]]:
    """Count the statuses of the requests that are answered; returns the others."""
    for kind, job in flying:
        if job.answered:
            outcome.statuses.setdefault(kind, Counter())[job.status or 0] += 1
            if kind != "good" and (job.status or 500) >= 500:
                outcome.failed[kind] += 1
    return [(kind, job) for kind, job in flying if not job.answered]


def cpu_seconds() -> float:
    """CPU time of this process, all its threads and its children."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def memory_at_rest() -> int:
    """Memory of this process without what the allocator keeps for later, bytes."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return memory("VmRSS")


def memory(what: str) -> int:
    """VmRSS or VmHWM, the memory of this process now or at its peak, bytes."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {what}")
    return 1024 * int(found[1])


def main() -> int:
    """Run as the arguments say, print the outcome."""
    parser = CommandLine(__doc__)
    parser.add_argument("folder", type=Path, help="of the unpacked archive")
    parser.add_argument("--malformed", type=int, default=1000)
    parser.add_argument("--good", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    outcome = run(arguments.folder, arguments.malformed, arguments.good, arguments.seed)
    sys.stdout.write(json.dumps(vars(outcome), indent=1) + "\n")
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())
