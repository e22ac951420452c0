"""Helm, and the schemas that manifests are checked against."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from launcher.environment import ROOT

CHART = ROOT / "deploy" / "helm"
KSERVE = ROOT / "deploy" / "kserve"
TOOLS = ROOT / "build" / "deploy"
HELM = TOOLS / "helm"
HELMS = ("3.17.2", "4.2.3")
KUBERNETES = ("1.35", "1.36", "1.37")
"""The versions that get fixes."""

CUSTOM = ("gateway.networking.k8s.io/", "monitoring.coreos.com/", "serving.kserve.io/")
"""Groups that Kubernetes itself does not have; reduced schemas of what is used of them are in schemas/."""

RUNTIME = {"supportedModelFormats", "multiModel", "disabled", "protocolVersions", "labels", "annotations"}
PREDICTOR = {
    *("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout", "containerConcurrency", "batcher"),
    *("logger", "canaryTrafficPercent", "deploymentStrategy", "labels", "annotations", "model"),
}
MODEL = {"modelFormat", "runtime", "storageUri", "storage", "protocolVersion"}
"""KServe's own fields, next to which an object has those of a pod or a container of Kubernetes."""


def helm(version: str) -> str:
    """The program; skips the test where it is missing."""
    program = HELM / version / "helm"
    if not program.is_file():
        pytest.skip(f"Helm {version} is not in {HELM}; `make test-deploy` fetches it")
    return str(program)


def run_helm(version: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Its output, whether it succeeds or not."""
    return subprocess.run([helm(version), *arguments], capture_output=True, text=True, check=False)


def run_template(version: str, values: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    """`helm template` with these values."""
    # Without a cluster Helm takes the version that it was built for.
    site = ("site", str(CHART), "--namespace", "radiology", "--kube-version", f"{KUBERNETES[-1]}.0")
    return run_helm(version, "template", *site, "--values", str(values), *more)


def template(version: str, values: Path, *more: str) -> list[dict[str, Any]]:
    """The objects that the chart gives with these values."""
    done = run_template(version, values, *more)
    assert done.returncode == 0, done.stderr
    return read_objects(done.stdout)


def read_objects(text: str) -> list[dict[str, Any]]:
    """The objects of a stream of YAML."""
    return [found for found in yaml.safe_load_all(text) if found]


@cache
def kubernetes_validate() -> Any:
    """The package with the schemas of Kubernetes' own objects."""
    sys.path.append(str(TOOLS / "python"))
    return pytest.importorskip("kubernetes_validate", reason="`make test-deploy` fetches it")


def faults(objects: Iterable[dict[str, Any]], version: str) -> list[str]:
    """What is wrong with objects, unknown fields included, by the schemas of a version of Kubernetes and our own."""
    return [f"{thing['kind']} {fault}" for thing in objects for fault in _faults(thing, version)]


def _faults(thing: dict[str, Any], version: str) -> Iterator[str]:
    if not thing["apiVersion"].startswith(CUSTOM):
        yield from _kubernetes_faults(thing, version)
        return
    schema = json.loads((Path(__file__).parent / "schemas" / f"{thing['kind'].lower()}.json").read_text())
    for error in jsonschema.Draft202012Validator(schema).iter_errors(thing):
        yield f"{error.json_path}: {error.message}"
    if thing["kind"] == "ServingRuntime":
        yield from _pod_faults(thing["spec"], RUNTIME, version)
    if thing["kind"] == "InferenceService":
        predictor = thing["spec"]["predictor"]
        containers = [{"name": "kserve-container", **_without(predictor["model"], MODEL)}]
        yield from _pod_faults({"containers": containers, **predictor}, PREDICTOR, version)


def _kubernetes_faults(thing: dict[str, Any], version: str) -> Iterator[str]:
    package = kubernetes_validate()
    try:
        package.validate(thing, version, strict=True)
    except (package.ValidationError, package.InvalidSchemaError) as error:
        yield str(error)


def _pod_faults(spec: dict[str, Any], own: set[str], version: str) -> Iterator[str]:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": _without(spec, own)}
    return _kubernetes_faults(pod, version)


def _without(fields: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}
