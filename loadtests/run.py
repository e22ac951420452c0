"""Start a server with one archive, load it for a minute, print a summary.

    python -m loadtests.run --archive model_store/demo.mar
    python -m loadtests.run --archive model_store/demo.mar --rate 4 --seconds 120 --max-p95 5

The exit code is 0 when the server met --max-failure-rate and --max-p95. The folder --out gets locust's report.html and
CSV files, summary.json, and the output of locust in locust.log. All traffic stays on 127.0.0.1.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Protocol

from launcher.local_server import LocalServer
from loadtests.load import Load, add_load_arguments
from loadtests.outcomes import read_summary, table
from terminal.arguments import CommandLine
from terminal.program import sign_of_life

ROOT = Path(__file__).resolve().parent.parent
LOCUSTFILE = ROOT / "loadtests" / "locustfile.py"

MARGIN_S = 150.0
"""Seconds allowed beyond the arrivals, for making the files and waiting for the last answers."""


class Target(Protocol):
    """A server that is ready: its addresses and the file of its keys."""

    @property
    def url(self) -> str:
        """The HTTP inference API, or the gateway's."""

    @property
    def grpc_target(self) -> str:
        """The same for gRPC."""

    @property
    def key_file(self) -> Path:
        """In the form of TorchServe's key_file.json."""


def run_load(server: Target, model: str, load: Load, out: Path) -> int:
    """Run a load on a ready server.

    model   : name of the served model
    out     : folder for report.html, the CSV files, summary.json and locust.log
    returns : locust's exit code, 0 when the limits of the load were met

    Raises subprocess.TimeoutExpired when locust does not end.
    """
    out.mkdir(parents=True, exist_ok=True)
    summary = out / "summary.json"
    summary.unlink(missing_ok=True)
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--users", "1", "--only-summary"]
    command += ["--host", server.url, "--grpc-target", server.grpc_target, "--key-file", str(server.key_file)]
    command += ["--model", model, "--summary", str(summary), *load.arguments()]
    command += ["--html", str(out / "report.html"), "--csv", str(out / "locust")]
    # A proxy would be measured too.
    environment = os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    with (
        (out / "locust.log").open("wb") as log,
        sign_of_life(f"{model} under load, {load.seconds:.0f} s and the last answers:"),
    ):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=load.seconds + MARGIN_S,
            check=False,
        )
    return done.returncode


def serve_and_load(archive: Path, load: Load, out: Path) -> int:
    """Serve one archive, load it, print a table.

    returns : see `run_load`
    """
    with tempfile.TemporaryDirectory() as store:
        # A separate store, because the server loads every archive in it.
        place(archive, Path(store))
        with LocalServer(Path(store)) as server:
            with sign_of_life("starting the server"):
                server.wait_until_ready(archive.stem)
            code = run_load(server, archive.stem, load, out.resolve())
    return report(out, code)


def report(out: Path, code: int) -> int:
    """Print the table of a run and its broken limits; returns its exit code."""
    summary_file = out / "summary.json"
    if not summary_file.is_file():
        print(f"the run has no result; the end of {out / 'locust.log'}:", file=sys.stderr)
        print((out / "locust.log").read_text(encoding="utf-8", errors="replace")[-2000:], file=sys.stderr)
        return code or 1
    summary, broken = read_summary(summary_file)
    print(table(summary))
    print(f"full report: {out / 'report.html'}")
    for limit in broken:
        print(f"limit broken: {limit}", file=sys.stderr)
    return code


def main() -> int:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--archive", type=Path, required=True, help="the .mar to serve")
    parser.add_argument("--out", type=Path, default=Path("out/loadtest"), help="folder of the results (%(default)s)")
    add_load_arguments(parser)
    arguments = parser.parse_args()
    if not arguments.archive.is_file():
        parser.error(f"--archive is {arguments.archive}, which is not a file; `make archive` builds it")
    try:
        load = Load.from_options(arguments)
    except ValueError as error:
        parser.error(str(error))
    return serve_and_load(arguments.archive, load, arguments.out)


def place(archive: Path, store: Path) -> None:
    """Link the archive into a store; copy it if the two are on different file systems."""
    try:
        os.link(archive, store / archive.name)
    except OSError:
        shutil.copyfile(archive, store / archive.name)


if __name__ == "__main__":
    sys.exit(main())
