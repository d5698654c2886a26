"""What of the server can be reached: inference and health over gRPC, metrics on loopback, nothing else."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import urllib.request
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from runtime.client import Client
from runtime.serving.probes import Probes
from runtime.serving.tritonserver import LOOPBACK

MANAGEMENT = {
    "shared memory": lambda transport: transport.register_system_shared_memory("region", "/any", 64),
    "shared memory of the models": lambda transport: transport.register_system_shared_memory(
        "region", f"/clipfacefusion_{os.getpid()}_", 64
    ),
    "shared memory of a GPU": lambda transport: transport.register_cuda_shared_memory("region", b"aGFuZGxl", 0, 64),
    "list of shared memory": lambda transport: transport.get_system_shared_memory_status(),
    "model loading": lambda transport: transport.load_model("sampler"),
    "model unloading": lambda transport: transport.unload_model("sampler"),
    "model list": lambda transport: transport.get_model_repository_index(),
    "model configuration": lambda transport: transport.get_model_config("sampler"),
    "log settings": lambda transport: transport.update_log_settings({"log_verbose_level": 1}),
    "trace settings": lambda transport: transport.get_trace_settings(),
    "trace file": lambda transport: transport.update_trace_settings(settings={"trace_file": "/tmp/trace"}),
    "statistics": lambda transport: transport.get_inference_statistics(),
}


@pytest.mark.parametrize("call", MANAGEMENT.values(), ids=MANAGEMENT)
def test_management_calls_are_restricted(server, call):
    with (
        grpcclient.InferenceServerClient(server.url) as transport,
        pytest.raises(InferenceServerException, match="This protocol is restricted"),
    ):
        call(transport)


def test_grpc_and_metrics_are_the_only_open_ports_and_both_are_on_loopback(server):
    """Of all processes of the server: no HTTP, SageMaker or Vertex port, none of a model's."""
    ports = {int(server.url.rpartition(":")[2]), int(server.metrics_url.split(":")[2].partition("/")[0])}
    listening = _listening(f"clipfacefusion_{os.getpid()}_", f"--grpc-port={server.url.rpartition(':')[2]}")
    assert listening == {("127.0.0.1", port) for port in ports}


def test_a_supervisor_opens_one_port_more_on_loopback_too():
    with Probes(LOOPBACK, 0, {}) as probes:
        inodes = _sockets(Path("/proc/self"))
        mine = {address for inode, address in _listeners().items() if inode in inodes}
        assert (LOOPBACK, int(probes.url.rpartition(":")[2])) in mine


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


def _listening(prefix: str, server_flag: str) -> set[tuple[str, int]]:
    """Addresses at which tritonserver, found by a flag, and its stubs, found by the prefix of its shared memory, accept connections."""
    lines = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            lines[folder] = (folder / "cmdline").read_text()
    (own_prefix,) = {
        match[0]
        for line in lines.values()
        if server_flag in line and (match := re.search(rf"{prefix}[0-9a-f]+_", line))
    }
    inodes = set().union(*(_sockets(folder) for folder, line in lines.items() if own_prefix in line))
    return {address for inode, address in _listeners().items() if inode in inodes}


def _sockets(process: Path) -> set[int]:
    """Inodes of the sockets a process holds."""
    found = set()
    for link in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link)):
                found.add(int(match[1]))
    return found


def _listeners() -> dict[int, tuple[str, int]]:
    """Inode to address of all listening TCP sockets, from /proc/net/tcp and tcp6 (proc(5): state 0A is LISTEN)."""
    found = {}
    for name in ("tcp", "tcp6"):
        for row in Path("/proc/net", name).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = row.split()[:10]
            if state == "0A":
                host, _, port = local.partition(":")
                words = struct.unpack(f">{len(host) // 8}I", bytes.fromhex(host))
                family = socket.AF_INET if name == "tcp" else socket.AF_INET6
                address = socket.inet_ntop(family, struct.pack(f"<{len(words)}I", *words))
                found[int(inode)] = address.removeprefix("::ffff:"), int(port, 16)  # gRPC's, IPv4 all the same
    return found
