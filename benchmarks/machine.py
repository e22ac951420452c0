"""Description and peak performance of the machine that a benchmark runs on, and the commit of the code."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from prelim.audit.machine import INSTRUCTIONS, read_cpuinfo
from prelim.networks.machine import Machine
from terminal.program import sign_of_life

ROOT = Path(__file__).resolve().parents[1]

IDLE = {"KMP_BLOCKTIME": "1", "GOMP_SPINCOUNT": "10000"}
"""Environment variables that keep waiting threads from taking cores from the active peer."""

QUIET_CORES = 0.1
"""A figure is marked when other processes use more cores than this."""

_LOOK_S = 2.0


def measure_machine(threads: int, more: Mapping[str, str] | None = None) -> Machine:
    """Measure bandwidth and throughput in a separate process with as many threads as the contenders have.

    more : variables of its environment besides those of this process
    """
    environment = IDLE | dict(os.environ) | {"OMP_NUM_THREADS": str(threads)} | dict(more or {})
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.decode.floor"]
    with sign_of_life("measuring the machine"):
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    return Machine(**json.loads(done.stdout))


def describe_machine() -> dict[str, Any]:
    """Describe the processor, its relevant flags and its cores, from /proc/cpuinfo if it exists."""
    fields = read_cpuinfo()
    known = fields.get("flags", "").split()
    family_and_model = f"family {fields.get('cpu family', '?')} model {fields.get('model', '?')}"
    return {
        "cpu": f"{fields.get('model name', platform.processor())} ({family_and_model})",
        "flags": [flag for flag in INSTRUCTIONS if flag in known],
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
    }


def show_turn(bar: "tqdm[Any]", turn: str) -> None:
    """Show which turn begins."""
    bar.set_description_str(turn, refresh=False)
    bar.update()


def commit() -> str | None:
    """The commit that is checked out, followed by + if files differ from it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def busy_seconds() -> float:
    """Total CPU seconds that the machine has been busy since it started."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0)


def wait_until_quiet(patience: float) -> None:
    """Wait until the machine has been idle for two seconds, at most `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        before, began = busy_seconds(), time.monotonic()
        time.sleep(_LOOK_S)
        if (busy_seconds() - before) / (time.monotonic() - began) < QUIET_CORES:
            return


def where_and_when(record: Mapping[str, Any]) -> str:
    """A Markdown list with date, commit, versions and machine of a benchmark's record.

    record : date, commit, versions, machine (from describe_machine), settings with threads, and floor, a Machine
    """
    machine, measured = record["machine"], record["floor"]
    operations = ", ".join(f"{kind} {value / 1e9:.0f} Gop/s" for kind, value in measured["operations"].items())
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    flags = ", ".join(machine["flags"]) or "no unit for int8 or bf16"
    return (
        f"- Date: {record['date'] or 'not given'}; commit: {record['commit'] or 'unknown'}; {versions}\n"
        f"- Machine: {machine['cpu']}, {record['settings']['threads']} threads of {machine['cores']} cores; {flags}\n"
        f"- Measured on it: memory {max(measured['read'], measured['copy']) / 1e9:.1f} GB/s; {operations}"
    )
