"""The Helm chart: it is valid for every supported Kubernetes, closed by default, and its checks find planted errors."""

import copy
import dataclasses
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import prelim
from handlers.auditor import FOLDER as AUDIT
from handlers.auditor import KEY as AUDIT_KEY
from launcher.archives import PUBLIC_KEY
from launcher.environment import ROOT
from launcher.gateway.metrics import HELP
from launcher.gateway.settings import Settings
from tests.deploy.tools import CHART, HELMS, KUBERNETES, faults, run_helm, template
from tests.gateway.conftest import open_site
from tests.gateway.recorder import Recorder

pytestmark = pytest.mark.deploy

VALUES = sorted((CHART / "ci").glob("*.yaml"))
Objects = list[dict[str, Any]]


@pytest.fixture(scope="session", params=VALUES, ids=[path.stem for path in VALUES])
def values(request: pytest.FixtureRequest) -> Path:
    """A file of values as a site would have it."""
    return Path(request.param)


@pytest.fixture(scope="session")
def objects(values: Path) -> Objects:
    """What the chart gives with them."""
    return template(HELMS[-1], values)


@pytest.fixture(scope="session")
def all_options() -> Objects:
    """What the chart gives with all options on."""
    return template(HELMS[-1], CHART / "ci" / "everything.yaml")


@pytest.fixture
def everything(all_options: Objects) -> Objects:
    """The same, to be changed."""
    return copy.deepcopy(all_options)


def only(objects: Objects, kind: str) -> dict[str, Any]:
    """The one object of a kind."""
    (found,) = (thing for thing in objects if thing["kind"] == kind)
    return found


def pod(objects: Objects) -> dict[str, Any]:
    """The pods' specification."""
    found: dict[str, Any] = only(objects, "Deployment")["spec"]["template"]["spec"]
    return found


def containers(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All of a pod, those that run first included."""
    yield from spec["initContainers"]
    yield from spec["containers"]


@pytest.mark.parametrize("version", HELMS)
def test_lint(version: str, values: Path) -> None:
    """Both majors of Helm find nothing, warnings included."""
    done = run_helm(version, "lint", "--strict", str(CHART), "--values", str(values))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 chart(s) failed" in done.stdout


def test_both_majors_agree(values: Path) -> None:
    """Helm 3 and Helm 4 give the same objects."""
    first, second = (template(version, values) for version in HELMS)
    assert first == second


@pytest.mark.parametrize("version", KUBERNETES)
def test_valid(version: str, objects: Objects) -> None:
    """No unknown field, no wrong type, in any supported Kubernetes."""
    assert not faults(objects, version)


def test_version_is_that_of_the_code() -> None:
    """The chart asks for the image of this version."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == prelim.__version__
    assert chart["version"].replace("-dev", ".dev") == prelim.__version__


def test_pods_have_no_rights(objects: Objects) -> None:
    """Not root, nothing that can be written but volumes, no capability, no account of the cluster."""
    spec = pod(objects)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(spec):
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
    archives = [
        mount
        for container in containers(spec)
        for mount in container["volumeMounts"]
        if mount["name"] == "archives" and container["name"] != "archives"
    ]
    assert archives
    assert all(mount["readOnly"] for mount in archives)


def test_archives_must_be_signed_if_there_is_a_key(objects: Objects) -> None:
    """The launcher, and what downloads archives, are told the file of the key, and the launcher has it."""
    spec = pod(objects)
    key = {"name": PUBLIC_KEY, "value": "/etc/prelim-signer/archives.pub"}
    told = [container["name"] for container in containers(spec) if key in container.get("env", ())]
    mounted = [c["name"] for c in containers(spec) for mount in c["volumeMounts"] if mount["name"] == "signer"]
    names = [volume["configMap"]["name"] for volume in spec["volumes"] if volume["name"] == "signer"]
    if names:
        assert set(told) == {container["name"] for container in spec["initContainers"]}
    assert (mounted, names) == ((["server"], ["archives-key"]) if told else ([], []))


def test_some_values_name_a_key(all_options: Objects) -> None:
    """So that the test above has seen both."""
    assert any(volume["name"] == "signer" for volume in pod(all_options)["volumes"])


def test_only_the_gateway_can_be_reached(objects: Objects) -> None:
    """TorchServe's ports, management among them, are in no Service, NetworkPolicy, Ingress or route."""
    ports = {"https": 8088, "grpc": 8089}
    declared = {port["name"]: port["containerPort"] for c in containers(pod(objects)) for port in c.get("ports", ())}
    assert declared == ports
    service = only(objects, "Service")["spec"]
    assert {port["targetPort"] for port in service["ports"]} == ports.keys()
    (rule,) = only(objects, "NetworkPolicy")["spec"]["ingress"]
    assert {port["port"] for port in rule["ports"]} == ports.keys()
    assert rule["from"]
    published = [thing for thing in objects if thing["kind"] not in {"Deployment", "ConfigMap"}]
    assert not re.search(r"\b(8080|8081|8082|7070|7071)\b", yaml.safe_dump(published))


def test_nothing_leaves_the_pod(objects: Objects) -> None:
    """Except for downloads of archives."""
    policy = only(objects, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    downloads = any(container["name"] == "archives" for container in containers(pod(objects)))
    assert bool(policy["egress"]) == downloads


def test_server_starts_before_the_gateway_and_ends_after_it(objects: Objects) -> None:
    """A sidecar with a startup probe; a pod has the time for what it waits for at its end."""
    spec = pod(objects)
    server = spec["initContainers"][-1]
    (gateway,) = spec["containers"]
    assert (server["name"], server["restartPolicy"], gateway["name"]) == ("server", "Always", "gateway")
    # The gateway finds the server as on a host: by its process, its keys and its temporary folder.
    assert spec["shareProcessNamespace"] is True
    shared = [{(mount["mountPath"], mount["name"]) for mount in one["volumeMounts"]} for one in (server, gateway)]
    assert {path for path, _ in shared[0] & shared[1]} == {"/run/prelim", "/tmp"}  # noqa: S108 - of the container
    folders = [variable for one in (server, gateway) for variable in one["env"] if variable["name"] == "PRELIM_FOLDER"]
    assert folders == 2 * [{"name": "PRELIM_FOLDER", "value": "/run/prelim/server"}]
    assert "startupProbe" in server
    probe = gateway["readinessProbe"]["httpGet"]
    assert (probe["path"], probe["scheme"]) == ("/ready", "HTTPS")
    *_, pause = gateway["lifecycle"]["preStop"]["exec"]["command"]
    *_, drain = gateway["args"]
    assert spec["terminationGracePeriodSeconds"] > int(pause) + int(drain)


def test_each_pod_has_an_audit_log_of_its_own(everything: Objects) -> None:
    """In a folder of the claim that has its name, with the key of the secret; the server makes the folder itself."""
    spec = pod(everything)
    server = spec["initContainers"][-1]
    variables = {variable["name"]: variable.get("value") for variable in server["env"]}
    mounts = {mount["name"]: mount for mount in server["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert variables[AUDIT] == f"{mounts['audit']['mountPath']}/$(POD_NAME)"
    assert variables[AUDIT_KEY] == f"{mounts['audit-key']['mountPath']}/audit.key"
    assert list(variables).index("POD_NAME") < list(variables).index(AUDIT), "Kubernetes knows names from above only"
    assert "readOnly" not in mounts["audit"]
    assert volumes["audit"]["persistentVolumeClaim"] == {"claimName": "audit"}
    assert volumes["audit-key"]["secret"] == {"secretName": "audit-key", "defaultMode": 0o440}


def test_gateway_accepts_its_settings(objects: Objects, tmp_path: Path) -> None:
    """They are those that the gateway's own code reads, and every host name of the route is among its names."""
    data = only(objects, "ConfigMap")["data"]
    for name in ("prelim-tls/tls.crt", "prelim-tls/tls.key", "prelim-keys/keys", "prelim/metrics.conf"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    (tmp_path / "gateway.yaml").write_text(data["gateway.yaml"].replace("/etc/", f"{tmp_path}/"))
    settings = Settings.read(tmp_path / "gateway.yaml")
    assert settings.tls is not None
    assert settings.keys is not None
    assert bool(settings.routes) == ("metrics.conf" in data)
    for thing in objects:
        hosts = thing["spec"].get("hostnames", ()) if thing["kind"] == "HTTPRoute" else ()
        if thing["kind"] == "Ingress":
            hosts = [rule["host"] for rule in thing["spec"]["rules"]]
        assert set(hosts) <= set(settings.names)
    mounted = {mount["mountPath"] for mount in pod(objects)["containers"][0]["volumeMounts"]}
    assert {"/etc/prelim", "/etc/prelim-tls", "/etc/prelim-keys"} <= mounted


def test_gateway_accepts_its_options(everything: Objects) -> None:
    """Its command line is that of the code: nothing is missing but the settings, which are on no other machine."""
    (gateway,) = pod(everything)["containers"]
    program, *command = gateway["command"]
    assert program == "python"
    done = subprocess.run([sys.executable, *command, *gateway["args"]], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (1, b"/etc/prelim/gateway.yaml cannot be read: FileNotFoundError\n")


def test_metrics_need_a_key(everything: Objects, tmp_path: Path) -> None:
    """Prometheus reads TorchServe's metrics by the pod's address; without a key there are none."""
    recorder = Recorder()
    route = tmp_path / "metrics.conf"
    route.write_text(
        only(everything, "ConfigMap")["data"]["metrics.conf"].replace("127.0.0.1:8082", f"127.0.0.1:{recorder.port}")
    )
    with (site := open_site(tmp_path, recorder, routes=(route,))).nginx:
        assert site.ask("GET", "/metrics", Host="10.0.0.7:8088")[0] == 200
        assert [one.target for one in recorder.seen] == ["GET /metrics"]
        assert site.ask("GET", "/metrics", Authorization="Bearer x")[0] == 401
        assert site.ask("POST", "/metrics", b"x")[0] == 405
    assert len(recorder.seen) == 1
    recorder.close()


def test_pods_are_scaled_by_what_their_end_waits_for() -> None:
    """By the gateway's open requests alone, under the name that the adapter gives them; by CPU only if asked for."""
    more = ("--set", "autoscaling.enabled=true", "--set", "autoscaling.openRequests=2.3")
    claim = CHART / "ci" / "claim.yaml"
    (metric,) = only(template(HELMS[-1], claim, *more), "HorizontalPodAutoscaler")["spec"]["metrics"]
    (rule,) = yaml.safe_load((ROOT / "deploy" / "prometheus" / "adapter.yaml").read_text())["rules"]["custom"]
    name = metric["pods"]["metric"]["name"]
    assert name in HELP
    assert (rule["name"]["as"], rule["seriesQuery"].partition("{")[0]) == (name, name)
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "2300m"}
    both = only(template(HELMS[-1], claim, *more, "--set", "autoscaling.cpu=70"), "HorizontalPodAutoscaler")
    assert [one["type"] for one in both["spec"]["metrics"]] == ["Pods", "ContainerResource"]


@dataclasses.dataclass(frozen=True)
class Size:
    """A request of processors, and the threads that a worker then has."""

    cpu: str
    threads: str


@pytest.mark.parametrize("size", [Size("2", "2"), Size("3500m", "3"), Size("500m", "1"), Size("1.5", "1")])
def test_threads_follow_the_request(size: Size) -> None:
    """A worker has as many as whole processors were requested, and at least one."""
    more = ("--set-string", f"server.resources.requests.cpu={size.cpu}")
    server = pod(template(HELMS[-1], CHART / "ci" / "claim.yaml", *more))["initContainers"][-1]
    assert {"name": "OMP_NUM_THREADS", "value": size.threads} in server["env"]


# --- planted errors ---------------------------------------------------------------------------------------------------

WRONG_CHARTS: dict[str, tuple[str, str, str]] = {
    "version that is not one": ("Chart.yaml", "version: ", "version: two # "),
    "template that does not close": ("templates/service.yaml", "{{- end }}", ""),
    "unknown function": ("templates/service.yaml", "{{ include", "{{ inklude"),
    "broken YAML": ("templates/service.yaml", "  type: {{", " type: {{"),
}


@pytest.mark.parametrize("version", HELMS)
@pytest.mark.parametrize("change", WRONG_CHARTS.values(), ids=WRONG_CHARTS)
def test_lint_finds_a_wrong_chart(version: str, change: tuple[str, str, str], tmp_path: Path) -> None:
    """A chart that cannot be used does not pass `helm lint --strict`."""
    chart = tmp_path / "prelim"
    shutil.copytree(CHART, chart)
    name, before, after = change
    text = (chart / name).read_text(encoding="utf-8")
    assert before in text
    (chart / name).write_text(text.replace(before, after, 1), encoding="utf-8")
    done = run_helm(version, "lint", "--strict", str(chart), "--values", str(CHART / "ci" / "claim.yaml"))
    assert done.returncode != 0


def _misspell(objects: Objects) -> None:
    gateway = pod(objects)["containers"][0]
    gateway["readynessProbe"] = gateway.pop("readinessProbe")


def _misspell_inside(objects: Objects) -> None:
    pod(objects)["initContainers"][-1]["securityContext"]["readOnlyRootFileSystem"] = True


WRONG_OBJECTS: dict[str, Callable[[Objects], Any]] = {
    "Deployment: unknown probe": _misspell,
    "Deployment: unknown security setting": _misspell_inside,
    "Deployment: replicas as text": lambda o: only(o, "Deployment")["spec"].update(replicas="two"),
    "Deployment: no selector": lambda o: only(o, "Deployment")["spec"].pop("selector"),
    "Service: port as text": lambda o: only(o, "Service")["spec"]["ports"][0].update(port="https"),
    "NetworkPolicy: unknown peer": lambda o: only(o, "NetworkPolicy")["spec"]["ingress"][0].update(fro=[]),
    "HorizontalPodAutoscaler: no maximum": lambda o: only(o, "HorizontalPodAutoscaler")["spec"].pop("maxReplicas"),
    "PodDisruptionBudget: unknown field": lambda o: only(o, "PodDisruptionBudget")["spec"].update(maxUnavailble=1),
    "ConfigMap: number as data": lambda o: only(o, "ConfigMap")["data"].update(number=1),
    "HTTPRoute: unknown field": lambda o: only(o, "HTTPRoute")["spec"].update(hosts=[]),
    "HTTPRoute: no time": lambda o: only(o, "HTTPRoute")["spec"]["rules"][0]["timeouts"].update(request="long"),
    "BackendTLSPolicy: no CA": lambda o: only(o, "BackendTLSPolicy")["spec"]["validation"].pop("caCertificateRefs"),
    "ServiceMonitor: unknown field": lambda o: only(o, "ServiceMonitor")["spec"]["endpoints"][0].update(ports="x"),
}


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("planted", WRONG_OBJECTS)
def test_planted_error_is_found(version: str, planted: str, everything: Objects) -> None:
    """One error in one object of a valid chart: exactly this kind is reported."""
    WRONG_OBJECTS[planted](everything)
    found = faults(everything, version)
    assert found
    assert all(fault.startswith(planted.partition(":")[0]) for fault in found)
