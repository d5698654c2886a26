"""The life of `python -m runtime serve`: ready means answering, SIGTERM loses nothing, and nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from runtime.client import Client
from runtime.errors import BundleError, UnavailableError
from runtime.request import GenerateRequest
from runtime.server import Server
from runtime.wire import LIVE_JOBS

# One less than can be live, so that a short request still finds its way in beside them.
LONG = [GenerateRequest(age=20 + seed, seed=seed, num_inference_steps=100) for seed in range(LIVE_JOBS - 1)]
SHORT = GenerateRequest(age=1, num_inference_steps=1)


def test_sigterm_answers_what_runs_refuses_what_comes_and_leaves_nothing(micro_bundle, pipeline):
    with _serving(micro_bundle) as (serving, url), ThreadPoolExecutor(len(LONG)) as pool:
        with Client(url, timeout_s=120) as client:
            running = [pool.submit(client, request) for request in LONG]
            client(SHORT)  # came after them, so they have all begun
            assert not any(future.done() for future in running)
            serving.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            with pytest.raises(UnavailableError):
                client(SHORT)
            results = [future.result() for future in running]
        assert serving.wait(60) == 0
    for result, expected in zip(results, pipeline.batch(LONG), strict=True):
        np.testing.assert_array_equal(result.image, expected.image)
    assert _left_behind(serving.pid) == []


def test_serving_ends_with_an_error_when_tritonserver_dies(micro_bundle):
    with _serving(micro_bundle) as (serving, url):
        (binary,) = [pid for pid in _processes_of(serving.pid) if _name(pid) == "tritonserver"]
        os.kill(binary, signal.SIGKILL)
        assert serving.wait(60) == 1
        assert "tritonserver ended with status -9" in serving.stderr.read()
        with Client(url, timeout_s=5) as client, pytest.raises(UnavailableError):
            client(SHORT)
    assert _left_behind(serving.pid) == []


def test_a_damaged_bundle_is_refused_before_anything_starts(micro_bundle, tmp_path):
    damaged = tmp_path / "bundle"
    damaged.mkdir()
    (damaged / "manifest.json").write_bytes((micro_bundle / "manifest.json").read_bytes())
    with pytest.raises(BundleError):
        Server(damaged)


@contextlib.contextmanager
def _serving(bundle: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A `serve` command that has said ready, and its address."""
    command = [sys.executable, "-m", "runtime", "serve", str(bundle), "--grpc-port", "0", "--metrics-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serving:
        try:
            line = serving.stdout.readline()
            yield serving, re.search(r"ready: gRPC (\S+),", line)[1]
        finally:
            if serving.poll() is None:
                serving.terminate()


def _left_behind(pid: int) -> list[str]:
    """Shared memory and processes of the server that process `pid` started."""
    regions = map(str, Path("/dev/shm").glob(f"clipfacefusion_{pid}_*"))
    return [*regions, *map(str, _processes_of(pid))]


def _processes_of(pid: int) -> list[int]:
    """Tritonserver and its stubs, which have the shared memory's prefix on their command lines."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if f"clipfacefusion_{pid}_".encode() in command.read_bytes():
                found.append(int(command.parent.name))
    return found


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()
