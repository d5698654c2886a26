"""The HTTP answers of /live and /ready, and that nothing else is answered."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket

import pytest

from runtime.errors import UnavailableError
from runtime.serving.probes import Probes


@pytest.fixture
def state():
    return {"/live": (True, {"live": True}), "/ready": (False, {"ready": False, "reason": "starting"})}


@pytest.fixture
def probes(state):
    with Probes("127.0.0.1", 0, {path: lambda path=path: state[path] for path in state}) as probes:
        yield probes


def _ask(probes: Probes, path: str, method: str = "GET"):
    connection = http.client.HTTPConnection(probes.url.removeprefix("http://"), timeout=20)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def test_yes_is_200_and_no_is_503_and_both_say_why_in_json(probes, state):
    assert _ask(probes, "/live")[0] == 200
    status, headers, body = _ask(probes, "/ready")
    assert (status, headers["Content-Type"]) == (503, "application/json")
    assert json.loads(body) == {"ready": False, "reason": "starting"}
    state["/ready"] = (True, {"ready": True, "reason": ""})
    assert _ask(probes, "/ready")[0] == 200


@pytest.mark.parametrize("path", ["/", "/live/", "/ready?x", "/metrics", "/../etc/passwd", "*"])
def test_other_paths_are_not_found_and_name_the_known_ones(probes, path):
    status, _, body = _ask(probes, path)
    assert status == 404
    assert json.loads(body) == {"error": "unknown path; known are /live, /ready"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(probes, method):
    assert _ask(probes, "/live", method)[0] == 501


def test_answers_do_not_tell_which_python_gives_them(probes):
    assert _ask(probes, "/live")[1]["Server"] == "clipfacefusion"


def test_probers_that_say_nothing_do_not_keep_others_waiting(probes):
    host, port = probes.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as silent:
        for _ in range(10):  # one after the other they would take ten times READ_LIMIT_S
            silent.enter_context(socket.create_connection((host, int(port))))
        assert _ask(probes, "/live")[0] == 200


def test_a_taken_port_is_named(probes):
    port = int(probes.url.rpartition(":")[2])
    with pytest.raises(UnavailableError, match=rf"port {port} of 127.0.0.1: .*; choose another, or 0"):
        Probes("127.0.0.1", port, {})
