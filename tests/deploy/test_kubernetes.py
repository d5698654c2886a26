"""The Kubernetes manifests, held against the server's flags, probes and times. No cluster runs here."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.serving.supervisor import ServeSettings, add_arguments
from runtime.serving.tritonserver import EXIT_TIMEOUT_S, KILL_MARGIN_S

ROOT = Path(__file__).parents[2]
MANIFESTS = {each["kind"]: each for each in yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())}
KUSTOMIZATION = yaml.safe_load((ROOT / "deploy" / "kustomization.yaml").read_text())
POD = MANIFESTS["Deployment"]["spec"]["template"]
SERVER = POD["spec"]["containers"][0]
GATEWAY = POD["spec"]["initContainers"][0]
CONTAINERS = pytest.mark.parametrize("container", [SERVER, GATEWAY], ids=lambda each: each["name"])


@pytest.fixture
def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["/bundle", *SERVER["args"]])


def port(container: dict[str, Any], name: str) -> int:
    return next(each["containerPort"] for each in container["ports"] if each["name"] == name)


@pytest.mark.parametrize(
    ("probe", "path"), [("startupProbe", "/ready"), ("readinessProbe", "/ready"), ("livenessProbe", "/live")]
)
def test_the_kubelet_asks_the_supervisor_which_listens_for_it(flags, probe, path):
    asked = SERVER[probe]["httpGet"]
    assert (asked["path"], port(SERVER, asked["port"])) == (path, flags.health_port)
    assert flags.health_host == "0.0.0.0"


def test_grpc_and_metrics_stay_on_loopback_behind_the_gateway(flags):
    assert flags.host == ServeSettings(Path()).host == "127.0.0.1"
    assert {each["name"] for each in SERVER["ports"]} == {"health"}
    assert {each["name"]: each["containerPort"] for each in GATEWAY["ports"]} == {"grpc": 8443, "metrics": 9102}


def test_the_gateway_starts_before_the_server_and_ends_after_it():
    assert GATEWAY["restartPolicy"] == "Always", "an init container that restarts is a sidecar"


def test_a_pod_may_take_all_the_time_that_its_drain_takes(flags):
    told_off_s = int(SERVER["lifecycle"]["preStop"]["exec"]["command"][1])
    needed_s = told_off_s + flags.drain_seconds + EXIT_TIMEOUT_S + KILL_MARGIN_S
    assert POD["spec"]["terminationGracePeriodSeconds"] > needed_s


def test_ready_is_given_up_sooner_than_requests_are_refused():
    probe = SERVER["readinessProbe"]
    until_unready_s = probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
    assert until_unready_s < int(SERVER["lifecycle"]["preStop"]["exec"]["command"][1])


def test_a_rollout_never_has_fewer_replicas_than_asked():
    assert MANIFESTS["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


@CONTAINERS
def test_a_container_may_do_as_little_as_it_needs(container):
    rights = container["securityContext"]
    assert rights["allowPrivilegeEscalation"] is False and rights["readOnlyRootFilesystem"] is True
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert "memory" in container["resources"]["limits"]
    pod = POD["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False


@CONTAINERS
def test_what_is_mounted_exists(container):
    volumes = {volume["name"] for volume in POD["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_the_server_may_write_where_it_must():
    assert {mount["mountPath"] for mount in SERVER["volumeMounts"] if not mount.get("readOnly")} == {"/tmp", "/dev/shm"}


def test_shared_memory_is_one_servers_alone():
    """A server takes regions of processes that it cannot see for those of a killed one."""
    containers = [*POD["spec"]["initContainers"], *POD["spec"]["containers"]]
    users = [each["name"] for each in containers if "shm" in {mount["name"] for mount in each["volumeMounts"]}]
    assert users == ["server"] and "hostIPC" not in POD["spec"]


def test_the_gateway_reads_the_generated_configuration_and_the_files_that_it_names():
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    volumes = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    folders = {mount["mountPath"]: volumes[mount["name"]] for mount in GATEWAY["volumeMounts"]}
    assert folders["/etc/envoy"]["configMap"]["name"] == generated["name"]
    assert GATEWAY["args"][1] == f"/etc/envoy/{generated['files'][0]}"
    config = (ROOT / "deploy" / generated["files"][0]).read_text()
    for folder in ("/etc/faces/tls", "/etc/faces/auth"):
        assert folder in folders and f"filename: {folder}/" in config


def test_the_kustomization_names_files_that_exist():
    files = [*KUSTOMIZATION["resources"], *KUSTOMIZATION["configMapGenerator"][0]["files"]]
    assert all((ROOT / "deploy" / name).is_file() for name in files)


def test_everything_selects_these_pods():
    labels = POD["metadata"]["labels"]
    assert MANIFESTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["Service"]["spec"]["selector"] == labels
    assert MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels


def test_the_network_lets_callers_in_to_the_gateway_and_nothing_out():
    policy = MANIFESTS["NetworkPolicy"]["spec"]
    opened = {entry["port"]: "from" in rule for rule in policy["ingress"] for entry in rule["ports"]}
    assert opened == {8443: False, 9102: True}, "metrics are for the namespace of Prometheus only"
    assert policy["egress"] == [] and set(policy["policyTypes"]) == {"Ingress", "Egress"}
    (served,) = MANIFESTS["Service"]["spec"]["ports"]
    assert (served["port"], port(GATEWAY, served["targetPort"])) == (8443, 8443)


def test_prometheus_is_sent_to_the_gateway():
    notes = POD["metadata"]["annotations"]
    assert (int(notes["prometheus.io/port"]), notes["prometheus.io/path"]) == (port(GATEWAY, "metrics"), "/metrics")


def test_the_image_is_of_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SERVER["image"] == f"faces:{project['version']}"
