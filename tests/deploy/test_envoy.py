"""The gateway's configuration: parsed by Envoy's own message types, and held against what the server does. No Envoy runs here."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from tritonclient.grpc import service_pb2

from runtime.request import FIELDS
from runtime.serving.supervisor import ServeSettings
from runtime.wire import TENANT

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "envoy.yaml").read_text())
SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
OPEN = {"ModelInfer", "ModelStreamInfer", "ServerLive", "ServerReady", "ModelReady"}


def typed(node: Any, message: str) -> Iterator[dict]:
    """Every part of the configuration that is such a message, by the last part of its type's name."""
    if isinstance(node, dict):
        if str(node.get("@type", "")).endswith("." + message):
            yield node
        for value in node.values():
            yield from typed(value, message)
    elif isinstance(node, list):
        for value in node:
            yield from typed(value, message)


def types(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["@type"].rpartition("/")[2]} if "@type" in node else set()
        return own.union(*map(types, node.values()))
    return set().union(*map(types, node)) if isinstance(node, list) else set()


def listener(name: str) -> dict:
    return next(each for each in CONFIG["static_resources"]["listeners"] if each["name"] == name)


def http(name: str) -> dict:
    """The HTTP side of a listener."""
    return next(typed(listener(name), "HttpConnectionManager"))


def virtual_host(name: str) -> dict:
    (host,) = http(name)["route_config"]["virtual_hosts"]
    return host


def route(path: str, **headers: str) -> dict:
    """The first route that takes a request, as Envoy chooses."""

    def takes(match: dict) -> bool:
        told = "safe_regex" in match and re.fullmatch(match["safe_regex"]["regex"], path) is not None
        told = told or match.get("path") == path or ("prefix" in match and path.startswith(match["prefix"]))
        wanted = match.get("headers", [])
        return told and all(
            re.fullmatch(each["string_match"]["safe_regex"]["regex"], headers.get(each["name"], "")) for each in wanted
        )

    return next(each for each in virtual_host("faces")["routes"] if takes(each["match"]))


def test_envoy_s_own_message_types_accept_every_name_and_value():
    bootstrap = pytest.importorskip("envoy.config.bootstrap.v3.bootstrap_pb2", reason="needs xds-protos, extra dev")
    for name in types(CONFIG):  # a message can only be read once its module is imported
        package = importlib.import_module(name.rpartition(".")[0])
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            if module.name.endswith("_pb2"):
                importlib.import_module(module.name)
    assert json_format.ParseDict(CONFIG, bootstrap.Bootstrap()).static_resources.clusters
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict({**CONFIG, "no_such_field": 1}, bootstrap.Bootstrap())


def test_it_asks_the_server_at_its_default_addresses():
    default = ServeSettings(Path())
    asked = {
        cluster["name"]: endpoint["endpoint"]["address"]["socket_address"]
        for cluster in CONFIG["static_resources"]["clusters"]
        for locality in cluster["load_assignment"]["endpoints"]
        for endpoint in locality["lb_endpoints"]
    }
    assert asked == {
        "server": {"address": default.host, "port_value": default.grpc_port},
        "metrics": {"address": default.host, "port_value": default.metrics_port},
    }


@pytest.mark.parametrize("method", [method.name for method in SERVICE.methods])
def test_of_triton_s_methods_only_inference_and_health_reach_the_server(method):
    chosen = route(f"/{SERVICE.full_name}/{method}")
    if method in OPEN:
        assert chosen["route"]["cluster"] == "server"
    else:
        assert chosen["direct_response"] == {"status": 404}


@pytest.mark.parametrize("path", ["/", "/v2/models", "/inference.GRPCInferenceService/ModelInferX", "/metrics"])
def test_any_other_path_is_unknown(path):
    assert route(path)["direct_response"] == {"status": 404}


@pytest.mark.parametrize(
    ("encoding", "refused"), [("gzip", True), ("deflate", True), ("zstd", True), ("identity", False)]
)
def test_compressed_messages_are_refused_on_every_path(encoding, refused):
    chosen = route(f"/{SERVICE.full_name}/ModelInfer", **{"grpc-encoding": encoding})
    assert (chosen.get("direct_response") == {"status": 415}) is refused


def test_only_tls_and_only_http_2_outside():
    (tls,) = typed(listener("faces"), "DownstreamTlsContext")
    assert tls["common_tls_context"]["tls_params"]["tls_minimum_protocol_version"] in ("TLSv1_2", "TLSv1_3")
    assert tls["common_tls_context"]["alpn_protocols"] == ["h2"]
    assert http("faces")["codec_type"] == "HTTP2"


def test_nobody_gets_past_without_a_token_and_the_tenant_is_the_token_s():
    outside = http("faces")
    filters = [each["name"].rpartition(".")[2] for each in outside["http_filters"]]
    assert filters == ["jwt_authn", "local_ratelimit", "buffer", "router"]
    jwt = outside["http_filters"][0]["typed_config"]
    (provider,) = jwt["providers"].values()
    assert [(rule["match"], set(rule["requires"])) for rule in jwt["rules"]] == [({"prefix": "/"}, {"provider_name"})]
    assert provider["require_expiration"] and provider["audiences"]
    assert provider["claim_to_headers"] == [{"header_name": TENANT, "claim_name": "tenant"}]
    (dropped,) = typed(outside["early_header_mutation_extensions"], "HeaderMutation")
    assert dropped["mutations"] == [{"remove": TENANT}]


def test_the_size_limit_takes_every_request_that_the_server_would_and_little_more():
    (limit,) = typed(http("faces")["http_filters"], "Buffer")
    largest = sum(row.high for row in FIELDS if row.is_file)
    assert largest < limit["max_request_bytes"] == 32 * 2**20 < 1.1 * largest


def test_a_stream_is_not_held_back_until_its_end_which_comes_last():
    unary, stream = (route(f"/{SERVICE.full_name}/{method}") for method in ("ModelInfer", "ModelStreamInfer"))
    assert "typed_per_filter_config" not in unary
    assert stream["typed_per_filter_config"]["envoy.filters.http.buffer"]["disabled"] is True
    assert stream["route"]["timeout"] == "0s"


def test_every_tenant_has_a_quota_of_its_own_and_strangers_share_one():
    host = virtual_host("faces")
    (action,) = host["rate_limits"][0]["actions"]
    assert action["request_headers"] == {"header_name": TENANT, "descriptor_key": "tenant"}
    quota = host["typed_per_filter_config"]["envoy.filters.http.local_ratelimit"]
    assert quota["filter_enabled"] == quota["filter_enforced"] == {"default_value": {"numerator": 100}}
    assert quota["rate_limited_as_resource_exhausted"]
    named = [descriptor["token_bucket"] for descriptor in quota["descriptors"]]
    assert all(bucket["max_tokens"] > quota["token_bucket"]["max_tokens"] for bucket in named)
    # Envoy wants each interval to be a multiple of the shared one.
    assert {bucket["fill_interval"] for bucket in named} == {quota["token_bucket"]["fill_interval"]}


def test_the_administration_is_on_loopback_and_metrics_give_metrics_only():
    assert CONFIG["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    assert [each["match"] for each in virtual_host("metrics")["routes"]] == [{"path": "/metrics"}]
