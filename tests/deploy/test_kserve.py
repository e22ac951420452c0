"""KServe's runtime and service: valid by KServe's own fields and by Kubernetes', and planted errors are found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import prelim
from launcher.gateway.settings import Settings
from tests.deploy.tools import CHART, HELMS, KSERVE, KUBERNETES, faults, read_objects, template

pytestmark = pytest.mark.deploy


@pytest.fixture
def objects() -> list[dict[str, Any]]:
    """All of KServe's manifests."""
    return [thing for path in sorted(KSERVE.glob("*.yaml")) for thing in read_objects(path.read_text(encoding="utf-8"))]


def spec(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Of the one object of a kind."""
    (found,) = (thing["spec"] for thing in objects if thing["kind"] == kind)
    return dict(found)


@pytest.mark.parametrize("version", KUBERNETES)
def test_valid(version: str, objects: list[dict[str, Any]]) -> None:
    """KServe's fields by a reduced schema, those of pods and containers by Kubernetes' own."""
    assert {thing["kind"] for thing in objects} >= {"ServingRuntime", "InferenceService"}
    assert not faults(objects, version)


def test_runtime_is_the_charts_pod(objects: list[dict[str, Any]]) -> None:
    """The same image, commands and all probes; a runtime has no sidecars, so that its gateway waits for the server."""
    deployment = next(
        thing for thing in template(HELMS[-1], CHART / "ci" / "claim.yaml") if thing["kind"] == "Deployment"
    )["spec"]["template"]["spec"]
    server, gateway = spec(objects, "ServingRuntime")["containers"]
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    for ours, charts in ((server, deployment["initContainers"][-1]), (gateway, deployment["containers"][0])):
        assert ours["image"] == charts["image"] == f"prelim:{prelim.__version__}-cpu"
        assert " ".join(charts["command"]) in " ".join(ours["command"])
        assert ours["resources"] == charts["resources"]
        assert probes(ours, ports) == probes(charts, ports)
        assert ours["securityContext"].items() >= charts["securityContext"].items()
    assert spec(objects, "InferenceService")["predictor"]["shareProcessNamespace"] is True
    assert gateway["args"][-2:] == deployment["containers"][0]["args"]
    assert "--wait" in gateway["args"]


def test_gateway_accepts_its_settings(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    """They are those that the gateway's own code reads."""
    (data,) = (thing["data"] for thing in objects if thing["kind"] == "ConfigMap")
    for name in ("prelim-tls/tls.crt", "prelim-tls/tls.key"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "gateway.yaml").write_text(data["gateway.yaml"].replace("/etc/", f"{tmp_path}/"))
    settings = Settings.read(tmp_path / "gateway.yaml")
    assert spec(objects, "BackendTLSPolicy")["validation"]["hostname"] in settings.names


def probes(container: dict[str, Any], ports: dict[str, int]) -> dict[str, Any]:
    """Its probes, their ports as numbers: a runtime's gateway has no names for them."""
    found = {name: dict(value) for name, value in container.items() if name.endswith("Probe")}
    for probe in found.values():
        for way in probe.keys() & {"httpGet", "tcpSocket"}:
            probe[way] = {**probe[way], "port": ports.get(probe[way]["port"], probe[way]["port"])}
    return found


def _rename_container(objects: list[dict[str, Any]]) -> None:
    spec(objects, "ServingRuntime")["containers"][0]["name"] = "server"


def _misspell_probe(objects: list[dict[str, Any]]) -> None:
    gateway = spec(objects, "ServingRuntime")["containers"][1]
    gateway["readynessProbe"] = gateway.pop("readinessProbe")


def _change_model(name: str, value: object) -> Callable[[list[dict[str, Any]]], None]:
    return lambda objects: spec(objects, "InferenceService")["predictor"]["model"].update({name: value})


def _change_predictor(name: str, value: object) -> Callable[[list[dict[str, Any]]], None]:
    return lambda objects: spec(objects, "InferenceService")["predictor"].update({name: value})


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize(
    "plant",
    [
        _rename_container,
        _misspell_probe,
        _change_model("storageUrl", "pvc://archives/"),
        _change_model("storageUri", "/archives"),
        _change_model("modelFormat", "prelim"),
        _change_model("protocolVersion", "v3"),
        _change_predictor("minReplica", 2),
        _change_predictor("minReplicas", "two"),
        _change_predictor("scaleMetric", "latency"),
    ],
    ids=["container", "probe", "storageUrl", "storageUri", "modelFormat", "protocol", "minReplica", "text", "metric"],
)
def test_planted_error_is_found(
    version: str, plant: Callable[[list[dict[str, Any]]], None], objects: list[dict[str, Any]]
) -> None:
    """One error in valid manifests is reported."""
    plant(objects)
    assert faults(objects, version)
