"""Hosts on one machine: network namespaces, joined by a switch, each with a link that can be cut. Needs root."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from launcher.process import terminate

NET = "10.77.0"
"""Of addresses that exist in these namespaces only."""


def is_possible() -> bool:
    """Whether namespaces can be made here."""
    if os.geteuid() != 0:
        return False
    name = f"prelim{os.getpid()}try"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if done.returncode == 0:
        _ip("netns", "delete", name)
    return done.returncode == 0


@dataclass
class Host:
    """One host.

    name    : of its namespace
    address : on the switch
    link    : the switch's end of its cable
    """

    name: str
    address: str
    link: str
    switch: str
    processes: "list[subprocess.Popen[Any]]" = field(default_factory=list)

    def start(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
        """Run a command on this host; it ends with the network."""
        process: subprocess.Popen[Any] = subprocess.Popen(
            ["ip", "netns", "exec", self.name, *command], start_new_session=True, **options
        )
        self.processes.append(process)
        return process

    def run(self, *command: str) -> str:
        """What a command on this host prints."""
        done = subprocess.run(["ip", "netns", "exec", self.name, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def disconnect(self) -> None:
        """Pull its cable: packets are lost, and nobody is told."""
        _ip("-n", self.switch, "link", "set", self.link, "down")

    def restore(self) -> None:
        """Put it back."""
        _ip("-n", self.switch, "link", "set", self.link, "up")

    def lose(self, share: float) -> None:
        """Drop a share of the packets that arrive."""
        self._filter("-m", "statistic", "--mode", "random", "--probability", f"{share}", "-j", "DROP")

    def reset(self) -> None:
        """Answer every packet that arrives with a reset, on open connections too."""
        self._filter("-j", "REJECT", "--reject-with", "tcp-reset")

    def slow_down(self, rate: str) -> None:
        """Let packets leave at a rate, such as "256kbit", and wait in a queue before they do."""
        self.run("tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "4kb", "latency", "2s")

    def emulate(self, faults: str) -> None:
        """Let packets leave as tc-netem(8) says, such as "delay 100ms duplicate 1%"."""
        self.run("tc", "qdisc", "replace", "dev", "eth0", "root", "netem", *faults.split())

    def can_emulate(self) -> bool:
        """Whether the kernel has netem."""
        command = ["ip", "netns", "exec", self.name, "tc", "qdisc", "replace", "dev", "lo", "root", "netem"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def heal(self) -> None:
        """End what `lose`, `reset`, `slow_down` and `emulate` have begun."""
        self.run("iptables", "-F", "INPUT")
        if any(kind in self.run("tc", "qdisc", "show", "dev", "eth0") for kind in ("tbf", "netem")):
            self.run("tc", "qdisc", "delete", "dev", "eth0", "root")

    def _filter(self, *rule: str) -> None:
        self.run("iptables", "-A", "INPUT", "-i", "eth0", "-p", "tcp", *rule)

    def end(self) -> None:
        """End all that was started here."""
        for process in self.processes:
            if process.poll() is None:
                terminate(psutil.Process(process.pid))
            process.wait()
        self.processes.clear()


class Network:
    """A context manager around a switch and its hosts; at its end all processes on them end too."""

    def __init__(self) -> None:
        self._prefix = f"prelim{os.getpid()}"
        self._switch = f"{self._prefix}switch"
        self._hosts: list[Host] = []

    def add_host(self, name: str) -> Host:
        """A host with loopback and a cable to the switch."""
        number = len(self._hosts) + 1
        host = Host(f"{self._prefix}{name}", f"{NET}.{number}", f"port{number}", self._switch)
        _ip("netns", "add", host.name)
        self._hosts.append(host)
        _ip("-n", self._switch, "link", "add", host.link, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        _ip("-n", self._switch, "link", "set", host.link, "master", "switch", "up")
        _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", host.name, "link", "set", device, "up")
        return host

    def __enter__(self) -> "Network":
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "switch", "up")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for host in self._hosts:
            host.end()
            _end_stragglers(host.name)
            _ip("netns", "delete", host.name)
        _ip("netns", "delete", self._switch)


def _end_stragglers(name: str) -> None:
    """End what has left the process tree of a host, such as Ray's daemons."""
    for pid in _ip("netns", "pids", name).split():
        if Path(f"/proc/{pid}").exists():
            terminate(psutil.Process(int(pid)), 5)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
