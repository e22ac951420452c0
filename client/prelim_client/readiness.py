"""Waiting for a server behind a gateway."""

import time

import requests

from prelim_client.answers import ReportError, read_answer
from prelim_client.loopback import open_session

FINAL = "LoadFailed"
"""Type of the error of a server that does not become ready by itself."""

PAUSE_S = 0.5


def wait_until_ready(url: str, seconds: float = 600) -> None:
    """Wait until a server can write reports: its model has been loaded and has written one.

    url : of the gateway, "http://127.0.0.1:8088"

    Raises ReportError with the reason: at once if the model cannot be loaded, otherwise when the time is over;
    requests.RequestException if nothing has answered by then.
    """
    deadline = time.monotonic() + seconds
    while True:
        last = time.monotonic() > deadline
        try:
            with open_session(url) as session:
                response = session.get(f"{url}/ready", timeout=10)
            read_answer(response.content, response.status_code)
            return
        except ReportError as error:
            if last or error.type == FINAL:
                raise
        except requests.RequestException:
            if last:
                raise
        time.sleep(PAUSE_S)
