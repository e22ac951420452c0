"""Start and stop the server of this folder, with the addresses of config.properties.

python -m launcher start     # in the background; returns when all models are ready
python -m launcher serve     # in the foreground, until Ctrl-C
python -m launcher status
python -m launcher check     # whether the archives may be served
python -m launcher stop      # waits for the requests that are still being answered

Archives are checked before anything of them is unpacked. `torchserve --start` after `source env.sh` starts the same
server without these checks, and `torchserve --stop` ends either at once.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import requests

import prelim
from launcher.admission import Records, measure, queue_length
from launcher.archives import CheckedArchive, check_store
from launcher.drain import drain
from launcher.environment import read_environment, server_folder
from launcher.errors import LaunchError
from launcher.gateway.door import LOAD_FAILED, MEASURING, STARTING, STOPPED, Door
from launcher.gateway.nginx import DRAIN_S
from launcher.journal import log
from launcher.local_server import CONFIG
from launcher.process import exclusive, is_launching
from launcher.server import STARTUP_S, Server
from prelim_client.answers import ReportError
from terminal.arguments import CommandLine
from terminal.program import sign_of_life

LOCK_S = 1.0
"""Seconds for which `launcher status` may keep the lock."""

Command = Callable[[Server, argparse.Namespace], int]


def main() -> int:
    """Run one command; its exit code."""
    commands: dict[str, Command] = {"start": start, "serve": serve, "status": status, "check": check, "stop": stop}
    parser = CommandLine(__doc__)
    parser.add_argument("--version", action="version", version=f"Prelim {prelim.__version__}")
    parsers = parser.add_subparsers(dest="command", required=True)
    options = {name: parsers.add_parser(name, help=command.__doc__) for name, command in commands.items()}
    for name in ("start", "serve"):
        options[name].add_argument(
            "--timeout", type=float, default=STARTUP_S, help="seconds until models must be ready"
        )
        options[name].add_argument("--queue", type=int, help="requests that may wait (measured at the first start)")
    for name in ("start", "serve", "check"):
        options[name].add_argument("--other-code", action="store_true", help="serve archives that have other code")
    for name in ("serve", "stop"):
        options[name].add_argument("--drain", type=float, default=DRAIN_S, help="seconds to wait for open requests")
    arguments = parser.parse_args()
    # A termination is handled as Ctrl-C is: it leaves no server behind. A shell ignores SIGINT in background jobs.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        return commands[arguments.command](Server(server_folder(), CONFIG, read_environment()), arguments)
    except LaunchError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def start(server: Server, arguments: argparse.Namespace) -> int:
    """Start the server in the background and wait until all models are ready."""
    with exclusive(server.temporary):
        _launch(server, arguments)
    return 0


def serve(server: Server, arguments: argparse.Namespace) -> int:
    """Run the server in the foreground."""
    with exclusive(server.temporary):
        _launch(server, arguments)
    try:
        while server.is_alive():
            with server.console.open(encoding="utf-8", errors="replace") as console:
                # Until the file is full and another has taken its name.
                while server.is_alive() and _is_named(console, server.console):
                    print(console.read(), end="", flush=True)
                    time.sleep(0.5)
                print(console.read(), end="", flush=True)
    except KeyboardInterrupt:
        with contextlib.ExitStack() as stack:
            # `launcher stop` may be at the same work.
            with contextlib.suppress(LaunchError):
                stack.enter_context(exclusive(server.temporary, LOCK_S))
            _drain(server, arguments.drain)
            _end(server)
        print("the server has been stopped")
        return 0
    ended_by_itself = server.key_file.is_file()
    _end(server)
    if ended_by_itself:
        raise LaunchError(f"the server has ended; the end of {server.console}:\n{server.output()[-3000:]}")
    print("the server has been stopped")
    return 0


def stop(server: Server, arguments: argparse.Namespace) -> int:
    """Stop the server once its open requests have been answered."""
    with exclusive(server.temporary):
        if server.process is None:
            print("the server does not run")
            return 0
        _drain(server, arguments.drain)
        _end(server)
    print("the server has been stopped")
    return 0


def status(server: Server, _: argparse.Namespace) -> int:
    """Say whether the server runs and its models are ready; the exit code is 0 if they are."""
    process = server.process
    if process is None:
        print("the server does not run")
        return 1
    print(f"process {process.pid} at {server.url}, {server.connections()} open connections")
    ready = True
    models = server.models()
    for model in models:
        described = server.describe(model)
        states = [worker["status"] for worker in described.get("workers", [])]
        ready = ready and states.count("READY") >= max(1, described.get("minWorkers", 1))
        print(f"{model} {described.get('modelVersion', '')}: workers {', '.join(states) or 'none'}")
    if is_launching(server.temporary):
        print("a launcher is just starting, measuring or stopping it")
        return 1
    return 0 if ready and models else 1


def check(server: Server, arguments: argparse.Namespace) -> int:
    """Check the archives, without starting anything."""
    _check(server, arguments)
    return 0


def _check(server: Server, arguments: argparse.Namespace) -> list[CheckedArchive]:
    archives = check_store(server.store, other_code=arguments.other_code)
    for archive in archives:
        signature = ", signature good" if archive.signed else ""
        print(f"{archive.file.name}: {archive.name}, sha256 {archive.sha256}{signature}")
    return archives


def _launch(server: Server, arguments: argparse.Namespace) -> None:
    """Check archives, start, and wait. Whatever goes wrong, no server is left behind."""
    door = Door(server.temporary)
    try:
        archives = _check(server, arguments)
    except LaunchError as error:
        if server.process is None:
            door.close(LOAD_FAILED, _reason(error, server))
        raise
    records = Records(server.folder / "logs" / "throughput.json")
    known = records.read(archives)
    queue = arguments.queue or (queue_length(known, server.max_wait_s) if known else None)
    _start_and_wait(server, archives, queue, arguments.timeout)
    if queue is None:
        queue = _measure(server, archives, records)
        if queue is not None:
            print(f"at most {queue} requests may wait; loading again with this queue", flush=True)
            server.stop()
            _start_and_wait(server, archives, queue, arguments.timeout)
        else:
            door.close(*STARTING)
    _show_ready(server, archives)


def _start_and_wait(server: Server, archives: Sequence[CheckedArchive], queue: int | None, seconds: float) -> None:
    log(server.folder, "launcher", "starting", queue=queue)
    server.start([archive.file.name for archive in archives], queue)
    door = Door(server.temporary)
    door.close(*(MEASURING if queue is None else STARTING))
    try:
        print(f"starting, log in {server.console} ...", flush=True)
        deadline = time.monotonic() + seconds
        with sign_of_life("loading the models"):
            for archive in archives:
                server.wait_until_ready(archive.name, max(0.0, deadline - time.monotonic()))
    except BaseException as error:
        _end(server)
        if isinstance(error, LaunchError):
            log(server.folder, "launcher", "load_failed")
            door.close(LOAD_FAILED, _reason(error, server))
        raise


def _measure(server: Server, archives: Sequence[CheckedArchive], records: Records) -> int | None:
    """The length of the queue for what the models can do on this machine; None if they refuse to be measured."""
    try:
        with sign_of_life("measuring how many reports the models write"):
            found = {archive: measure(server, archive.name) for archive in archives}
    except (ReportError, requests.RequestException, FileNotFoundError) as error:
        print(f"job_queue_size of config.properties holds: no throughput could be measured ({error})", file=sys.stderr)
        return None
    except BaseException:
        _end(server)
        raise
    for archive, one in found.items():
        print(f"{archive.name}: {one.reports_per_s:.1f} reports/s, {one.lone_s:.2f} s for one")
    records.write(found)
    return queue_length(list(found.values()), server.max_wait_s)


def _show_ready(server: Server, archives: Sequence[CheckedArchive]) -> None:
    log(server.folder, "launcher", "ready", models=len(archives))
    for archive in archives:
        url = f"{server.url}/predictions/{archive.name}"
        report = f'curl --noproxy "*" -H "Authorization: Bearer $KEY" -T chest.dcm {url}'
        print(f"ready at {url} (report: {report})")
    print(
        f"KEY is the inference key in {server.key_file}; `make report IMAGE=chest.dcm` reads it by itself", flush=True
    )


def _end(server: Server) -> None:
    server.stop()
    log(server.folder, "launcher", "stopped")
    Door(server.temporary).close(*STOPPED)


def _reason(error: LaunchError, server: Server) -> str:
    """A reason for clients, who need not know where the server is installed and what else it says."""
    return str(error).partition("\n")[0].replace(f"{server.store}{os.sep}", "")


def _is_named(file: TextIO, path: Path) -> bool:
    """Whether an open file still has this name; while neither of two files has it, it does."""
    return not path.exists() or os.path.samestat(os.fstat(file.fileno()), path.stat())


def _drain(server: Server, seconds: float) -> None:
    """Wait for open requests; Ctrl-C ends the wait."""
    left: Any = "some"
    with contextlib.suppress(KeyboardInterrupt):
        print(f"waiting up to {seconds:.0f} s for open requests; Ctrl-C ends them", flush=True)
        log(server.folder, "launcher", "draining", seconds=seconds)
        left = drain(server, seconds)
    if left:
        log(server.folder, "launcher", "connections_closed", count=left)
        print(f"{left} open connections are closed", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
