"""A version that is tried out gets copies of requests; clients notice nothing of it."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from launcher.gateway.settings import Shadow
from tests.gateway.conftest import Site, eventually, open_site
from tests.gateway.recorder import Recorder

OPENED = Callable[..., tuple[Site, Recorder]]


def close(server: Recorder) -> None:
    """Stop listening, if that was not done before."""
    with suppress(OSError):
        server.close()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[OPENED]:
    """Opens a gateway that copies a share of its requests, and the server that gets the copies."""
    with ExitStack() as stack:

        def open_shadowed(share: float) -> tuple[Site, Recorder]:
            recorder, shadow = Recorder(), Recorder()
            stack.callback(recorder.close)
            stack.push(lambda *_: close(shadow))
            site = open_site(tmp_path, recorder, shadow=Shadow(f"127.0.0.1:{shadow.port}", "new", share))
            stack.enter_context(site.nginx)
            return site, shadow

        yield open_shadowed


def test_copy_has_the_id_and_the_body_of_the_request(opened: OPENED) -> None:
    """It goes to the model that is tried out, without the client's key or that of TorchServe."""
    site, shadow = opened(100)

    code, headers, _ = site.ask("POST", "/predictions/demo", b"image", X_Request_Id="pair", Content_Type="image/png")

    assert (code, headers["x-request-id"]) == (200, "pair")
    assert eventually(lambda: len(shadow.seen) == 1)
    (copy,) = shadow.seen
    assert (copy.target, copy.body, copy.rest) == ("POST /predictions/new", b"image", b"")
    assert (copy.headers["x-request-id"], copy.headers["host"]) == ("pair", "127.0.0.1")
    assert "authorization" not in copy.headers
    assert [one.target for one in site.recorder.seen] == ["POST /predictions/demo"]


def test_only_reports_of_the_default_model_are_copied(opened: OPENED) -> None:
    """Also with its version, and as chat completions; not other models, lists or refused requests."""
    site, shadow = opened(100)
    for path in ("/predictions/other", "/predictions/demo/1.0", "/v1/chat/completions"):
        assert site.ask("POST", path, b"{}")[0] == 200
    assert site.ask("GET", "/v1/models")[0] == 200
    assert site.ask("POST", "/predictions/demo", b"x", Authorization="Bearer wrong")[0] == 401

    assert eventually(lambda: len(shadow.seen) == 2)
    time.sleep(0.2)
    assert sorted(one.target for one in shadow.seen) == ["POST /predictions/new", "POST /v1/chat/completions"]


def test_share(opened: OPENED) -> None:
    """A fixed part of the ids: 300 of them with a share of 30 % give 90, give or take five standard deviations."""
    site, shadow = opened(30)
    for number in range(300):
        assert site.ask("POST", "/predictions/demo", b"x", X_Request_Id=f"r{number}")[0] == 200

    assert eventually(lambda: len(shadow.seen) > 50)
    time.sleep(0.2)
    assert 50 < len(shadow.seen) < 130


def test_dead_shadow_changes_no_answer(opened: OPENED) -> None:
    """Clients get their answers as without it, and as soon."""
    site, shadow = opened(100)
    answered: list[int] = []
    close(shadow)

    for _ in range(3):
        began = time.monotonic()
        answered.append(site.ask("POST", "/predictions/demo", b"x")[0])
        assert time.monotonic() - began < 5
    assert answered == [200, 200, 200]
    assert all('"code":200' in line for line in site.log)
