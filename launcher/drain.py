"""Stopping without a lost request: the gateway's door is closed, then what is in hand is waited for."""

import time

from launcher.gateway.door import STOPPING, Door
from launcher.gateway.nginx import requests_in_hand
from launcher.server import Server

LOOK_S = 0.2


def drain(server: Server, seconds: float) -> int:
    """Refuse new requests and wait until all others are answered.

    returns : how many connections are open if that takes too long

    TorchServe itself cannot refuse requests: those of clients that do not come through the gateway are waited for only
    while they come.
    """
    deadline = time.monotonic() + seconds
    door = Door(server.temporary)
    door.close(*STOPPING)
    while (left := requests_in_hand(door.folder)) and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    return max(left or 0, server.drain(max(0.0, deadline - time.monotonic())))
