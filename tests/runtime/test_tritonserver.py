"""Where tritonserver can run, what it is started with, and that it leaves nothing behind. A trivial model stands for ours."""

from __future__ import annotations

import collections
import contextlib
import platform
import socket
import sys
import time
from pathlib import Path

import numpy
import pytest
from tritonclient.grpc import InferenceServerClient

import runtime
from runtime import tritonserver
from runtime.errors import UnavailableError
from runtime.tritonserver import TritonProcess, unavailable_reason

needs_tritonserver = pytest.mark.skipif(unavailable_reason() is not None, reason=str(unavailable_reason()))

VersionInfo = collections.namedtuple("VersionInfo", "major minor micro releaselevel serial")

MODEL = """
import os, sys
import triton_python_backend_utils as pb_utils
import numpy, runtime
print("PREFIX", sys.base_prefix, "NUMPY", numpy.__file__, "RUNTIME", runtime.__file__, flush=True)
class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([]) for _ in requests]
"""
CONFIG = """
backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: 1 }
output { name: "y" data_type: TYPE_FP32 dims: 1 }
instance_group { count: 1 kind: KIND_CPU }
"""


def test_another_system_is_named(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert "needs Linux, this is Darwin" in unavailable_reason()


def test_another_processor_is_named(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert "this is aarch64" in unavailable_reason()


@pytest.mark.parametrize(("libc", "shown"), [("glibc 2.31", "this system has glibc 2.31"), (None, "no glibc")])
def test_an_older_or_missing_glibc_is_named(monkeypatch, libc, shown):
    monkeypatch.setattr("os.confstr", lambda name: libc)
    assert shown in unavailable_reason()


def test_a_python_without_a_stub_is_named(monkeypatch):
    monkeypatch.setattr(sys, "version_info", VersionInfo(3, 13, 1, "final", 0))
    assert "needs Python 3.11 or 3.12, this is 3.13" in unavailable_reason()


def test_a_missing_wheel_tells_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(tritonserver, "_wheel", lambda: None)
    assert 'pip install "clipfacefusion[serve]"' in unavailable_reason()
    with pytest.raises(UnavailableError, match="pip install"):
        tritonserver.find()


def test_an_interpreter_without_a_shared_libpython_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(tritonserver, "_libpython", lambda: None)
    assert "libpython3." in unavailable_reason()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    version = tmp_path / "repository" / "trivial" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    return tmp_path / "repository"


@needs_tritonserver
def test_a_process_uses_this_interpreters_packages_and_leaves_nothing_behind(repository, tmp_path):
    with TritonProcess(repository, tmp_path, tmp_path / "log") as process:
        _wait_for(process)
        prefix = process.shared_memory_prefix
        assert list(Path("/dev/shm").glob(prefix + "*"))
        assert len(_processes(prefix)) == 2
        assert InferenceServerClient(process.url).is_model_ready("trivial")
    log = (tmp_path / "log").read_text()
    assert f"PREFIX {sys.base_prefix} NUMPY {numpy.__file__} RUNTIME {runtime.__file__}" in log
    assert not list(Path("/dev/shm").glob(prefix + "*"))
    assert not _processes(prefix)
    process.close()  # a second time changes nothing


@needs_tritonserver
def test_a_process_that_ends_by_itself_shows_why(repository, tmp_path):
    (repository / "trivial" / "1" / "model.py").write_text("raise RuntimeError('weights missing')\n")
    with (
        TritonProcess(repository, tmp_path, tmp_path / "log") as process,
        pytest.raises(UnavailableError, match=r"ended with status 1(.|\n)*weights missing"),
    ):
        _wait_for(process)


@needs_tritonserver
def test_a_taken_port_is_named_before_anything_starts(repository, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"port {port} of 127.0.0.1"):
            TritonProcess(repository, tmp_path, tmp_path / "log", grpc_port=port)


def _wait_for(process: TritonProcess) -> None:
    deadline = time.monotonic() + 60
    while not process.is_listening():
        process.check()
        assert time.monotonic() < deadline, process.log_tail()
        time.sleep(0.1)


def _processes(prefix: str) -> list[Path]:
    """The processes on whose command line the server's shared memory prefix stands: tritonserver and its stubs."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if prefix.encode() in command.read_bytes():
                found.append(command)
    return found
