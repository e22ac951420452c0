"""What Prometheus, dashboard, alerts, runbook and logs have of one server and its gateway."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from launcher import console
from launcher.environment import ROOT
from launcher.gateway import gateway as gateway_module
from launcher.gateway import metrics
from launcher.gateway.gateway import Gateway
from launcher.gateway.metrics import HELP, Meter
from launcher.local_server import LocalServer
from prelim_client.answers import ReportError
from prelim_client.grpc_client import GrpcClient
from prelim_client.http_client import HttpClient
from tests.gateway.conftest import eventually
from tests.gateway.test_follow import Running, running  # noqa: F401 - a fixture
from tests.tiny_model import CONFIG, png

pytestmark = pytest.mark.gateway

PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTS = [
    rule for group in yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
NAME = re.compile(r"\bprelim_[a-z_]+\b")
LABELS = {"ModelName", "Level", "Hostname", "Status", "Reason", "Instructions", "le", "route", "code"}
"""Each has a bound: models and levels of the server, its host, statuses, classes of errors, buckets, routes."""


def scrape(gateway: Gateway, key: str) -> str:
    """The gateway's page."""
    response = requests.get(f"{gateway.url}/metrics/gateway", headers={"Authorization": f"Bearer {key}"}, timeout=20)
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain")
    return response.text


def samples(page: str) -> dict[str, float]:
    """Name and labels of each series -> its value."""
    lines = (line.rpartition(" ") for line in page.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def named_metrics() -> set[str]:
    """Those of the alerts, the dashboard and the runbook."""
    expressions = [rule["expr"] for rule in ALERTS]
    expressions += [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return set(NAME.findall(" ".join(expressions))) | set(NAME.findall(RUNBOOK)) - {
        "prelim_gateway",
        "prelim_max_wait_s",
    }


@pytest.mark.server
def test_named_metrics_exist(server: LocalServer, gateway: Gateway, key: tuple[Path, str]) -> None:
    """Every metric of alerts, dashboard and runbook is in a scrape after a report and a refusal; labels are bounded."""
    client = HttpClient(gateway.url, key[1], CONFIG.name)
    client.report(png())
    with pytest.raises(ReportError):
        client.report(b"not an image")

    pages: list[str] = []

    def is_there() -> bool:
        # A busy TorchServe may not describe its workers in time, which the next look puts right.
        gateway.follow()
        pages.append(scrape(gateway, key[1]))
        report = 'prelim_gateway_requests_total{route="predictions",code="200"}'
        return report in pages[-1] and samples(pages[-1])["prelim_gateway_ready_workers"] == 1

    assert eventually(is_there)
    series = samples(server.metrics() + pages[-1])
    # Histograms are named in the runbook as a whole.
    names = {name.partition("{")[0] for name in series}
    names |= {name.removesuffix("_bucket") for name in names}
    assert named_metrics() <= names
    ours = [name for name in series if name.startswith("prelim_")]
    assert {label for name in ours for label in re.findall(r'[{,](\w+)="', name)} <= LABELS
    assert set(HELP) <= names
    assert series["prelim_gateway_open"] == 1
    assert series["prelim_gateway_places"] > 0
    assert series["prelim_gateway_key_expires_timestamp_seconds"] > 1.7e9
    assert any(name.startswith('prelim_rejected_total{Status="415",Reason="NotAnImage"') for name in series)


@pytest.mark.server
def test_one_id_from_gateway_to_worker(server: LocalServer, gateway: Gateway, key: tuple[Path, str]) -> None:
    """In the lines of gateway, worker and bridge, in header, error and metadata."""
    made = {way: f"Case.{way}-1" for way in ("form", "broken", "grpc", "draft")}
    HttpClient(gateway.url, key[1], CONFIG.name, request_id=made["form"]).report(png())
    with pytest.raises(ReportError) as failed:
        HttpClient(gateway.url, key[1], CONFIG.name, request_id=made["broken"]).report(b"not an image")
    assert failed.value.request_id == made["broken"]
    with GrpcClient(gateway.settings.listen_grpc, key[1], CONFIG.name) as client:
        assert client.report(png(), request_id=made["grpc"])["status"] == "UNVERIFIED"
        with pytest.raises(ReportError) as failed:
            client.report(b"not an image", request_id=made["grpc"])
    assert failed.value.request_id == made["grpc"]
    headers = {"Authorization": f"Bearer {key[1]}", "X-Request-Id": made["draft"]}
    draft = requests.post(f"{gateway.url}/drafts/fhir", files={"image": ("i", png())}, headers=headers, timeout=60)
    assert (draft.status_code, draft.headers["X-Request-Id"]) == (200, made["draft"])

    def lines(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (gateway.log.parent / name).read_text(encoding="utf-8").splitlines()]

    def requests_in(name: str) -> set[str]:
        return {str(line.get("request")) for line in lines(name) if name != "server.log" or line["event"] == "answer"}

    # Lines come after the answers that they are about.
    assert eventually(lambda: set(made.values()) <= requests_in("gateway.log") & requests_in("server.log"))
    assert eventually(lambda: made["draft"] in requests_in("bridge.log"))
    answers = {line["request"]: line for line in lines("server.log") if line["event"] == "answer"}
    assert (answers[made["form"]]["code"], answers[made["broken"]]["reason"]) == (200, "NotAnImage")


def test_counts_follow_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that were there before, half lines and lines that are not JSON count nothing; a full file is set aside."""
    monkeypatch.setattr(metrics, "INTERVAL_S", 0)
    log = tmp_path / "gateway.log"

    def line(code: int, codes: str = "200") -> str:
        return json.dumps({"route": "predictions", "code": code, "server_codes": codes}) + "\n"

    def counts() -> dict[str, float]:
        return samples((tmp_path / "metrics.txt").read_text(encoding="utf-8"))

    log.write_text(line(200))
    meter = Meter(tmp_path, log)
    half = line(200)
    with log.open("a") as file:
        file.write(line(200) + line(503) + "not JSON\n" + line(200, "507 : 200") + half[:9])
    assert not meter.write(lambda: {"prelim_gateway_open": 1})
    series = 'prelim_gateway_requests_total{route="predictions",code="200"}'
    assert (counts()[series], counts()["prelim_gateway_repeated_total"]) == (2, 1)
    with log.open("a") as file:
        file.write(half[9:])
    monkeypatch.setattr(metrics, "LIMIT", 10)
    assert meter.write(lambda: {"prelim_gateway_open": 1})
    assert counts()[series] == 3
    assert (log.read_text(), log.with_name("gateway.1.log").exists()) == ("", True)
    log.write_text(line(200))
    meter.write(lambda: {"prelim_gateway_open": 0})
    assert (counts()[series], counts()["prelim_gateway_open"]) == (4, 0)


def test_full_access_log_is_replaced(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Nginx continues in a new file of its name, readable by the owner alone; events are in the launcher's log."""
    monkeypatch.setattr(metrics, "INTERVAL_S", 0)
    monkeypatch.setattr(metrics, "LIMIT", 10)
    log = running.gateway.log
    running.status(running.site.key)
    assert eventually(lambda: log.stat().st_size > 10)
    running.gateway.follow()
    monkeypatch.setattr(metrics, "LIMIT", console.LIMIT)
    assert log.with_name("gateway.1.log").stat().st_size > 10

    def has_moved() -> bool:
        running.status(running.site.key)
        return log.stat().st_size > 10

    assert eventually(has_moved)
    assert log.parent.stat().st_mode & 0o077 == 0
    running.server.process = None
    running.gateway.follow()
    written = [json.loads(line) for line in (log.parent / "launcher.log").read_text(encoding="utf-8").splitlines()]
    assert {"program": "gateway", "event": "door_closed", "reason": "Stopped"}.items() <= written[-1].items()


def test_metrics_of_the_gateway_need_a_key(running: Running) -> None:  # noqa: F811
    """And are there while the door is closed."""
    site = running.site
    running.gateway.door.close(*gateway_module.STOPPED)
    assert site.ask("GET", "/metrics/gateway", Host="10.0.0.7")[0] == 200
    assert site.ask("GET", "/metrics/gateway", Authorization="Bearer x")[0] == 401
    assert site.ask("POST", "/metrics/gateway", b"x")[0] == 405
    assert site.ask("GET", "/metrics.txt")[0] == 404


@pytest.mark.parametrize(
    "arguments", ["check rules alerts.yaml", "test rules alerts_test.yaml", "check config prometheus.yaml"]
)
def test_alerts_fire_and_stay_silent(arguments: str) -> None:
    """`promtool` takes the rules, and each of them fires for one series and not for the other."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; `make test-gateway` installs it")
    done = subprocess.run([promtool, *arguments.split()], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_in_the_runbook() -> None:
    """Each has a test in which it fires and one in which it is silent, and an entry with its name."""
    tested = [test["name"] for test in yaml.safe_load((PROMETHEUS / "alerts_test.yaml").read_text())["tests"]]
    names = [rule["alert"] for rule in ALERTS]
    assert tested == [f"{name} {what}" for name in names for what in ("fires", "is silent")]
    for rule in ALERTS:
        anchor = rule["annotations"]["runbook_url"].removeprefix("docs/runbook.md#")
        assert f"Alert `{rule['alert']}`" in entries()[anchor]


def entries() -> dict[str, str]:
    """The runbook's entries by their anchors."""
    found = re.findall(r"^## (.+)\n\n((?:- .+\n?)+)", RUNBOOK, re.MULTILINE)
    return {title.lower().replace(" ", "-"): entry for title, entry in found}


@pytest.mark.parametrize("name", sorted(entries()))
def test_runbook_entries_are_reproduced(name: str) -> None:
    """Symptom, metric, cause, action, and a test or a script that exists."""
    entry = entries()[name]
    assert re.findall(r"^- ([A-Z][a-z ]+):", entry, re.MULTILINE) == [
        *("Symptom", "Metric", "Cause", "Action", "Reproduced by")
    ]
    for reference in re.findall(
        r"`((?:tests|loadtests)/[\w/.]+(?:::\w+)?)`", entry.rpartition("Reproduced by:")[2]
    ) or [""]:
        path, _, test = reference.partition("::")
        source = (ROOT / path).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in source
    for event in re.findall(r'"event": "(\w+)"', entry):
        places = [*(ROOT / "launcher").rglob("*.py"), *(ROOT / "handlers").glob("*.py")]
        assert any(f'"{event}"' in place.read_text(encoding="utf-8") for place in places)
