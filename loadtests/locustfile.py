"""Open-loop load over HTTP and gRPC, as a locustfile.

`loadtests.run` starts a server for it. To load a running server:

    python -m locust -f loadtests/locustfile.py --headless --users 1 \
        --host http://127.0.0.1:8080 --grpc-target 127.0.0.1:7070 --key-file key_file.json --rate 2 --seconds 60

Locust's users are a closed loop: each waits for its answer before it sends again, even with constant_throughput. A slow
server then gets fewer requests, which hides its queue (coordinated omission). Here the arrivals of a seeded Poisson
process are planned before the run. One locust user walks through the plan and starts a greenlet for each arrival, which
sends the request over HTTP or gRPC; no arrival waits for an answer. One user per arrival would do the same with a user
object for every request. One user per transport would add nothing: a Poisson process whose arrivals are randomly
assigned to HTTP or gRPC is two independent Poisson processes.

With --closed-loop N there are N closed-loop users, which measure maximum throughput but not latency.

Latency runs from the planned arrival to the answer. Bodies are checked, broken files must be refused, and shed requests
are counted separately. The exit code is 1 when the failure rate is above --max-failure-rate or the p95 of the reports
is above --max-p95. There is one locust user: --users above 1, --processes and distributed runs have no effect or send
everything twice. One process sends far more than a server on the same machine can handle.
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import gevent
from grpc.experimental.gevent import init_gevent
from locust import User, events, task
from locust.exception import StopUser

from loadtests.closed_loop import send_closed_loop
from loadtests.load import Load, add_load_arguments
from loadtests.open_loop import send_open_loop
from loadtests.outcomes import SentRequest, broken_limits, exit_code, summarize, table, to_json
from loadtests.payloads import make_broken_files, make_images, make_small_image
from loadtests.sender import KeyFile, Sender
from loadtests.traffic import draw_requests, plan_requests

IMAGES = 18
"""Every kind in every size, twice."""

DRAIN_S = 60.0
"""Seconds to wait for outstanding answers after the last request."""

TIMEOUT_S = 60.0

logger = logging.getLogger(__name__)

# Before any channel is opened; otherwise a waiting gRPC call would block every other request of the process.
init_gevent()


@events.init_command_line_parser.add_listener
def add_arguments(parser: argparse.ArgumentParser, **_: Any) -> None:
    """Add this locustfile's options to locust's own."""
    add_load_arguments(parser)
    target = "gRPC inference API (%(default)s)"
    parser.add_argument("--grpc-target", default="127.0.0.1:7070", env_var="PRELIM_GRPC_TARGET", help=target)
    keys = "TorchServe's key_file.json (%(default)s)"
    parser.add_argument("--key-file", default="key_file.json", env_var="PRELIM_KEY_FILE", help=keys)
    parser.add_argument("--model", default="demo", help="name of the served model (%(default)s)")
    parser.add_argument("--summary", help="write the numbers as JSON to this file")


@events.init.add_listener
def prepare(environment: Any, **_: Any) -> None:
    """Make all files and the plan before the run, and check the outcomes after it."""
    options = environment.parsed_options
    try:
        load = Load.from_options(options)
        keys = KeyFile(Path(options.key_file))
        url = options.host or "http://127.0.0.1:8080"
        environment.sender = Sender(
            url, options.grpc_target, options.model, keys, TIMEOUT_S, compared=bool(load.tokens)
        )
        images = [make_small_image(load.seed)] if load.tokens else make_images(IMAGES, load.seed)
        broken = [] if load.tokens else make_broken_files(load.seed)
    except (ValueError, KeyError, OSError) as error:
        sys.exit(f"the load test cannot start: {error}")
    environment.load = load
    environment.requests = draw_requests(load, images, broken)
    environment.plan = [] if load.closed_loop else plan_requests(load, images, broken)
    environment.outcomes = []
    summary_file = Path(options.summary) if options.summary else None
    environment.events.quitting.add_listener(lambda **_: judge(environment, load, summary_file))


class Arrivals(User):
    """The locust user that sends all requests of the run."""

    fixed_count = 1

    @task
    def send_plan(self) -> None:
        """Send the plan once, or run the closed loop; wait for the answers and end the run."""
        load, send = self.environment.load, self.environment.sender.send
        if load.closed_loop:
            send_closed_loop(self.environment.requests, load.closed_loop, load.seconds, send, self._record)
        else:
            send_open_loop(self.environment.plan, send, self._record, DRAIN_S)
        # In a separate greenlet, because quitting kills this one.
        gevent.spawn(self.environment.runner.quit)
        raise StopUser

    def _record(self, outcome: SentRequest) -> None:
        self.environment.outcomes.append(outcome)
        self.environment.events.request.fire(
            request_type=outcome.request.transport,
            name=outcome.name,
            response_time=1000 * outcome.latency,
            response_length=0,
            exception=outcome.failure,
            context={},
            start_time=time.time() - outcome.latency,
        )


def judge(environment: Any, load: Load, summary_file: Path | None) -> None:
    """Set the exit code from the outcomes of the requests."""
    missing = max(0, len(environment.plan) - len(environment.outcomes))
    try:
        summary = summarize(environment.outcomes, load.window)
    except ValueError as error:
        logger.error("%s", error)
        environment.process_exit_code = 1
        return
    for broken in broken_limits(summary, load):
        logger.error("%s", broken)
    if missing:
        logger.error("the run was ended with %d of %d requests without an outcome", missing, len(environment.plan))
    environment.process_exit_code = 1 if missing else exit_code(summary, load)
    if summary_file is None:
        print(table(summary))
    else:
        summary_file.write_text(json.dumps(to_json(summary, load), indent=2) + "\n", encoding="utf-8")
