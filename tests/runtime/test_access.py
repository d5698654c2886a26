"""TLS, token and tenant: their rules, and that they arrive, at a gRPC server with a certificate of the test's own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from runtime.access import Access
from runtime.client import Client
from runtime.errors import UnavailableError
from runtime.request import GenerateRequest
from runtime.retry import Retry

ONCE = Retry(tries=1)
REQUEST = GenerateRequest(age=30, seed=7)


class Model(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers with a picture of one pixel, and remembers the headers that came."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}

    def ModelInfer(self, request, context):  # noqa: N802  # the protocol's name
        self.headers = dict(context.invocation_metadata())
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        report = serialize_byte_tensor(np.array([[json.dumps({"seed": 7}).encode()]], np.object_)).item()
        for name, kind, shape, content in (
            ("image", "UINT8", (1, 1, 1, 3), b"\1\2\3"),
            ("report", "BYTES", (1, 1), report),
        ):
            answer.outputs.add(name=name, datatype=kind, shape=shape)
            answer.raw_output_contents.append(content)
        return answer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    """A certificate for localhost, signed by itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    crt, key = folder / "tls.crt", folder / "tls.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(crt)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl to make a certificate")
    return crt, key


@pytest.fixture
def encrypted(certificate) -> Iterator[SimpleNamespace]:
    """A server that speaks TLS only."""
    crt, key = certificate
    model, server = Model(), grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(model, server)
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(key.read_bytes(), crt.read_bytes())]))
    server.start()
    yield SimpleNamespace(url=f"localhost:{port}", model=model, authority=crt)
    server.stop(None)


def test_token_and_tenant_arrive_over_tls(encrypted):
    access = Access(tls=True, authority=encrypted.authority, token="t0ken", tenant="acme")
    with Client(encrypted.url, 20, ONCE, access) as client:
        assert client(REQUEST).image.tolist() == [[[1, 2, 3]]]
    assert encrypted.model.headers["authorization"] == "Bearer t0ken"
    assert encrypted.model.headers["x-tenant"] == "acme"
    assert encrypted.model.headers["traceparent"].startswith("00-")


@pytest.mark.parametrize("access", [Access(), Access(tls=True)], ids=["plain", "unknown authority"])
def test_a_server_that_cannot_prove_who_it_is_gets_nothing(encrypted, access):
    with Client(encrypted.url, 20, ONCE, access) as client, pytest.raises(UnavailableError):
        client(REQUEST)
    assert encrypted.model.headers == {}


@pytest.mark.parametrize("wrong", [{"token": "t"}, {"authority": Path(__file__)}])
def test_what_needs_tls_is_refused_without_it(wrong):
    with pytest.raises(ValueError, match="given without tls"):
        Access(**wrong)


def test_an_authority_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="PEM file"):
        Access(tls=True, authority=tmp_path / "none.pem")


@pytest.mark.parametrize("text", ["", "ünï", "a\nb", " a"])
@pytest.mark.parametrize("name", ["token", "tenant"])
def test_what_no_header_can_carry_is_refused(name, text):
    with pytest.raises(ValueError, match=f"{name} is .* printable ASCII"):
        Access(tls=True, **{name: text})


def test_a_refused_token_is_not_repeated():
    with pytest.raises(ValueError) as caught:
        Access(tls=True, token="my sécret")
    assert "cret" not in str(caught.value).replace("such text", "")


def test_nothing_is_sent_that_was_not_given():
    assert Access().headers == {}
