"""The chart's values: what a cluster would refuse, or would never start, is refused before it is sent there."""

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.tools import CHART, HELMS, KUBERNETES, faults, read_objects, run_helm, run_template

pytestmark = pytest.mark.deploy

DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = jsonschema.Draft7Validator(json.loads((CHART / "values.schema.json").read_text(encoding="utf-8")))
HASH = 64 * "0"
ROUTE = "httpRoute: {enabled: true, parents: [{name: g}], hostnames: [a], ca: c, hostname: a, "
ENV = "server: {env: [{name: A, "
FETCH = "archives: {claim: '', fetch: ["
MONITOR = "serviceMonitor: {enabled: true, key: {secret: k}, ca: c, hostname: a, "

WRONG_VALUES = {
    "no archives": "archives: {claim: ''}",
    "two sources of archives": f"archives: {{claim: a, fetch: [{{url: 'https://h/a.mar', sha256: '{HASH}'}}]}}",
    "key instead of a name": "archives: {publicKey: '-----BEGIN PUBLIC KEY-----'}",
    "download without a hash": "archives: {claim: '', fetch: [{url: 'https://h/a.mar'}]}",
    "hash too short": "archives: {claim: '', fetch: [{url: 'https://h/a.mar', sha256: abc}]}",
    "download from nowhere": f"archives: {{claim: '', fetch: [{{url: 'https:///a.mar', sha256: '{HASH}'}}]}}",
    "download without a name": f"archives: {{claim: '', fetch: [{{url: 'https://h/.mar', sha256: '{HASH}'}}]}}",
    "audit log without a key": "audit: {claim: audit}",
    "key without an audit log": "audit: {claim: '', secret: audit-key}",
    "unknown value": "replica: 3",
    "unknown value inside": "gateway: {request_per_second: 3}",
    "wrong type": "replicas: '3'",
    "no replicas": "replicas: 0",
    "half a replica": "replicas: 1.5",
    "no time to drain": "drainSeconds: 0",
    "no TLS": "gateway: {tls: {secret: ''}}",
    "no keys": "gateway: {keys: {secret: ''}}",
    "name with capitals": "gateway: {tls: {secret: Prelim}}",
    "name with an empty part": "archives: {claim: a..b}",
    "name with an underscore": "image: {pullSecrets: [my_secret]}",
    "name too long": f"gateway: {{keys: {{secret: {254 * 'a'}}}}}",
    "route without a parent": ROUTE + "parents: []}",
    "route without a CA": ROUTE + "ca: ''}",
    "route with capitals": ROUTE + "hostnames: [A.example]}",
    "route to an address": ROUTE + "hostnames: [10.0.0.1]}",
    "route with too many names": ROUTE + f"hostnames: {[f'a{number}' for number in range(17)]}}}",
    "route with one parent twice": ROUTE + "parents: [{name: g}, {name: g}]}",
    "route into no namespace": ROUTE + "parents: [{name: g, namespace: a.b}]}",
    "Ingress without TLS": "ingress: {enabled: true, host: a}",
    "Ingress of an address": "ingress: {enabled: true, host: 10.0.0.1, tlsSecret: a}",
    "annotation with a blank": "ingress: {annotations: {a b: x}}",
    "annotation that is a number": "service: {annotations: {a: 1}}",
    "annotation that is true": "podAnnotations: {a: true}",
    "monitor without a key": MONITOR + "key: {secret: ''}}",
    "monitor without a name": MONITOR + "hostname: ''}",
    "monitor of no time": MONITOR + "interval: 0s}",
    "monitor with a blank in its key": MONITOR + "key: {secret: k, entry: a b}}",
    "label with a blank": "nodeSelector: {zone: a b}",
    "label with two slashes": "nodeSelector: {a/b/c: x}",
    "model that is a path": "model: ../demo",
    "model that is a folder": "model: ..",
    "memory without a unit": "server: {resources: {requests: {memory: 3GB}}}",
    "memory in small letters": "server: {resources: {requests: {memory: 3gi}}}",
    "memory in thousandths": "server: {resources: {requests: {memory: 500m}}}",
    "no memory": "server: {resources: {requests: {memory: 0}}}",
    "memory as processors": "server: {resources: {requests: {cpu: 2Gi}}}",
    "no processor": "server: {resources: {requests: {cpu: 0}}}",
    "no processor as text": "server: {resources: {requests: {cpu: '0'}}}",
    "no thousandth": "gateway: {resources: {requests: {cpu: 0m}}}",
    "part of a thousandth": "gateway: {resources: {requests: {cpu: 1.5m}}}",
    "processor below zero": "server: {resources: {requests: {cpu: -1}}}",
    "unknown resource": "server: {resources: {requests: {gpu: 1}}}",
    "no room": "temporary: 0",
    "threads below zero": "server: {threads: -1}",
    "budget of nothing": "podDisruptionBudget: {maxUnavailable: 0%}",
    "budget as text": "podDisruptionBudget: {maxUnavailable: '1'}",
    "port 0": "service: {port: 0}",
    "port too large": "service: {grpcPort: 70000}",
    "unknown kind of service": "service: {type: External}",
    "variable with an equals sign": "server: {env: [{name: A=B, value: c}]}",
    "variable that is a number": "server: {env: [{name: A, value: 3}]}",
    "variable from nothing": ENV + "valueFrom: {}}]}",
    "variable from two places": ENV + "valueFrom: {fieldRef: {fieldPath: f}, secretKeyRef: {name: a, key: b}}}]}",
    "variable from a whole secret": ENV + "valueFrom: {secretKeyRef: {name: a}}}]}",
    "nobody": "networkPolicy: {from: [{}]}",
    "peer of two kinds": "networkPolicy: {from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}",
    "block without addresses": "networkPolicy: {from: [{ipBlock: {}}]}",
    "address over 255": "networkPolicy: {from: [{ipBlock: {cidr: 10.0.0.256/8}}]}",
    "address without a block": "networkPolicy: {from: [{ipBlock: {cidr: 10.0.0.1}}]}",
    "block of 33 bits": "networkPolicy: {from: [{ipBlock: {cidr: 10.0.0.0/33}}]}",
    "labels without matchLabels": "networkPolicy: {from: [{podSelector: {app: a}}]}",
    "toleration with a value it ignores": "tolerations: [{key: a, operator: Exists, value: b}]",
    "toleration of an unknown kind": "tolerations: [{key: a, operator: In}]",
    "toleration of an unknown effect": "tolerations: [{key: a, effect: Never}]",
    "toleration of everything by mistake": "tolerations: [{effect: NoSchedule}]",
    "unknown affinity": "affinity: {nodeAffinty: {}}",
    "no open request": "autoscaling: {openRequests: 0}",
    "unknown metric": "autoscaling: {metrics: [{type: Slots, slots: {}}]}",
    "no metric": "autoscaling: {metrics: [{}]}",
    "GPU of nobody": "gpu: {resource: gpu}",
    "half a GPU": "gpu: {count: 0.5}",
    "tag as digest": "image: {digest: latest}",
    "tag in the repository": "image: {repository: 'prelim:1'}",
    "repository with capitals": "image: {repository: Prelim}",
    "tag with a slash": "image: {tag: a/b}",
}

CONTRADICTIONS = {
    "autoscaling: {enabled: true, minReplicas: 9}": "autoscaling.minReplicas is 9, above autoscaling.maxReplicas, 8",
    "autoscaling: {metrics: [{type: Pods, object: {}}]}": "one of the type Pods without its pods",
    "server: {resources: {limits: {memory: 2Gi}}}": "limits.memory is 2Gi, below what is requested, 3Gi",
    "server: {resources: {limits: {memory: 3G}}}": "server.resources.limits.memory is 3G, below what is requested, 3Gi",
    "server: {resources: {limits: {cpu: 1999m}}}": "server.resources.limits.cpu is 1999m, below what is requested, 2",
    "gateway: {resources: {limits: {cpu: 0.1}}}": "gateway.resources.limits.cpu is 0.1, below what is requested, 200m",
    "service: {port: 8089}": "service.port and service.grpcPort are both 8089",
    ENV + "value: b, valueFrom: {fieldRef: {fieldPath: c}}}]}": "value and valueFrom for A; leave one out",
    ENV + "value: b}, {name: A}]}": "server.env has A, which is set already; use one of the two entries",
    "podAnnotations: {checksum/settings: a}": "podAnnotations has checksum/settings, which the chart writes itself",
    MONITOR + "labels: {app.kubernetes.io/name: a}}": "serviceMonitor.labels has app.kubernetes.io/name, which",
    FETCH + f"{{url: 'https://a/x.mar', sha256: '{HASH}'}}, {{url: 'https://b/c/x.mar', sha256: '{HASH}'}}]}}": (
        "archives.fetch has two archives called x.mar; rename one"
    ),
    FETCH + f"{{url: 'http://a/x.mar', sha256: '{HASH}'}}]}}": "archives.fetch needs port 80, which",
    FETCH + f"{{url: 'https://a:8443/x.mar', sha256: '{HASH}'}}]}}": "archives.fetch needs port 8443, which",
}
"""What a schema cannot say, and the line that says it."""


def parse_values(text: str) -> dict[str, Any]:
    """Values of a site, with the archives that it has to name."""
    return merged({"archives": {"claim": "archives"}}, yaml.safe_load(text))


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Values over others, as Helm puts them."""
    both = {
        key: merged(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
        for key, value in above.items()
    }
    return {**below, **both}


@pytest.mark.parametrize("text", WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_wrong_values_are_refused(text: str) -> None:
    """By the schema, for the value that is wrong; without it they are accepted."""
    assert SCHEMA.is_valid(merged(DEFAULTS, parse_values("{}")))
    (wrong,) = yaml.safe_load(text)
    errors = list(SCHEMA.iter_errors(merged(DEFAULTS, parse_values(text))))
    assert errors
    assert all(wrong in [*error.absolute_path, *error.message.split("'")] for error in errors)


@pytest.mark.parametrize("version", HELMS)
def test_helm_applies_the_schema(version: str, tmp_path: Path) -> None:
    """In both majors, whose regular expressions are not Python's: everything wrong is said at once."""
    wrong: dict[str, Any] = {}
    for text in WRONG_VALUES.values():
        wrong = merged(wrong, parse_values(text))
    (tmp_path / "values.yaml").write_text(json.dumps(wrong), encoding="utf-8")
    done = run_template(version, tmp_path / "values.yaml")
    assert done.returncode != 0
    assert "schema" in done.stderr
    assert [name for name in wrong if name not in done.stderr] == []


@pytest.mark.parametrize("version", HELMS)
@pytest.mark.parametrize("text", CONTRADICTIONS)
def test_contradictions_are_one_line(version: str, text: str, tmp_path: Path) -> None:
    """The schema accepts them; a template says which values do not fit."""
    assert SCHEMA.is_valid(merged(DEFAULTS, parse_values(text)))
    (tmp_path / "values.yaml").write_text(json.dumps(parse_values(text)), encoding="utf-8")
    done = run_template(version, tmp_path / "values.yaml")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if "Error: " in line]
    assert CONTRADICTIONS[text] in line


@pytest.mark.parametrize("name", ["1site", "a.b", "123"])
def test_release_is_the_name_of_a_service(name: str) -> None:
    """Helm takes names that Kubernetes does not."""
    arguments = (
        name,
        str(CHART),
        "--values",
        str(CHART / "ci" / "claim.yaml"),
        "--kube-version",
        f"{KUBERNETES[-1]}.0",
    )
    done = run_helm(HELMS[-1], "template", *arguments)
    assert done.returncode != 0
    assert f"the release is called {name}; a Service needs" in done.stderr


def paths(values: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Of all values, those that have others inside included."""
    for key, value in values.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *inner) for inner in paths(value))


def test_nothing_that_templates_read_may_be_removed() -> None:
    """Helm removes a value that is null; a template would fail at it with a nil pointer. Limits may go."""
    values = merged(DEFAULTS, parse_values("{}"))
    for path in paths(values):
        without = copy.deepcopy(values)
        *outer, last = path
        inner = without
        for key in outer:
            inner = inner[key]
        del inner[last]
        assert SCHEMA.is_valid(without) == ("limits" in path), path


def test_variables_of_the_chart_cannot_be_given(tmp_path: Path) -> None:
    """Each that a server has, with all options on: the later one would count."""
    site = CHART / "ci" / "everything.yaml"
    deployment = next(o for o in read_objects(run_template(HELMS[-1], site).stdout) if o["kind"] == "Deployment")
    variables = deployment["spec"]["template"]["spec"]["initContainers"][-1]["env"]
    own = {variable["name"] for variable in variables} - {"CUDA_VISIBLE_DEVICES"}
    assert own > {"PRELIM_FOLDER", "OMP_NUM_THREADS"}
    for name in own:
        (tmp_path / "values.yaml").write_text(f"server: {{env: [{{name: {name}, value: x}}]}}", encoding="utf-8")
        done = run_template(HELMS[-1], site, "--values", str(tmp_path / "values.yaml"))
        assert f"server.env has {name}, which is set already" in done.stderr


def test_names_that_look_like_numbers_stay_names(tmp_path: Path) -> None:
    """YAML would read 123 and 1e3 as numbers, which Kubernetes refuses as names."""
    values = merged(
        yaml.safe_load((CHART / "ci" / "everything.yaml").read_text(encoding="utf-8")),
        yaml.safe_load("""
            archives: {claim: "123", publicKey: "1e3"}
            audit: {claim: "12", secret: "0x1"}
            gateway: {tls: {secret: "1.5"}, keys: {secret: "1e1"}}
            image: {repository: "5", pullSecrets: ["7"]}
            httpRoute: {ca: "8"}
            ingress: {enabled: true, className: "9", host: "no", tlsSecret: "10"}
            serviceMonitor: {key: {secret: "11", entry: "12"}, ca: "13"}
            nodeSelector: {a: "1"}
        """),
    )
    (tmp_path / "values.yaml").write_text(json.dumps(values), encoding="utf-8")
    done = run_template(HELMS[-1], tmp_path / "values.yaml")
    assert done.returncode == 0, done.stderr
    assert not faults(read_objects(done.stdout), KUBERNETES[-1])
