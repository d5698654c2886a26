"""Where tritonserver can run, what it is started with, and that it leaves nothing behind. A trivial model stands for ours."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

import runtime
from runtime.errors import UnavailableError
from runtime.serving.installation import unavailable_reason
from runtime.serving.tritonserver import TritonProcess

needs_tritonserver = pytest.mark.skipif(unavailable_reason() is not None, reason=str(unavailable_reason()))

MODEL = """
import os, sys
import triton_python_backend_utils as pb_utils
import numpy, runtime
print("PREFIX", sys.base_prefix, "NUMPY", numpy.__file__, "RUNTIME", runtime.__file__, flush=True)
class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", numpy.array([r.parameters()], object))]) for r in requests]
"""
CONFIG = """
backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: 1 }
output { name: "y" data_type: TYPE_STRING dims: 1 }
instance_group { count: 1 kind: KIND_CPU }
"""


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
        assert len(_processes(prefix)) == 3  # tritonserver, one stub, and the lifeline
        assert InferenceServerClient(process.url).is_model_ready("trivial")
        assert _parameters_seen(
            process.url, {"traceparent": "00-1-2-01", "x-tenant": "a", "x-tenants": "b", "cookie": "c"}
        ) == {
            "traceparent": "00-1-2-01",
            "x-tenant": "a",
        }
    log = (tmp_path / "log").read_text()
    assert f"PREFIX {sys.base_prefix} NUMPY {numpy.__file__} RUNTIME {runtime.__file__}" in log
    assert not list(Path("/dev/shm").glob(prefix + "*"))
    assert not _processes(prefix)
    process.close()  # a second time changes nothing


@needs_tritonserver
def test_a_dead_stub_is_named_and_what_it_started_is_not_watched(repository, tmp_path):
    model = repository / "trivial" / "1" / "model.py"
    model.write_text("import subprocess\nchild = subprocess.Popen(['sleep', '600'])\n" + model.read_text())
    with TritonProcess(repository, tmp_path, tmp_path / "log") as process:
        _wait_for(process)
        process.watch_stubs()
        (stub,) = (path for path in _processes(process.shared_memory_prefix) if "/1/model.py" in path.read_text())
        (child,) = map(int, (stub.parent / "task" / stub.parent.name / "children").read_text().split())
        os.kill(child, signal.SIGKILL)
        time.sleep(0.2)
        assert process.problem() is None
        os.kill(int(stub.parent.name), signal.SIGKILL)
        _wait_until(process.problem)
        with pytest.raises(UnavailableError, match="the process of model trivial died; the log says:"):
            process.check()
        process.kill()
        assert not _processes(process.shared_memory_prefix)


@needs_tritonserver
def test_nothing_survives_a_killed_owner_for_long(repository, tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from runtime.serving.tritonserver import TritonProcess\n"
        "repository, folder = map(Path, sys.argv[1:])\n"
        "process = TritonProcess(repository, folder, folder / 'log')\n"
        "while not process.is_listening(): process.check(); time.sleep(0.05)\n"
        "print(process.shared_memory_prefix, flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(repository), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        prefix = owner.stdout.readline().strip()
        assert len(_processes(prefix)) == 3
        owner.kill()
    _wait_until(lambda: not _processes(prefix) and not list(Path("/dev/shm").glob(prefix + "*")))


@needs_tritonserver
def test_shared_memory_of_a_dead_owner_is_removed_and_that_of_a_living_one_is_not(repository, tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    odd = (
        tmp_path / "x) R 1 2 (yyyyü"
    )  # a name like the fields after it, cut by the kernel after 15 bytes, inside a letter
    odd.symlink_to(shutil.which("sleep"))
    other, mine = subprocess.Popen([odd, "600"]), os.getpid()
    stale = [_region(ended.pid, 1), _region(mine, _start_of(mine) - 1), _region(mine, _start_of(mine) + 1)]
    living = [_region(mine, _start_of(mine)), _region(other.pid, _start_of(other.pid))]
    strange = [Path("/dev/shm", f"clipfacefusion_{mine}_12345678_region"), Path("/dev/shm/clipfacefusion_test_region")]
    for region in (*stale, *living, *strange):
        region.write_bytes(b"region")
    try:
        with TritonProcess(repository, tmp_path, tmp_path / "log") as process:
            assert process.shared_memory_prefix.startswith(f"clipfacefusion_{mine}_{_start_of(mine)}_")
            assert not any(region.exists() for region in stale)
            assert all(region.exists() for region in (*living, *strange))
    finally:
        other.kill()
        other.wait()
        for region in (*stale, *living, *strange):
            region.unlink(missing_ok=True)


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


def _wait_until(is_true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _parameters_seen(url: str, headers: dict[str, str]) -> dict[str, str]:
    """What the trivial model finds in a request with these headers."""
    value = InferInput("x", [1], "FP32")
    value.set_data_from_numpy(numpy.zeros(1, numpy.float32))
    answer = InferenceServerClient(url).infer("trivial", [value], headers=headers)
    return json.loads(answer.as_numpy("y")[0])


def _region(pid: int, start: int) -> Path:
    """Where a server of that process would keep a region."""
    return Path("/dev/shm", f"clipfacefusion_{pid}_{start}_{secrets.token_hex(4)}_region")


def _start_of(pid: int) -> int:
    """The 22nd field of proc(5)'s stat; the second is a name in parentheses that may hold any bytes."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[22 - 3])


def _processes(prefix: str) -> list[Path]:
    """The processes on whose command line the server's shared memory prefix stands: tritonserver and its stubs."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if prefix.encode() in command.read_bytes():
                found.append(command)
    return found
