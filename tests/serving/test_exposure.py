"""What of the server can be reached: inference and health over gRPC, metrics on loopback, nothing else."""

from __future__ import annotations

import urllib.request

import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from runtime.client import Client

MANAGEMENT = {
    "shared memory": lambda transport: transport.register_system_shared_memory("region", "/any", 64),
    "model loading": lambda transport: transport.load_model("sampler"),
    "model list": lambda transport: transport.get_model_repository_index(),
    "model configuration": lambda transport: transport.get_model_config("sampler"),
    "log settings": lambda transport: transport.update_log_settings({"log_verbose_level": 1}),
    "trace settings": lambda transport: transport.get_trace_settings(),
    "statistics": lambda transport: transport.get_inference_statistics(),
}


@pytest.mark.parametrize("call", MANAGEMENT.values(), ids=MANAGEMENT)
def test_management_calls_are_restricted(server, call):
    with (
        grpcclient.InferenceServerClient(server.url) as transport,
        pytest.raises(InferenceServerException, match="This protocol is restricted"),
    ):
        call(transport)


def test_health_is_open(server, client):
    assert client.ready()
    with grpcclient.InferenceServerClient(server.url) as transport:
        assert transport.is_server_live() and transport.is_server_ready()


def test_a_proxy_in_the_environment_is_not_asked_about_this_machine(server, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with Client(server.url, timeout_s=20) as behind_a_proxy:
        assert behind_a_proxy.ready()


def test_metrics_count_answered_requests(server, client):
    with urllib.request.urlopen(server.metrics_url) as answer:
        text = answer.read().decode()
    assert 'nv_inference_request_success{model="clipfacefusion"' in text
