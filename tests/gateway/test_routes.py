"""What passes the gateway, what does not, and how it is answered."""

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from bridge.endpoints.draft_route import FORMATS as BRIDGE_FORMATS
from launcher.gateway.drafts import FORMATS
from tests.gateway.conftest import DRAFTS_TOKEN, TORCHSERVE_KEY, Site, eventually, open_site
from tests.gateway.recorder import Recorder

pytestmark = pytest.mark.gateway

CLOSED = (
    *("/ping", "/models", "/models/demo", "/metrics", "/workflows", "/token", "/api-description"),
    *("/explanations/demo", "/invocations", "/v1/models/demo:predict", "/v2/models/demo/infer", "/v1/completions"),
    *("/predictions", "/predictions/", "/predictions/demo/", "/predictions/demo/1.0/", "/predictions/demo/1.0/more"),
    *("/predictions/demo/1.0/v1/models", "/predictions/demo/latest", "/PREDICTIONS/demo", "/predictions/demo;a=b"),
    *("/predictions/demo%0a", "/predictions/demo/1.0%0a", "/v1/models%0a", "/v1/models/demo%0a"),
    *("/predictions/demo/../../models", "/predictions/demo/%2e%2e/%2e%2e/models", "/predictions/..%2fmodels"),
    *(
        "/predictions/demo%2f1.0%2fextra",
        "/predictions/de mo".replace(" ", "%20"),
        "/predictions/%00",
        "/predictions/a%0d%0ab",
    ),
    *(
        "/_torchserve/predictions/demo",
        "/_torchserve/models",
        "/_errors/401.json",
        "/nginx.conf",
        "/torchserve_key.conf",
    ),
    *("/../nginx.conf", "/samples/../torchserve_key.conf", "/samples../nginx.conf", "/predictions/" + 65 * "a"),
)


def code_in_openai(path: str) -> str:
    """What the model's handler says of a path under /v1 that it does not serve."""
    return "UnknownModel" if path.startswith("/v1/models/") else "UnknownPath"


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/predictions/demo", "POST /predictions/demo"),
        ("/predictions/demo/1.0", "POST /predictions/demo/1.0"),
        ("//predictions///demo", "POST /predictions/demo"),
        ("/v1/chat/completions", "POST /predictions/demo/1.0/v1/chat/completions"),
    ],
)
def test_post_routes_reach_the_server_with_its_key(site: Site, path: str, target: str) -> None:
    """An allowed request arrives whole, with TorchServe's key, an id, and none of the client's headers."""
    body = bytes(range(256)) * 4000
    status, headers, answer = site.ask("POST", path, body, explain="True", url_path="x", describe="True", Cookie="a=b")
    assert (status, answer) == (200, {})
    (seen,) = site.recorder.seen
    assert seen.target == target
    assert seen.body == body
    assert seen.headers["authorization"] == f"Bearer {TORCHSERVE_KEY}"
    assert seen.headers["x-request-id"] == headers["x-request-id"]
    assert set(seen.headers) == {
        *("host", "connection", "content-length", "content-type", "authorization", "x-request-id", "x-request-start")
    }


def test_drafts_reach_the_bridge_with_its_token_and_not_with_torchserves_key(site: Site) -> None:
    """The form arrives whole; TorchServe's key does not leave for another server."""
    form = "multipart/form-data; boundary=x"
    status, headers, _ = site.ask("POST", "/drafts/sr", b"body", Content_Type=form, Cookie="a=b")
    assert status == 200
    (seen,) = site.recorder.seen
    assert (seen.target, seen.body) == ("POST /drafts/sr", b"body")
    assert seen.headers["authorization"] == f"Bearer {DRAFTS_TOKEN}"
    assert (seen.headers["content-type"], seen.headers["x-request-id"]) == (form, headers["x-request-id"])
    assert "cookie" not in seen.headers


@pytest.mark.parametrize(
    "path", ["/drafts", "/drafts/", "/drafts/sr/x", "/drafts/SR", "/studies/1.2.3", "/_bridge/drafts/sr"]
)
def test_other_paths_of_the_bridge_are_closed(site: Site, path: str) -> None:
    """Neither the address of the PACS's hook nor a path below a format passes."""
    assert site.ask("POST", path, b"x")[0] in (404, 405)
    assert site.recorder.seen == []


def test_drafts_have_the_gateways_rules(site: Site) -> None:
    """A key, no query string, POST with a length."""
    assert site.ask("POST", "/drafts/sr", b"x", Authorization="Bearer tests.wrong")[0] == 401
    assert site.ask("POST", "/drafts/sr?name=x", b"x")[0] == 400
    status, headers, _ = site.ask("GET", "/drafts/sr")
    assert (status, headers["allow"]) == (405, "POST")
    assert site.recorder.seen == []


def test_the_bridges_errors_pass_and_its_absence_is_an_overload(site: Site, tmp_path: Path) -> None:
    """415 has the bridge's body; a bridge that is down is 503 with Retry-After; without a bridge the path is closed."""
    body = b'{"error": {"code": 415, "type": "NotDicom", "message": "send DICOM"}}'
    head = f"HTTP/1.1 415 x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    site.recorder.answers["POST /drafts/pdf"] = head.encode() + body
    status, _, answer = site.ask("POST", "/drafts/pdf", b"x")
    assert (status, answer["error"]["type"]) == (415, "NotDicom")

    recorder = Recorder()
    away, without = (tmp_path / name for name in ("away", "without"))
    for folder in (away, without):
        folder.mkdir()
    gone = open_site(away, recorder)
    recorder.close()
    with gone.nginx:
        status, headers, answer = gone.ask("POST", "/drafts/sr", b"x")
    assert (status, headers["retry-after"], answer["error"]["type"]) == (503, "5", "Overloaded")
    closed = open_site(without, recorder, drafts=False)
    with closed.nginx:
        assert closed.ask("POST", "/drafts/sr", b"x")[0] == 405


def test_the_formats_are_those_of_the_bridge() -> None:
    """The page is told of them by the gateway, which does not import the bridge."""
    assert set(FORMATS) == set(BRIDGE_FORMATS)


def test_models_are_listed_by_the_default_model(site: Site) -> None:
    """`GET /v1/models` and one of its entries are answered by the default model's handler."""
    assert site.ask("GET", "/v1/models")[0] == site.ask("GET", "/v1/models/demo")[0] == 200
    prefix = "GET /predictions/demo/1.0/v1/models"
    assert [seen.target for seen in site.recorder.seen] == [prefix, f"{prefix}/demo"]


def test_readiness_needs_no_key_and_no_slot(site: Site) -> None:
    """A load balancer has none, and must not take a busy server for one that is down: the door answers."""
    site_without_key = Site(site.nginx, site.folder, site.settings, "", site.recorder)
    assert site_without_key.ask("GET", "/ready")[::2] == (200, {"model": "demo/1.0", "ready": True})
    assert site_without_key.ask("POST", "/ready", b"x")[0] == 405
    assert site.recorder.seen == []


def test_readiness_passes_nothing_of_the_client_on(site: Site) -> None:
    """A query, another host, another method and a large body are refused in the shape of the server's errors."""
    asked = [
        site.ask("GET", "/ready?customized=true&name=DOE"),
        site.ask("GET", "/ready", Host="attacker.example"),
        site.ask("POST", "/ready", b"x"),
        site.ask("GET", "/ready", Content_Length=str(10**9)),
    ]
    assert [(status, answer["error"]["code"]) for status, _, answer in asked] == [(n, n) for n in (400, 421, 405, 413)]
    assert site.recorder.seen == []
    # A load balancer that asks often is answered: it costs TorchServe nothing.
    assert {site.ask("GET", "/ready")[0] for _ in range(60)} == {200}
    assert site.recorder.seen == []


@pytest.mark.parametrize("path", ["/js", "/js/", "/samples", "/samples/", "/index.html/"])
def test_folders_are_unknown_paths(site: Site, path: str) -> None:
    """Neither a list of files nor a redirection to one."""
    status, _, answer = site.ask("GET", path)
    assert (status, answer["error"]["code"]) == (404, 404)


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_paths_never_reach_the_server(site: Site, method: str, path: str) -> None:
    """They are answered in the shape of the server's errors, whatever their encoding."""
    status, headers, answer = site.ask(method, path, b"" if method == "POST" else None)
    assert status in (400, 403, 404, 405)
    assert answer["error"]["code"] == (code_in_openai(path) if path.startswith("/v1/") else status)
    assert headers["x-request-id"]
    assert site.recorder.seen == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW", "CONNECT"])
def test_other_methods_never_reach_the_server(site: Site, method: str) -> None:
    """Among them GET, for which TorchServe would run the model."""
    for path in ("/predictions/demo", "/predictions/demo/1.0", "/v1/chat/completions"):
        status, headers, _ = site.ask(method, path)
        assert status in (400, 405)
        if status == 405 and method not in ("TRACE", "CONNECT"):
            assert headers["allow"] == "POST"
    assert site.ask(method, "/v1/models")[0] in ((200,) if method == "GET" else (400, 405))
    assert all(seen.target == "GET /predictions/demo/1.0/v1/models" for seen in site.recorder.seen)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer x",
        "Bearer tests",
        "Bearer tests.",
        "Bearer tests." + 43 * "a",
        "Basic dGVzdHM6YQ==",
        f"Bearer {TORCHSERVE_KEY}",
    ],
)
def test_without_a_key_nothing_reaches_the_server(site: Site, header: str) -> None:
    """A wrong key, another kind of authentication and TorchServe's own key get 401."""
    for path in ("/predictions/demo", "/v1/chat/completions"):
        status, headers, answer = site.ask("POST", path, b"x", Authorization=header)
        kind = answer["error"]["code" if path.startswith("/v1") else "type"]
        assert (status, kind, headers["www-authenticate"]) == (401, "Unauthorized", "Bearer")
    assert site.recorder.seen == []


def test_key_of_another_client_is_wrong(site: Site) -> None:
    """The secret belongs to the name."""
    secret = site.key.partition(".")[2]
    assert site.ask("POST", "/predictions/demo", b"x", Authorization=f"Bearer other.{secret}")[0] == 401
    assert site.recorder.seen == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "attacker.example"}, 421),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Sec_Fetch_Site": "none"}, 200),
    ],
)
def test_pages_of_other_sites_cannot_ask(site: Site, headers: dict[str, str], status: int) -> None:
    """Neither with a name that points to this address (DNS rebinding) nor across sites."""
    found, _, answer = site.ask("POST", "/predictions/demo", b"x", **headers)
    assert found == status
    assert len(site.recorder.seen) == (status == 200)
    assert status == 200 or answer["error"]["code"] == status


def test_query_is_refused(site: Site) -> None:
    """TorchServe drops it without a word; and it may name a patient."""
    status, _, answer = site.ask("POST", "/predictions/demo?num_beams=3&patient=DOE%5EJANE", b"x")
    assert (status, answer["error"]["code"]) == (400, 400)
    assert site.recorder.seen == []
    assert "DOE" not in "".join(site.log)
    assert "DOE" not in json.dumps(answer)


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ("application/json", "application/json"),
        ("application/json; charset=utf-8", "application/json"),
        ("multipart/form-data; boundary=abc", "multipart/form-data; boundary=abc"),
        ("Multipart/Form-Data; Boundary=abc", "multipart/form-data; boundary=abc"),
        ("multipart/form-data;boundary=a:b=c ; charset=UTF-8;", "multipart/form-data; boundary=a:b=c"),
        ('multipart/form-data; x="a;\\";boundary=b"; y=z; boundary="a b"', 'multipart/form-data; boundary="a b"'),
        ('Application/JSON; charset="utf-8"', "application/json"),
        ("application/x-www-form-urlencoded", "application/octet-stream"),
        ("text/html", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
def test_body_types_that_torchserve_misreads_are_replaced(site: Site, given: str, passed: str) -> None:
    """It reads a web form itself, fails on an image, and quotes it in its answer."""
    site.ask("POST", "/predictions/demo", b"x", Content_Type=given)
    assert [seen.headers["content-type"] for seen in site.recorder.seen] == [passed]


@pytest.mark.parametrize(
    "parameters",
    [
        *("", ";", "; boundary", "; boundary=", '; boundary=""', '; boundary="', "; boundary = a", "; boundary=a b"),
        *("; boundary=a; boundary=b", "; boundary=a; Boundary=a", "; boundary=ä", "; boundary=" + 71 * "a"),
        *("; boundary=a; charset=nosuch", "; charset=; boundary=a", '; boundary=a; charset=""', "; boundary=a\tb"),
        *("; boundary=a; charset=utf-16", "; boundary=a; x", '; boundary=a; x="b', '; boundary="a ', '; boundary="a "'),
        *("x; boundary=a", ", multipart/form-data; boundary=a", ";" + " ;" * 300 + "x", "; x=" + 300 * "a=" + ";"),
    ],
)
@pytest.mark.parametrize("path", ["/predictions/demo", "/v1/chat/completions", "/drafts/sr"])
def test_forms_that_nobody_could_read_stay_here(site: Site, path: str, parameters: str) -> None:
    """TorchServe answers 403 to an unknown charset, which would look like its key, and fails without a boundary."""
    status, _, answer = site.ask("POST", path, b"x", Content_Type=f"multipart/form-data{parameters}")
    kind = answer["error"]["code" if path.startswith("/v1") else "type"]
    assert (status, kind) == (415, "UnsupportedForm")
    assert site.recorder.seen == []


def test_other_multipart_bodies_are_no_forms(site: Site) -> None:
    """They cannot be taken apart, nor are they images."""
    assert site.ask("POST", "/predictions/demo", b"x", Content_Type="multipart/mixed; boundary=a")[0] == 415
    assert site.recorder.seen == []


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(
            (host, 200)
            for host in ("127.0.0.1", "127.0.0.1:80", "127.0.0.1:", "LocalHost", "localhost.", "localhost.:1")
        ),
        *((host, 400) for host in ("127.0.0.1:80@evil", "127.0.0.1:80:90", "a@127.0.0.1", "a:b@127.0.0.1", ":80")),
        *((host, 400) for host in ("127.0.0.1:x", "127.0.0.1:123456", "127.0.0.1/x", "127.0.0.1?x", "127.0.0.1#x")),
        *((host, 400) for host in ("127.0.0.1:80 evil", "127.0.0.1,evil", "127.0.0.1%00", "[::1", "::1", "[::1]x")),
        *((host, 400) for host in ("[::1%25lo]", "127.0.0.1:80\\@evil", "127.0.0.1:-1", "127.0.0.1:+1", "<127.0.0.1>")),
        *((host, 421) for host in ("[::1]", "[::ffff:127.0.0.1]:80", "2130706433", "127.1", "evil", "127.0.0.1.evil")),
    ],
)
def test_hosts_are_parsed_strictly(site: Site, host: str, status: int) -> None:
    """RFC 3986: a name or an address, and perhaps a port. nginx alone reads no further than the first colon."""
    assert site.ask("POST", "/predictions/demo", b"x", Host=host)[0] == status
    assert len(site.recorder.seen) == (status == 200)
    for path in ("/ready", "/"):
        assert site.ask("GET", path, Host=host)[0] == status


def test_page_is_served_with_a_strict_policy(site: Site) -> None:
    """Static files need no key, and may load nothing from anywhere else."""
    status, headers, _ = site.ask("GET", "/", Authorization="")
    assert status == 200
    assert headers["content-type"] == "text/html"
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert headers["x-content-type-options"] == "nosniff"
    assert site.ask("GET", "/config.json", Authorization="")[2]["models"] == ["demo"]
    assert site.ask("POST", "/", b"")[0] == 405
    assert site.recorder.seen == []


@pytest.mark.parametrize("given", ["a", "Case-2026.11_28", 64 * "9"])
def test_well_formed_id_of_a_client_is_kept(site: Site, given: str) -> None:
    """In the answer, at the server and in the log; TorchServe's own is hidden."""
    site.recorder.turns.append(site.recorder.answer.replace(b"\r\n\r\n", b"\r\nX-Request-Id: torchserves-id\r\n\r\n"))
    _, headers, _ = site.ask("POST", "/predictions/demo", b"x", X_Request_Id=given)
    assert headers["x-request-id"] == site.recorder.seen[0].headers["x-request-id"] == given
    assert eventually(lambda: any(line["request"] == given for line in lines_of(site)))


@pytest.mark.parametrize("given", ["", 65 * "a", "DOE JANE", "DOE^JANE", "a,b", "caf\u00e9", '"', "a\tb"])
def test_other_ids_are_replaced(site: Site, given: str) -> None:
    """By a new one; nothing of them is logged or sent on."""
    _, headers, _ = site.ask("POST", "/predictions/demo", b"x", X_Request_Id=given)
    assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])
    assert site.recorder.seen[0].headers["x-request-id"] == headers["x-request-id"]
    assert "DOE" not in "".join(site.log)


def lines_of(site: Site) -> list[dict[str, Any]]:
    """The access log; every line is JSON."""
    return [json.loads(line) for line in site.log]


def test_every_line_of_the_log_is_json(site: Site) -> None:
    """Also of what is not HTTP, of unknown methods and of clients that have gone; numbers are numbers."""
    for data in (b"\x16\x03\x01", b"GET\r\n\r\n", b"DOE-JANE / HTTP/1.1\r\nHost: a\r\n\r\n", b"POST /predictions/demo"):
        site.send(data, answers=0)
    request = site.ask("POST", "/predictions/demo", b"x")[1]["x-request-id"]
    assert eventually(lambda: any(line["request"] == request for line in lines_of(site)))
    (line,) = [line for line in lines_of(site) if line["request"] == request]
    assert line | {"time": "", "seconds": 0, "bytes_in": 0, "bytes_out": 0, "request": ""} == {
        "time": "",
        "program": "gateway",
        "event": "request",
        "request": "",
        "client": "tests",
        "method": "POST",
        "route": "predictions",
        "code": 200,
        "bytes_in": 0,
        "bytes_out": 0,
        "seconds": 0,
        "server_codes": "200",
    }
    assert datetime.fromisoformat(line["time"]).tzinfo is not None
    assert "DOE" not in "".join(site.log)


def test_log_has_numbers_only(site: Site) -> None:
    """Neither path, query, header nor key gets into the log."""
    headers = {"User_Agent": "DOE-JANE", "X_Request_Id": "DOE^JANE", "Referer": "DOE-JANE"}
    ids = [
        site.ask(method, path, body, **headers)[1]["x-request-id"]
        for method, path, body in (("POST", "/predictions/DOE-JANE", b"x"), ("GET", "/DOE-JANE", None))
    ]
    # A line is written a moment after its answer.
    assert eventually(lambda: all(any(i in line for line in site.log) for i in ids))
    (line,) = [line for line in lines_of(site) if ids[0] == line["request"]]
    assert (line["client"], line["method"], line["code"]) == ("tests", "POST", 200)
    assert "DOE" not in "".join(site.log)
    assert site.key.partition(".")[2] not in "".join(site.log)
