"""A network of its own for the tests that start servers: only loopback, shared with nobody on the machine.

Orthanc of Debian 12 listens on all interfaces, whatever its configuration says.
"""

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1


@contextmanager
def own_network() -> Iterator[None]:
    """Move this thread, and all that it starts, into a new network namespace; and back. Needs root.

    Raises PermissionError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET) != 0:
            raise PermissionError("a network namespace needs root")
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
            yield
        finally:
            libc.setns(before, CLONE_NEWNET)
    finally:
        os.close(before)


def is_possible() -> bool:
    """Whether `own_network` works here."""
    return os.geteuid() == 0 and Path("/proc/self/ns/net").exists()
