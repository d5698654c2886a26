"""Numbers on the pages about deployment and security are those of the code and of the manifests."""

from __future__ import annotations

from pathlib import Path

import yaml

from runtime.request import FIELDS
from runtime.serving.supervisor import ServeSettings
from runtime.serving.tritonserver import EXIT_TIMEOUT_S, RESTRICTED_PROTOCOLS
from runtime.wire import MAX_LIVE_REQUESTS, MAX_UNSEEN

ROOT = Path(__file__).parents[2]
SECURITY, DEPLOYMENT = (
    " ".join((ROOT / "docs" / f"{name}.md").read_text().split()) for name in ("security", "deployment")
)
SERVER = next(yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text()))["spec"]["template"]["spec"][
    "containers"
][0]


def test_the_security_page_knows_the_limits():
    assert f"at most {MAX_LIVE_REQUESTS} requests are worked on" in SECURITY
    assert f"and {MAX_UNSEEN} more wait to be looked at" in SECURITY
    largest = [row.high for row in FIELDS if row.is_file]
    assert len(largest) == 3 and set(largest) == {10 * 2**20}
    assert "two files and a mask of 10 MiB each" in SECURITY


def test_the_security_page_knows_the_ports():
    default = ServeSettings(Path())
    for port, kind in ((default.grpc_port, "gRPC"), (default.metrics_port, "HTTP"), (default.health_port, "HTTP")):
        assert f"| {port} {kind} |" in SECURITY


def test_the_security_page_names_every_restricted_group():
    words = {
        "shared-memory": "shared memory",
        "model-repository": "repository",
        "model-config": "configuration",
        "logging": "log",
    }
    for group in RESTRICTED_PROTOCOLS.split(","):
        assert words.get(group, group) in SECURITY


def test_the_deployment_page_knows_the_times_of_a_stop():
    asleep, drain = SERVER["lifecycle"]["preStop"]["exec"]["command"][1], SERVER["args"][-1]
    assert f"SIGTERM comes {asleep} s after" in DEPLOYMENT
    assert f"have {drain} s to end" in DEPLOYMENT and f"then tritonserver has {EXIT_TIMEOUT_S} s" in DEPLOYMENT
